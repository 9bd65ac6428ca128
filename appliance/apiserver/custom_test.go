package apiserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsclient "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

// definition is a CustomResourceDefinition of a test, and its client.
type definition struct {
	t      *testing.T
	name   string
	group  string
	plural string
}

func definitions(t *testing.T) *apiextensionsclient.Clientset {
	t.Helper()
	client, err := apiextensionsclient.NewForConfig(server.Admin())
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// parse reads YAML as kubectl would.
func parse[T any](t *testing.T, text string) *T {
	t.Helper()
	into := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return into
}

// define creates a definition and waits until its objects can be created. It goes with the test.
func define(t *testing.T, text string) *definition {
	t.Helper()
	crd := parse[apiextensionsv1.CustomResourceDefinition](t, text)
	api := definitions(t).ApiextensionsV1().CustomResourceDefinitions()
	if _, err := api.Create(within(t), crd, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Delete(context.Background(), crd.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
		eventually(t, crd.Name+" is gone", func() bool {
			_, err := api.Get(context.Background(), crd.Name, metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		})
	})
	d := &definition{t: t, name: crd.Name, group: crd.Spec.Group, plural: crd.Spec.Names.Plural}
	for _, v := range crd.Spec.Versions {
		eventually(t, v.Name+" of "+crd.Name+" is served", func() bool {
			_, err := d.in(v.Name).List(within(t), metav1.ListOptions{})
			return err == nil
		})
	}
	return d
}

// in is the client of one version's objects in the default namespace.
func (d *definition) in(version string) dynamic.ResourceInterface {
	return anything(d.t).Resource(schema.GroupVersionResource{Group: d.group, Version: version, Resource: d.plural}).Namespace("default")
}

// change updates the definition until nobody else did in between.
func (d *definition) change(mutate func(*apiextensionsv1.CustomResourceDefinition)) error {
	api := definitions(d.t).ApiextensionsV1().CustomResourceDefinitions()
	for {
		crd, err := api.Get(within(d.t), d.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		mutate(crd)
		if _, err := api.Update(within(d.t), crd, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
			return err
		}
	}
}

func (d *definition) condition(kind apiextensionsv1.CustomResourceDefinitionConditionType) apiextensionsv1.CustomResourceDefinitionCondition {
	return conditionOf(d.t, d.name, kind)
}

func conditionOf(t *testing.T, name string, kind apiextensionsv1.CustomResourceDefinitionConditionType) apiextensionsv1.CustomResourceDefinitionCondition {
	t.Helper()
	crd, err := definitions(t).ApiextensionsV1().CustomResourceDefinitions().Get(within(t), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range crd.Status.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return apiextensionsv1.CustomResourceDefinitionCondition{}
}

func thing(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return u
}

func create(t *testing.T, in dynamic.ResourceInterface, text string) *unstructured.Unstructured {
	t.Helper()
	u, err := in.Create(within(t), thing(t, text), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func patch(t *testing.T, in dynamic.ResourceInterface, name, merge string, subresources ...string) (*unstructured.Unstructured, error) {
	t.Helper()
	return in.Patch(within(t), name, types.MergePatchType, []byte(merge), metav1.PatchOptions{}, subresources...)
}

func at(u *unstructured.Unstructured, path ...string) any {
	v, _, _ := unstructured.NestedFieldNoCopy(u.Object, path...)
	return v
}

const sails = `
metadata: {name: sails.cloth.knarr.dev}
spec:
  group: cloth.knarr.dev
  scope: Namespaced
  names: {plural: sails, kind: Sail, listKind: SailList, shortNames: [sl], categories: [rigging]}
  versions:
  - name: v1
    served: true
    storage: true
    selectableFields: [{jsonPath: .spec.colour}, {jsonPath: .spec.area}]
    additionalPrinterColumns:
    - {name: Colour, type: string, jsonPath: .spec.colour}
    - {name: Area, type: integer, jsonPath: .spec.area, description: in square metres}
    - {name: Hoisted, type: date, jsonPath: .status.hoisted}
    - {name: Maker, type: string, jsonPath: .spec.maker, priority: 1}
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.reefs, statusReplicasPath: .status.reefs, labelSelectorPath: .status.selector}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            description: What a sail is to be.
            x-kubernetes-validations:
            - {rule: "self.area >= self.reefs * 10", messageExpression: "'%d reefs are too many for %d square metres'.format([self.reefs, self.area])", reason: FieldValueForbidden, fieldPath: .reefs}
            properties:
              colour: {type: string, default: white, enum: [white, red, striped]}
              area: {type: integer, default: 90}
              reefs: {type: integer, default: 2}
              maker: {type: string, x-kubernetes-validations: [{rule: "self == oldSelf", message: a sail keeps its maker}]}
              cloth: {type: string, maxLength: 20, x-kubernetes-validations: [{rule: "self != 'paper'", message: paper does not hold}]}
              mended: {type: integer, x-kubernetes-validations: [{rule: "!oldSelf.hasValue() || self >= oldSelf.value()", optionalOldSelf: true, message: mending does not undo itself}]}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
              ropes:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items: {type: object, required: [name], properties: {name: {type: string}, metres: {type: integer, default: 5}}}
          status:
            type: object
            properties: {hoisted: {type: string, format: date-time}, reefs: {type: integer}, selector: {type: string}}
`

// TestCustomResources is one definition's life from a client's side.
func TestCustomResources(t *testing.T) {
	d := define(t, sails)
	v1 := d.in("v1")
	sail := func(name, spec string) string {
		return fmt.Sprintf("{apiVersion: cloth.knarr.dev/v1, kind: Sail, metadata: {name: %s}, spec: %s}", name, spec)
	}

	t.Run("defaults are filled in, also within lists", func(t *testing.T) {
		made := create(t, v1, sail("plain", "{ropes: [{name: sheet}]}"))
		want := map[string]any{"colour": "white", "area": int64(90), "reefs": int64(2), "ropes": []any{map[string]any{"name": "sheet", "metres": int64(5)}}}
		if diff := cmp.Diff(want, at(made, "spec")); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("what the schema does not know is dropped, and said", func(t *testing.T) {
		made := create(t, v1, sail("pruned", "{colour: red, smell: tar, free: {anything: goes}}"))
		if at(made, "spec", "smell") != nil || at(made, "spec", "free", "anything") != "goes" {
			t.Errorf("stored %v", at(made, "spec"))
		}
		_, err := v1.Create(within(t), thing(t, sail("strict", "{smell: tar}")), metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
		if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), `unknown field "spec.smell"`) {
			t.Errorf("strictly: %v", err)
		}
	})
	t.Run("a value against the schema is refused with its path", func(t *testing.T) {
		_, err := v1.Create(within(t), thing(t, sail("bad", "{colour: green}")), metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `spec.colour: Unsupported value: "green"`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a rule says its own reason, place and words", func(t *testing.T) {
		_, err := v1.Create(within(t), thing(t, sail("bad", "{area: 10, reefs: 3}")), metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.reefs: Forbidden: 3 reefs are too many for 10 square metres") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a rule about a change looks at both", func(t *testing.T) {
		create(t, v1, sail("made", "{maker: Leif, mended: 1}"))
		if _, err := patch(t, v1, "made", `{"spec":{"maker":"Erik"}}`); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "a sail keeps its maker") {
			t.Errorf("another maker: %v", err)
		}
		if _, err := patch(t, v1, "made", `{"spec":{"mended":2}}`); err != nil {
			t.Errorf("mended again: %v", err)
		}
		if _, err := patch(t, v1, "made", `{"spec":{"mended":0}}`); !apierrors.IsInvalid(err) {
			t.Errorf("mending undone: %v", err)
		}
	})
	t.Run("status and the rest are written apart", func(t *testing.T) {
		made := create(t, v1, `{apiVersion: cloth.knarr.dev/v1, kind: Sail, metadata: {name: split}, status: {reefs: 9}, spec: {}}`)
		if at(made, "status") != nil || made.GetGeneration() != 1 {
			t.Errorf("created with status %v, generation %d", at(made, "status"), made.GetGeneration())
		}
		hoisted, err := patch(t, v1, "split", `{"spec":{"colour":"red"},"status":{"reefs":1}}`, "status")
		if err != nil {
			t.Fatal(err)
		}
		if at(hoisted, "spec", "colour") != "white" || at(hoisted, "status", "reefs") != int64(1) || hoisted.GetGeneration() != 1 {
			t.Errorf("a status write made it %v", hoisted.Object)
		}
		dyed, err := patch(t, v1, "split", `{"spec":{"colour":"red"},"status":{"reefs":7}}`)
		if err != nil {
			t.Fatal(err)
		}
		if at(dyed, "spec", "colour") != "red" || at(dyed, "status", "reefs") != int64(1) || dyed.GetGeneration() != 2 {
			t.Errorf("a write made it %v", dyed.Object)
		}
	})
	t.Run("it is scaled", func(t *testing.T) {
		create(t, v1, sail("scaled", "{reefs: 1}"))
		if _, err := patch(t, v1, "scaled", `{"status":{"reefs":1,"selector":"app=sail"}}`, "status"); err != nil {
			t.Fatal(err)
		}
		scale, err := v1.Get(within(t), "scaled", metav1.GetOptions{}, "scale")
		if err != nil {
			t.Fatal(err)
		}
		if scale.GetKind() != "Scale" || at(scale, "spec", "replicas") != int64(1) || at(scale, "status", "replicas") != int64(1) || at(scale, "status", "selector") != "app=sail" {
			t.Errorf("scale is %v", scale.Object)
		}
		if _, err := patch(t, v1, "scaled", `{"spec":{"replicas":4}}`, "scale"); err != nil {
			t.Fatal(err)
		}
		if after, err := v1.Get(within(t), "scaled", metav1.GetOptions{}); err != nil || at(after, "spec", "reefs") != int64(4) {
			t.Errorf("after scaling: %v, %v", after, err)
		}
	})
	t.Run("it is found by its fields", func(t *testing.T) {
		for name, spec := range map[string]string{"one": "{colour: striped, area: 33}", "two": "{colour: striped, area: 44}"} {
			create(t, v1, sail(name, spec))
		}
		for selector, want := range map[string][]string{
			"spec.colour=striped":                     {"one", "two"},
			"spec.colour=striped,spec.area!=44":       {"one"},
			"spec.area=44":                            {"two"},
			"spec.colour=striped,metadata.name=two":   {"two"},
			"spec.colour=striped,metadata.name=three": nil,
		} {
			if got := names(t, v1, metav1.ListOptions{FieldSelector: selector}); !slices.Equal(got, want) {
				t.Errorf("%s finds %v; want %v", selector, got, want)
			}
		}
		if _, err := v1.List(within(t), metav1.ListOptions{FieldSelector: "spec.maker=Leif"}); !apierrors.IsBadRequest(err) {
			t.Errorf("a field that is not selectable: %v", err)
		}
		list, err := v1.List(within(t), metav1.ListOptions{FieldSelector: "spec.area=44"})
		if err != nil {
			t.Fatal(err)
		}
		events, err := v1.Watch(within(t), metav1.ListOptions{FieldSelector: "spec.area=44", ResourceVersion: list.GetResourceVersion()})
		if err != nil {
			t.Fatal(err)
		}
		defer events.Stop()
		if _, err := patch(t, v1, "one", `{"spec":{"area":44}}`); err != nil {
			t.Fatal(err)
		}
		if _, err := patch(t, v1, "two", `{"spec":{"area":45}}`); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"ADDED one", "DELETED two"} {
			e := <-events.ResultChan()
			if got := told(e); got != want {
				t.Errorf("watch says %s; want %s", got, want)
			}
		}
	})
	t.Run("tables have its columns", func(t *testing.T) {
		create(t, v1, sail("tabled", "{colour: red, maker: Leif}"))
		body, err := admin(t).RESTClient().Get().AbsPath("/apis/cloth.knarr.dev/v1/namespaces/default/sails/tabled").
			SetHeader("Accept", "application/json;as=Table;g=meta.k8s.io;v=v1").DoRaw(within(t))
		if err != nil {
			t.Fatal(err)
		}
		var table metav1.Table
		if err := json.Unmarshal(body, &table); err != nil {
			t.Fatal(err)
		}
		var columns []string
		for _, c := range table.ColumnDefinitions {
			columns = append(columns, fmt.Sprintf("%s %s %d", c.Name, c.Type, c.Priority))
		}
		if diff := cmp.Diff([]string{"Name string 0", "Colour string 0", "Area integer 0", "Hoisted date 0", "Maker string 1"}, columns); diff != "" {
			t.Error(diff)
		}
		if diff := cmp.Diff([]any{"tabled", "red", float64(90), nil, "Leif"}, table.Rows[0].Cells); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("it is applied by several, who own entries of a list", func(t *testing.T) {
		for _, who := range []string{"bow", "stern"} {
			_, err := v1.Apply(within(t), "shared", thing(t, sail("shared", "{ropes: [{name: "+who+"}]}")), metav1.ApplyOptions{FieldManager: who})
			if err != nil {
				t.Fatal(err)
			}
		}
		after, err := v1.Get(within(t), "shared", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if ropes, _ := at(after, "spec", "ropes").([]any); len(ropes) != 2 {
			t.Errorf("ropes are %v; want both", ropes)
		}
		_, err = v1.Apply(within(t), "shared", thing(t, sail("shared", "{ropes: [{name: bow, metres: 7}]}")), metav1.ApplyOptions{FieldManager: "stern"})
		if err != nil {
			t.Errorf("nobody owns a default: %v", err)
		}
	})
	t.Run("a rule that comes later leaves what is there alone", func(t *testing.T) {
		create(t, v1, sail("older", "{cloth: wadmal}"))
		if err := d.change(func(crd *apiextensionsv1.CustomResourceDefinition) {
			spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
			cloth := spec.Properties["cloth"]
			cloth.XValidations[0].Rule, cloth.XValidations[0].Message = "self == 'linen'", "linen only"
			cloth.MaxLength = new(int64(5))
			spec.Properties["cloth"] = cloth
			age := apiextensionsv1.JSONSchemaProps{Type: "integer", Default: &apiextensionsv1.JSON{Raw: []byte("3")}}
			spec.Properties["age"] = age
			crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"] = spec
		}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "objects written before get a new default when read", func() bool {
			older, err := v1.Get(within(t), "older", metav1.GetOptions{})
			return err == nil && at(older, "spec", "age") == int64(3)
		})
		if _, err := patch(t, v1, "older", `{"spec":{"colour":"red"}}`); err != nil {
			t.Errorf("changing something else: %v", err)
		}
		if _, err := patch(t, v1, "older", `{"spec":{"cloth":"silk"}}`); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "linen only") {
			t.Errorf("changing it: %v", err)
		}
	})
	t.Run("both descriptions of the API have it", func(t *testing.T) {
		for path, want := range map[string]string{
			"/openapi/v2":                         "dev.knarr.cloth.v1.Sail",
			"/openapi/v3/apis/cloth.knarr.dev/v1": "What a sail is to be.",
		} {
			eventually(t, path+" describes it", func() bool {
				body, err := admin(t).RESTClient().Get().AbsPath(path).DoRaw(within(t))
				return err == nil && strings.Contains(string(body), want)
			})
		}
	})
}

func names(t *testing.T, in dynamic.ResourceInterface, options metav1.ListOptions) []string {
	t.Helper()
	list, err := in.List(within(t), options)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, item := range list.Items {
		all = append(all, item.GetName())
	}
	return all
}

// told is what a watch said, in a line.
func told(e watch.Event) string {
	u, ok := e.Object.(*unstructured.Unstructured)
	if !ok {
		return fmt.Sprintf("%s %v", e.Type, e.Object)
	}
	return string(e.Type) + " " + u.GetName()
}

const masts = `
metadata: {name: masts.timber.knarr.dev}
spec:
  group: timber.knarr.dev
  scope: Namespaced
  names: {plural: masts, kind: Mast, listKind: MastList}
  conversion: {strategy: None}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {height: {type: string}}}}
  - name: v2
    served: true
    storage: false
    deprecated: true
    deprecationWarning: v2 was a mistake
    schema: {openAPIV3Schema: {type: object, properties: {metres: {type: integer}}}}
`

// converter is the webhook of masts: v1 says "12m" where v2 says 12.
type converter struct {
	*httptest.Server
	mood atomic.Value // "": it works; blunt: it fails; renaming: it changes what it must not
}

func newConverter(t *testing.T) *converter {
	t.Helper()
	c := &converter{}
	c.Server = httptest.NewTLSServer(http.HandlerFunc(c.serve))
	t.Cleanup(c.Close)
	return c
}

func (c *converter) serve(w http.ResponseWriter, r *http.Request) {
	mood, _ := c.mood.Load().(string)
	var review apiextensionsv1.ConversionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer := &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
	if mood == "blunt" {
		answer.Result = metav1.Status{Status: metav1.StatusFailure, Message: "the saw is blunt"}
	}
	for _, raw := range review.Request.Objects {
		if mood == "blunt" {
			break
		}
		u := &unstructured.Unstructured{}
		if err := json.Unmarshal(raw.Raw, &u.Object); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		u.SetAPIVersion(review.Request.DesiredAPIVersion)
		if mood == "renaming" {
			u.SetName("mizzen")
		}
		if height, ok := u.Object["height"].(string); ok {
			var metres int64
			_, _ = fmt.Sscanf(height, "%dm", &metres)
			delete(u.Object, "height")
			u.Object["metres"] = metres
		} else if metres, ok := u.Object["metres"].(float64); ok {
			delete(u.Object, "metres")
			u.Object["height"] = fmt.Sprintf("%dm", int64(metres))
		}
		answer.ConvertedObjects = append(answer.ConvertedObjects, runtime.RawExtension{Object: u})
	}
	review.Request, review.Response = nil, answer
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(review) // a client that is gone asks again
}

func (c *converter) config() *apiextensionsv1.CustomResourceConversion {
	url := c.URL + "/convert"
	return &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.WebhookConverter, Webhook: &apiextensionsv1.WebhookConversion{
		ConversionReviewVersions: []string{"v1"},
		ClientConfig:             &apiextensionsv1.WebhookClientConfig{URL: &url, CABundle: certificateOf(c.Server)},
	}}
}

// TestSeveralVersions moves objects between versions by a webhook, and then the store to the other version.
func TestSeveralVersions(t *testing.T) {
	hook := newConverter(t) // outlives the definition, whose objects are converted once more when they go
	d := define(t, masts)
	if err := d.change(func(crd *apiextensionsv1.CustomResourceDefinition) { crd.Spec.Conversion = hook.config() }); err != nil {
		t.Fatal(err)
	}
	v1, v2 := d.in("v1"), d.in("v2")
	create(t, v1, `{apiVersion: timber.knarr.dev/v1, kind: Mast, metadata: {name: main}, height: 12m}`)
	eventually(t, "the other version is converted", func() bool {
		got, err := v2.Get(within(t), "main", metav1.GetOptions{})
		return err == nil && at(got, "metres") == int64(12) && at(got, "height") == nil
	})
	create(t, v2, `{apiVersion: timber.knarr.dev/v2, kind: Mast, metadata: {name: fore}, metres: 9}`)
	got, err := v1.Get(within(t), "fore", metav1.GetOptions{})
	if err != nil || at(got, "height") != "9m" {
		t.Errorf("written as v2, v1 is %v, %v", got, err)
	}
	if got := names(t, v2, metav1.ListOptions{}); !slices.Equal(got, []string{"fore", "main"}) {
		t.Errorf("v2 lists %v", got)
	}
	if changed, err := patch(t, v2, "main", `{"metres":14}`); err != nil || at(changed, "metres") != int64(14) {
		t.Errorf("patched as v2: %v, %v", changed, err)
	}

	t.Run("a watch speaks the version it was opened in", func(t *testing.T) {
		list, err := v2.List(within(t), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		events, err := v2.Watch(within(t), metav1.ListOptions{ResourceVersion: list.GetResourceVersion()})
		if err != nil {
			t.Fatal(err)
		}
		defer events.Stop()
		if _, err := patch(t, v1, "fore", `{"height":"8m"}`); err != nil {
			t.Fatal(err)
		}
		e := <-events.ResultChan()
		if u, ok := e.Object.(*unstructured.Unstructured); !ok || at(u, "metres") != int64(8) {
			t.Errorf("it says %s %v", e.Type, e.Object)
		}
	})
	t.Run("a deprecated version says so", func(t *testing.T) {
		var warned []string
		config := server.Admin()
		config.WarningHandler = warnings(func(text string) { warned = append(warned, text) })
		client := dynamicClient(t, config).Resource(schema.GroupVersionResource{Group: d.group, Version: "v2", Resource: d.plural}).Namespace("default")
		if _, err := client.Get(within(t), "main", metav1.GetOptions{}); err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(warned, "v2 was a mistake") {
			t.Errorf("warnings: %q", warned)
		}
	})
	t.Run("a webhook that fails says why, and nothing is lost", func(t *testing.T) {
		hook.mood.Store("blunt")
		defer hook.mood.Store("")
		if _, err := v2.Get(within(t), "main", metav1.GetOptions{}); err == nil || !strings.Contains(err.Error(), "the saw is blunt") {
			t.Errorf("got %v", err)
		}
		if _, err := v1.Get(within(t), "main", metav1.GetOptions{}); err != nil {
			t.Errorf("the stored version needs no conversion: %v", err)
		}
	})
	t.Run("a webhook must not rename", func(t *testing.T) {
		hook.mood.Store("renaming")
		defer hook.mood.Store("")
		if got, err := v2.Get(within(t), "main", metav1.GetOptions{}); err == nil || !strings.Contains(err.Error(), "must have the same name") {
			t.Errorf("got %v, %v", got, err)
		}
	})
	t.Run("the store moves to another version", func(t *testing.T) {
		if err := d.change(func(crd *apiextensionsv1.CustomResourceDefinition) {
			crd.Spec.Versions[0].Storage, crd.Spec.Versions[1].Storage = false, true
		}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "both versions are known to be stored", func() bool {
			crd, err := definitions(t).ApiextensionsV1().CustomResourceDefinitions().Get(within(t), d.name, metav1.GetOptions{})
			return err == nil && slices.Equal(crd.Status.StoredVersions, []string{"v1", "v2"})
		})
		err := d.change(func(crd *apiextensionsv1.CustomResourceDefinition) { crd.Spec.Versions = crd.Spec.Versions[1:] })
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "status.storedVersions") {
			t.Errorf("a version that may still be stored was removed: %v", err)
		}
		eventually(t, "it is written in the new one", func() bool {
			_, err := patch(t, v1, "main", `{"height":"15m"}`)
			return err == nil
		})
		if got, err := v2.Get(within(t), "main", metav1.GetOptions{}); err != nil || at(got, "metres") != int64(15) {
			t.Errorf("it is %v, %v", got, err)
		}
	})
}

// warnings is a rest.WarningHandler.
type warnings func(text string)

func (w warnings) HandleWarningHeader(_ int, _ string, text string) { w(text) }

func minimal(plural, kind, group, more string) string {
	return fmt.Sprintf(`
metadata: {name: %[1]s.%[3]s%[4]s}
spec:
  group: %[3]s
  scope: Namespaced
  names: {plural: %[1]s, kind: %[2]s}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`, plural, kind, group, more)
}

// TestDefinitionsSayWhatBecomesOfThem is about conditions and refusals.
func TestDefinitionsSayWhatBecomesOfThem(t *testing.T) {
	api := definitions(t).ApiextensionsV1().CustomResourceDefinitions()
	t.Run("accepted and established", func(t *testing.T) {
		d := define(t, minimal("oars", "Oar", "rowing.knarr.dev", ""))
		for _, kind := range []apiextensionsv1.CustomResourceDefinitionConditionType{apiextensionsv1.NamesAccepted, apiextensionsv1.Established} {
			if got := d.condition(kind); got.Status != apiextensionsv1.ConditionTrue {
				t.Errorf("%s is %+v", kind, got)
			}
		}
		if got := d.condition(apiextensionsv1.NonStructuralSchema); got.Status == apiextensionsv1.ConditionTrue {
			t.Errorf("its schema is not structural: %+v", got)
		}
	})
	t.Run("a name that is taken is not accepted until it is free", func(t *testing.T) {
		first := define(t, minimal("benches", "Bench", "seats.knarr.dev", ""))
		second := parse[apiextensionsv1.CustomResourceDefinition](t, minimal("thwarts", "Bench", "seats.knarr.dev", ""))
		if _, err := api.Create(within(t), second, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = api.Delete(context.Background(), second.Name, metav1.DeleteOptions{}) })
		eventually(t, "it says that the kind is taken", func() bool {
			c := conditionOf(t, second.Name, apiextensionsv1.NamesAccepted)
			return c.Status == apiextensionsv1.ConditionFalse && strings.HasSuffix(c.Reason, "KindConflict") && strings.Contains(c.Message, "is already in use")
		})
		if err := api.Delete(within(t), first.name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it is accepted", func() bool {
			return conditionOf(t, second.Name, apiextensionsv1.Established).Status == apiextensionsv1.ConditionTrue
		})
	})
	t.Run("a group of the project's own wants a reason", func(t *testing.T) {
		crd := parse[apiextensionsv1.CustomResourceDefinition](t, minimal("decks", "Deck", "ships.k8s.io", ""))
		if _, err := api.Create(within(t), crd, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "api-approved.kubernetes.io") {
			t.Errorf("without one: %v", err)
		}
		d := define(t, minimal("decks", "Deck", "ships.k8s.io", `, annotations: {api-approved.kubernetes.io: "unapproved, experimental-only"}`))
		eventually(t, "it says that nobody approved", func() bool {
			c := d.condition(apiextensionsv1.KubernetesAPIApprovalPolicyConformant)
			return c.Status == apiextensionsv1.ConditionFalse && c.Reason == "UnapprovedAnnotation"
		})
	})
	t.Run("deleting takes the objects first, and waits for their finalizers", func(t *testing.T) {
		d := define(t, minimal("anchors", "Anchor", "iron.knarr.dev", ""))
		v1 := d.in("v1")
		create(t, v1, `{apiVersion: iron.knarr.dev/v1, kind: Anchor, metadata: {name: stuck, finalizers: [knarr.dev/rope]}}`)
		if err := api.Delete(within(t), d.name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it terminates", func() bool { return d.condition(apiextensionsv1.Terminating).Status == apiextensionsv1.ConditionTrue })
		eventually(t, "its object is being deleted", func() bool {
			stuck, err := v1.Get(within(t), "stuck", metav1.GetOptions{})
			return err == nil && stuck.GetDeletionTimestamp() != nil
		})
		if _, err := v1.Create(within(t), thing(t, `{apiVersion: iron.knarr.dev/v1, kind: Anchor, metadata: {name: late}}`), metav1.CreateOptions{}); !apierrors.IsMethodNotSupported(err) && !apierrors.IsForbidden(err) {
			t.Errorf("created while the definition goes: %v", err)
		}
		if _, err := patch(t, v1, "stuck", `{"metadata":{"finalizers":null}}`); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the definition is gone", func() bool {
			_, err := api.Get(within(t), d.name, metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		})
	})

	refusals := map[string]struct{ text, want string }{
		"two stored versions": {
			strings.Replace(minimal("a", "A", "x.knarr.dev", ""), "versions: [", "versions: [{name: v2, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}, ", 1),
			"must have exactly one version marked as storage version",
		},
		"no schema": {
			strings.Replace(minimal("a", "A", "x.knarr.dev", ""), ", schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}", "", 1),
			"openAPIV3Schema: Required value",
		},
		"a schema without types": {
			strings.Replace(minimal("a", "A", "x.knarr.dev", ""), "type: object, x-kubernetes-preserve-unknown-fields: true", "type: object, properties: {a: {}}", 1),
			"type: Required value",
		},
		"a rule that is no expression": {
			strings.Replace(minimal("a", "A", "x.knarr.dev", ""), "type: object,", `type: object, x-kubernetes-validations: [{rule: "self +"}],`, 1),
			"compilation failed",
		},
		"a rule that could take for ever": {
			strings.Replace(minimal("a", "A", "x.knarr.dev", ""), "type: object, x-kubernetes-preserve-unknown-fields: true",
				`type: object, properties: {a: {type: array, items: {type: string}, x-kubernetes-validations: [{rule: "self.all(x, self.all(y, self.all(z, x + y != z)))"}]}}`, 1),
			"exceeds budget",
		},
		"a default against its own schema": {
			strings.Replace(minimal("a", "A", "x.knarr.dev", ""), "type: object, x-kubernetes-preserve-unknown-fields: true", "type: object, properties: {a: {type: integer, default: b}}", 1),
			"default: Invalid value",
		},
		"a name that does not fit": {strings.Replace(minimal("a", "A", "x.knarr.dev", ""), "name: a.x", "name: b.x", 1), "must be spec.names.plural+"},
	}
	for name, tc := range refusals {
		t.Run(name, func(t *testing.T) {
			_, err := api.Create(within(t), parse[apiextensionsv1.CustomResourceDefinition](t, tc.text), metav1.CreateOptions{})
			if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v; want Invalid and %q", err, tc.want)
			}
		})
	}
}
