package apiserver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"knarr.dev/knarr/appliance/apiserver"
	"knarr.dev/knarr/appliance/apiserver/servertest"
)

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestVersion(t *testing.T) {
	version, err := admin(t).Discovery().ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	if version.GitVersion != apiserver.Version || version.Major != "1" || version.Minor != "37" {
		t.Errorf("version = %+v", version)
	}
}

func TestStrangersSeeHealthAndVersionOnly(t *testing.T) {
	client, err := kubernetes.NewForConfig(server.Anonymous())
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]int{
		"/healthz": http.StatusOK, "/livez": http.StatusOK, "/readyz": http.StatusOK, "/version": http.StatusOK,
		"/api": http.StatusUnauthorized, "/api/v1/namespaces": http.StatusUnauthorized, "/metrics": http.StatusUnauthorized,
		"/openapi/v2": http.StatusUnauthorized, "/debug/pprof/": http.StatusUnauthorized,
	}
	for path, want := range tests {
		var got int
		client.RESTClient().Get().AbsPath(path).Do(within(t)).StatusCode(&got)
		if got != want {
			t.Errorf("%s answered %d, want %d", path, got, want)
		}
	}
}

func TestAWrongTokenIsRefusedEverywhere(t *testing.T) {
	config := server.Anonymous()
	config.BearerToken = "eyJhbGciOiJub25lIn0.e30."
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Namespaces().List(within(t), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("listing namespaces: %v, want Unauthorized", err)
	}
}

func TestTheLoopbackClientDoesEverything(t *testing.T) {
	client, err := kubernetes.NewForConfig(server.LoopbackConfig())
	if err != nil {
		t.Fatal(err)
	}
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(within(t), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(review.Status.UserInfo.Groups, "system:masters") {
		t.Errorf("it is %+v", review.Status.UserInfo)
	}
}

// One machine's token must not be another's: it is secret, and a fresh one each time.
func TestTheLoopbackTokenIsOfNoUseToOthers(t *testing.T) {
	other, err := apiserver.New(apiserver.Config{})
	if err == nil {
		t.Fatalf("an empty configuration was accepted: %v", other)
	}
	config := server.Anonymous()
	config.BearerToken = server.LoopbackConfig().BearerToken[1:]
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Nodes().List(within(t), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
		t.Errorf("part of the token: %v, want Unauthorized", err)
	}
}

func TestObjectsOfTheClusterItself(t *testing.T) {
	ctx, client := within(t), admin(t)
	for _, name := range []string{"default", "kube-system", "kube-public", "kube-node-lease"} {
		if _, err := client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
	}
	service, err := client.CoreV1().Services("default").Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if service.Spec.ClusterIP != "10.43.0.1" {
		t.Errorf("the kubernetes service is at %s", service.Spec.ClusterIP)
	}
	slice, err := client.DiscoveryV1().EndpointSlices("default").Get(ctx, "kubernetes", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := slice.Endpoints[0].Addresses[0]; got != "192.0.2.1" {
		t.Errorf("it leads to %s", got)
	}
	cm, err := client.CoreV1().ConfigMaps("kube-system").Get(ctx, "extension-apiserver-authentication", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if cm.Data["requestheader-username-headers"] != `["X-Remote-User"]` || !strings.Contains(cm.Data["client-ca-file"], "BEGIN CERTIFICATE") {
		t.Errorf("extension API servers would not know us: %v", cm.Data)
	}
	for _, name := range []string{"system-cluster-critical", "system-node-critical"} {
		if _, err := client.SchedulingV1().PriorityClasses().Get(ctx, name, metav1.GetOptions{}); err != nil {
			t.Error(err)
		}
	}
	if _, err := client.NetworkingV1().ServiceCIDRs().Get(ctx, "kubernetes", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := client.FlowcontrolV1().FlowSchemas().Get(ctx, "catch-all", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

func TestScale(t *testing.T) {
	ctx, client := within(t), anything(t)
	deployments := client.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}).Namespace("default")
	deployment := &unstructured.Unstructured{}
	if err := json.Unmarshal([]byte(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"scaled"},"spec":{
		"replicas":1,"selector":{"matchLabels":{"app":"scaled"}},"template":{"metadata":{"labels":{"app":"scaled"}},"spec":{"containers":[{"name":"a","image":"a"}]}}}}`), &deployment.Object); err != nil {
		t.Fatal(err)
	}
	if _, err := deployments.Create(ctx, deployment, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	scale, err := deployments.Get(ctx, "scaled", metav1.GetOptions{}, "scale")
	if err != nil {
		t.Fatal(err)
	}
	if selector, _, _ := unstructured.NestedString(scale.Object, "status", "selector"); selector != "app=scaled" {
		t.Errorf("selector = %q", selector)
	}
	if _, err := deployments.Patch(ctx, "scaled", types.MergePatchType, []byte(`{"spec":{"replicas":3}}`), metav1.PatchOptions{}, "scale"); err != nil {
		t.Fatal(err)
	}
	after, err := deployments.Get(ctx, "scaled", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if replicas, _, _ := unstructured.NestedInt64(after.Object, "spec", "replicas"); replicas != 3 || after.GetGeneration() != 2 {
		t.Errorf("after scaling: %d replicas, generation %d", replicas, after.GetGeneration())
	}
	if _, err := deployments.Update(ctx, scale, metav1.UpdateOptions{}, "scale"); !apierrors.IsConflict(err) {
		t.Errorf("a scale that was read before: %v, want Conflict", err)
	}
	if _, err := deployments.Patch(ctx, "scaled", types.MergePatchType, []byte(`{"spec":{"replicas":-1}}`), metav1.PatchOptions{}, "scale"); !apierrors.IsInvalid(err) {
		t.Errorf("fewer than no replicas: %v, want Invalid", err)
	}
}

// An object applied by two managers tells each what the other owns.
func TestServerSideApplyConflicts(t *testing.T) {
	ctx := within(t)
	maps := anything(t).Resource(corev1.SchemeGroupVersion.WithResource("configmaps")).Namespace("default")
	object := func(value string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "contested"}, "data": map[string]any{"key": value},
		}}
	}
	if _, err := maps.Apply(ctx, "contested", object("one"), metav1.ApplyOptions{FieldManager: "first"}); err != nil {
		t.Fatal(err)
	}
	_, err := maps.Apply(ctx, "contested", object("two"), metav1.ApplyOptions{FieldManager: "second"})
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `"first"`) {
		t.Errorf("a second owner: %v, want a conflict with the first", err)
	}
}

func TestUnknownFieldsAreRefusedWhenAsked(t *testing.T) {
	pod := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"unknown"},"date":{}}`
	err := admin(t).CoreV1().RESTClient().Post().Namespace("default").Resource("configmaps").
		Param("fieldValidation", "Strict").SetHeader("Content-Type", "application/json").Body([]byte(pod)).Do(within(t)).Error()
	if err == nil || !strings.Contains(err.Error(), `unknown field "date"`) {
		t.Errorf("got %v", err)
	}
}

func TestAccessReviews(t *testing.T) {
	ctx, client := within(t), admin(t)
	review, err := client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{User: "nobody", ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: "secrets"}},
	}, metav1.CreateOptions{})
	if err != nil || review.Status.Allowed {
		t.Errorf("nobody may read secrets: %+v, %v", review, err)
	}
	self, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "get", Resource: "secrets"}},
	}, metav1.CreateOptions{})
	if err != nil || !self.Status.Allowed {
		t.Errorf("the administrator may not read secrets: %+v, %v", self, err)
	}
	_, err = client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{}, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) {
		t.Errorf("a review of nothing: %v, want Invalid", err)
	}
	token, err := client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: "nonsense"}}, metav1.CreateOptions{})
	if err != nil || token.Status.Authenticated {
		t.Errorf("nonsense is a token: %+v, %v", token, err)
	}
}

