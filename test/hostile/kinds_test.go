package hostile_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"knarr.dev/knarr/appliance/apiserver/servertest"
)

// kind is one that the server serves, as discovery says.
type kind struct {
	schema.GroupVersionKind
	resource     string
	namespaced   bool
	verbs        []string
	subresources []apidiscoveryv2.APISubresourceDiscovery
}

func (k kind) String() string { return k.resource + "." + k.Version + "." + k.Group }

// path of the objects of the kind, below a namespace if they live in one.
func (k kind) path(namespace string) string {
	path := "/apis/" + k.Group + "/" + k.Version
	if k.Group == "" {
		path = "/api/" + k.Version
	}
	if k.namespaced {
		path += "/namespaces/" + namespace
	}
	return path + "/" + k.resource
}

func (k kind) stored() bool { return slices.Contains(k.verbs, "update") }

// dry kinds are only tried: what is written of them changes what is answered to the requests of all others, as it
// should, or needs a controller to go away again.
func (k kind) dry() bool {
	return k.Group == "admissionregistration.k8s.io" || k.Group == "flowcontrol.apiserver.k8s.io" ||
		k.Group == "apiextensions.k8s.io" || k.Group == "apiregistration.k8s.io" || k.resource == "namespaces"
}

// served lists every kind that can be created.
func served(t *testing.T) []kind {
	t.Helper()
	var kinds []kind
	for _, root := range []string{"/api", "/apis"} {
		var list apidiscoveryv2.APIGroupDiscoveryList
		body, err := server.clientset(t).RESTClient().Get().AbsPath(root).
			SetHeader("Accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList").DoRaw(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(body, &list); err != nil {
			t.Fatal(err)
		}
		for _, group := range list.Items {
			for _, version := range group.Versions {
				for _, r := range version.Resources {
					if slices.Contains(r.Verbs, "create") {
						kinds = append(kinds, kind{
							GroupVersionKind: schema.GroupVersionKind{Group: group.Name, Version: version.Version, Kind: r.ResponseKind.Kind},
							resource:         r.Resource, namespaced: r.Scope == apidiscoveryv2.ScopeNamespace, verbs: r.Verbs, subresources: r.Subresources,
						})
					}
				}
			}
		}
	}
	return kinds
}

// ofNode are subresources whose answers come from a node, and there is none.
var ofNode = []string{"exec", "attach", "portforward", "proxy", "log"}

// base is a valid object of the kind.
func base(t *testing.T, k schema.GroupVersionKind) map[string]any {
	t.Helper()
	if k.Group == customGroup {
		return map[string]any{"apiVersion": customGroup + "/v1", "kind": "Hostile", "metadata": map[string]any{"name": "smallest"}, "spec": map[string]any{"replicas": int64(1)}}
	}
	object, err := servertest.Smallest(k, server.ca)
	if err != nil {
		t.Fatal(err)
	}
	return object.Object
}

const customGroup = "hostile.example.com"

// custom is a definition that uses what definitions can.
const custom = `
metadata: {name: hostiles.hostile.example.com}
spec:
  group: hostile.example.com
  scope: Namespaced
  names: {plural: hostiles, singular: hostile, kind: Hostile, listKind: HostileList}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}, scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}}
    selectableFields: [{jsonPath: .spec.mode}]
    additionalPrinterColumns: [{name: Mode, type: string, jsonPath: .spec.mode}]
    schema:
      openAPIV3Schema:
        type: object
        x-kubernetes-validations: [{rule: "self.metadata.name != 'forbidden'"}]
        properties:
          spec:
            type: object
            required: [replicas]
            x-kubernetes-validations: [{rule: "!has(self.items) || self.items.all(i, i.count <= self.replicas || self.replicas < 0)"}]
            properties:
              replicas: {type: integer, format: int32, default: 1, minimum: 0}
              mode: {type: string, enum: [Fast, Slow], default: Fast}
              frozen: {type: string, maxLength: 100, x-kubernetes-validations: [{rule: "self == oldSelf"}]}
              port: {x-kubernetes-int-or-string: true}
              open: {type: object, x-kubernetes-preserve-unknown-fields: true}
              embedded: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}
              when: {type: string, format: date-time, nullable: true}
              names: {type: array, maxItems: 50, x-kubernetes-list-type: set, items: {type: string, maxLength: 60}}
              items:
                type: array
                maxItems: 50
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties: {name: {type: string, maxLength: 60, pattern: "^[a-z]+$"}, count: {type: integer, default: 0}}
              free: {type: object, additionalProperties: {type: string}}
          status: {type: object, properties: {replicas: {type: integer}, note: {type: string}}}
`

// define makes the custom kind and waits until it is served.
func define(t *testing.T, c *child) {
	t.Helper()
	client, err := apiextensionsclient.NewForConfig(c.config)
	if err != nil {
		t.Fatal(err)
	}
	definition := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict([]byte(custom), definition); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	definitions := client.ApiextensionsV1().CustomResourceDefinitions()
	if _, err := definitions.Create(ctx, definition, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) { // of a run before, elsewhere
		t.Fatal(err)
	}
	until(t, "the custom kind is served", func() error {
		groups, err := c.clientset(t).Discovery().ServerResourcesForGroupVersion(customGroup + "/v1")
		if err == nil && len(groups.APIResources) == 0 {
			err = fmt.Errorf("no resources")
		}
		if err == nil { // what is written as well
			_, err = c.clientset(t).RESTClient().Get().AbsPath("/apis/" + customGroup + "/v1/hostiles").DoRaw(ctx)
		}
		if err == nil {
			_, err = c.clientset(t).RESTClient().Get().AbsPath("/openapi/v3/apis/" + customGroup + "/v1").DoRaw(ctx)
		}
		return err
	})
}

// until waits for what a server does by and by.
func until(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, patience, err)
		}
	}
}

// room makes a namespace with an account, as pods need one.
func room(t *testing.T, c *child, name string) string {
	t.Helper()
	ctx, client := context.Background(), c.clientset(t)
	namespace := "hostile-" + strings.Trim(strings.ReplaceAll(name, ".", "-"), "-")
	if _, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().ServiceAccounts(namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	return namespace
}

// description reads the OpenAPI document of a kind's group and version.
func description(t *testing.T, k schema.GroupVersion) *document {
	t.Helper()
	path := "/openapi/v3/apis/" + k.String()
	if k.Group == "" {
		path = "/openapi/v3/api/" + k.Version
	}
	body, err := server.clientset(t).RESTClient().Get().AbsPath(path).DoRaw(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	d := &document{}
	if err := json.Unmarshal(body, d); err != nil {
		t.Fatalf("read the document of %s: %v", k, err)
	}
	d.prepare()
	return d
}