func TestOpenAPI(t *testing.T) {
	var v2 struct {
		Definitions map[string]json.RawMessage
		Paths       map[string]json.RawMessage
	}
	if err := json.Unmarshal(get(t, "/openapi/v2", "application/json"), &v2); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/api/v1/namespaces/{namespace}/pods/{name}", "/apis/apps/v1/deployments", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "/apis/apiregistration.k8s.io/v1/apiservices"} {
		if v2.Paths[path] == nil {
			t.Errorf("OpenAPI v2 lacks %s", path)
		}
	}
	if v2.Definitions["io.k8s.api.core.v1.Pod"] == nil {
		t.Error("OpenAPI v2 lacks the Pod")
	}
	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	if err := json.Unmarshal(get(t, "/openapi/v3", "application/json"), &index); err != nil {
		t.Fatal(err)
	}
	for name, schema := range map[string]string{
		"api/v1": "io.k8s.api.core.v1.Pod", "apis/apps/v1": "io.k8s.api.apps.v1.Deployment", "apis/events.k8s.io/v1": "io.k8s.api.events.v1.Event",
		"apis/autoscaling/v1": "io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler", "apis/apiextensions.k8s.io/v1": "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
	} {
		url := index.Paths[name].ServerRelativeURL
		path, query, _ := strings.Cut(url, "?")
		body, err := admin(t).RESTClient().Get().AbsPath(path).Param("hash", strings.TrimPrefix(query, "hash=")).DoRaw(within(t))
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		var document struct {
			Components struct{ Schemas map[string]json.RawMessage }
		}
		if err := json.Unmarshal(body, &document); err != nil {
			t.Fatal(err)
		}
		if document.Components.Schemas[schema] == nil {
			t.Errorf("%s lacks %s", name, schema)
		}
		again, err := admin(t).RESTClient().Get().AbsPath(path).SetHeader("Accept", "application/com.github.proto-openapi.spec.v3.v1.0+protobuf").DoRaw(within(t))
		if err != nil || len(again) == 0 || bytes.HasPrefix(again, []byte("{")) {
			t.Errorf("%s as protobuf: %d bytes, %v", name, len(again), err)
		}
	}
}

func TestACustomResourceBecomesUsable(t *testing.T) {
	ctx := within(t)
	definitions, err := apiextensionsclient.NewForConfig(server.Admin())
	if err != nil {
		t.Fatal(err)
	}
	definition := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "ships.test.knarr.dev"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "test.knarr.dev", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "ships", Kind: "Ship", ShortNames: []string{"sh"}},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1", Served: true, Storage: true,
				Subresources: &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}},
				Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{
					Type: "object",
					Properties: map[string]apiextensionsv1.JSONSchemaProps{"spec": {Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{
						"sails": {Type: "integer", Minimum: new(float64(1))},
					}}},
				}},
			}},
		},
	}
	events, err := definitions.ApiextensionsV1().CustomResourceDefinitions().Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	began := time.Now()
	if _, err := definitions.ApiextensionsV1().CustomResourceDefinitions().Create(ctx, definition, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for established := false; !established; {
		event := <-events.ResultChan()
		if event.Object == nil {
			t.Fatal("the definition was never established")
		}
		for _, c := range event.Object.(*apiextensionsv1.CustomResourceDefinition).Status.Conditions {
			established = established || c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue
		}
	}
	t.Logf("established after %s", time.Since(began))

	ships := dynamicClient(t, server.LoopbackConfig()).Resource(schema.GroupVersionResource{Group: "test.knarr.dev", Version: "v1", Resource: "ships"}).Namespace("default")
	ship := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "test.knarr.dev/v1", "kind": "Ship", "metadata": map[string]any{"name": "knarr"}, "spec": map[string]any{"sails": int64(1)},
	}}
	eventually(t, "the first custom object is created", func() bool {
		_, err := ships.Create(ctx, ship, metav1.CreateOptions{})
		return err == nil || apierrors.IsAlreadyExists(err)
	})
	bad := ship.DeepCopy()
	bad.SetName("raft")
	if err := unstructured.SetNestedField(bad.Object, int64(0), "spec", "sails"); err != nil {
		t.Fatal(err)
	}
	if _, err := ships.Create(ctx, bad, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("an object against the schema: %v, want Invalid", err)
	}
	eventually(t, "discovery lists the custom kind", func() bool {
		return slices.ContainsFunc(described(t, "/apis"), func(line string) bool {
			return strings.HasPrefix(line, "test.knarr.dev/v1 ships Ship Namespaced short=sh")
		})
	})
	eventually(t, "OpenAPI v3 describes the custom kind", func() bool {
		body, err := admin(t).RESTClient().Get().AbsPath("/openapi/v3/apis/test.knarr.dev/v1").DoRaw(ctx)
		return err == nil && bytes.Contains(body, []byte("sails"))
	})
	if err := definitions.ApiextensionsV1().CustomResourceDefinitions().Delete(ctx, definition.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "discovery forgets the custom kind", func() bool {
		return !slices.ContainsFunc(described(t, "/apis"), func(line string) bool { return strings.HasPrefix(line, "test.knarr.dev") })
	})
}

func dynamicClient(t *testing.T, config *rest.Config) *dynamic.DynamicClient {
	t.Helper()
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// eventually is for what the server promises only to follow soon.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(2 * time.Minute) // far above what a busy machine takes
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("it never came about that %s", what)
		}
	}
}

func TestARestartKeepsWhatWasWritten(t *testing.T) {
	ctx, dir := within(t), t.TempDir()
	first, err := servertest.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(first.Admin())
	if err != nil {
		t.Fatal(err)
	}
	written, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}, Data: map[string]string{"a": "b"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	second, err := servertest.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Stop()
	if client, err = kubernetes.NewForConfig(second.Admin()); err != nil {
		t.Fatal(err)
	}
	read, err := client.CoreV1().ConfigMaps("default").Get(ctx, "kept", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if read.UID != written.UID || read.ResourceVersion != written.ResourceVersion || read.Data["a"] != "b" {
		t.Errorf("read %v, wrote %v", read, written)
	}
}

func TestAPortInUseIsSaid(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	second, err := servertest.OnPortOf(t.TempDir(), server)
	if err != nil {
		t.Fatal(err)
	}
	err = second.Run(ctx, func() { t.Error("it says it is ready") })
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("got %v", err)
	}
}
