package apiserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"

	"knarr.dev/knarr/appliance/apiserver/resource"
	"knarr.dev/knarr/appliance/apiserver/servertest"
	"knarr.dev/knarr/appliance/apiserver/table"
)

// TestEveryRow takes one object of every stored kind through its life: servertest/objects.yaml holds the smallest
// valid one of each.
func TestEveryRow(t *testing.T) {
	for _, row := range table.Rows() {
		if row.Virtual != nil {
			continue
		}
		for _, gv := range append([]schema.GroupVersion{row.In}, row.AlsoIn...) {
			t.Run(gv.WithResource(row.Plural).String(), func(t *testing.T) {
				t.Parallel()
				live(t, row, gv)
			})
		}
	}
}

func live(t *testing.T, row resource.Row, gv schema.GroupVersion) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	object := smallest(t, row, gv)
	all := anything(t).Resource(gv.WithResource(row.Plural))
	client := dynamic.ResourceInterface(all)
	if row.Namespaced {
		client = all.Namespace(metav1.NamespaceDefault)
	}
	events, err := client.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + object.GetName()})
	if err != nil {
		t.Fatalf("watch: %v", err)
	}
	defer events.Stop()

	created, err := client.Create(ctx, object, metav1.CreateOptions{})
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	expect(t, events, watch.Added)
	if created.GetUID() == "" || created.GetResourceVersion() == "" || created.GetCreationTimestamp().Time.IsZero() {
		t.Errorf("the server did not complete metadata: %v", created.Object["metadata"])
	}
	if want := int64(1); row.Generation && created.GetGeneration() != want {
		t.Errorf("generation after creation = %d, want %d", created.GetGeneration(), want)
	}
	if _, err := client.Create(ctx, object, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("creating it again: %v, want AlreadyExists", err)
	}

	patches := map[types.PatchType]string{
		types.MergePatchType:          `{"metadata":{"labels":{"merge":"yes"}}}`,
		types.StrategicMergePatchType: `{"metadata":{"labels":{"strategic":"yes"}}}`,
		types.JSONPatchType:           `[{"op":"add","path":"/metadata/annotations","value":{"json":"yes"}}]`,
	}
	for kind, patch := range patches {
		if _, err := client.Patch(ctx, object.GetName(), kind, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Errorf("patch as %s: %v", kind, err)
		}
		expect(t, events, watch.Modified)
	}
	apply := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": object.GetAPIVersion(), "kind": object.GetKind(),
		"metadata": map[string]any{"name": object.GetName(), "labels": map[string]any{"applied": "yes"}},
	}}
	applied, err := client.Apply(ctx, object.GetName(), apply, metav1.ApplyOptions{FieldManager: "test"})
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	expect(t, events, watch.Modified)
	for _, label := range []string{"merge", "strategic", "applied"} {
		if applied.GetLabels()[label] != "yes" {
			t.Errorf("label %s is missing after patching: %v", label, applied.GetLabels())
		}
	}
	if row.Generation && applied.GetGeneration() != created.GetGeneration() {
		t.Errorf("labels raised the generation from %d to %d", created.GetGeneration(), applied.GetGeneration())
	}
	if row.Status {
		if _, err := client.Patch(ctx, object.GetName(), types.MergePatchType, []byte(`{"metadata":{"annotations":{"status":"yes"}}}`), metav1.PatchOptions{}, "status"); err != nil {
			t.Errorf("patch status: %v", err)
		}
		expect(t, events, watch.Modified)
	}

	list, err := all.List(ctx, metav1.ListOptions{LabelSelector: "applied=yes,merge=yes"})
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	if !contains(list, object.GetName()) {
		t.Errorf("%s is not listed", object.GetName())
	}
	checkTable(t, row, gv)

	now := int64(0)
	if err := client.Delete(ctx, object.GetName(), metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatalf("delete: %v", err)
	}
	if finalized := row.Plural == "namespaces"; !finalized {
		expectGone(t, events)
	}
}

// smallest finds the object to try a kind with.
func smallest(t *testing.T, row resource.Row, gv schema.GroupVersion) *unstructured.Unstructured {
	t.Helper()
	object, err := servertest.Smallest(gv.WithKind(row.Kind()), server.PKI.ClusterCA.CertPEM)
	if err != nil {
		t.Fatal(err)
	}
	return object
}

func expect(t *testing.T, events watch.Interface, want watch.EventType) {
	t.Helper()
	select {
	case event, ok := <-events.ResultChan():
		if !ok || event.Type != want {
			t.Fatalf("watch: got %v (open: %t), want %s", event, ok, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("watch: nothing came, want %s", want)
	}
}

// expectGone lets an object be marked before it is deleted.
func expectGone(t *testing.T, events watch.Interface) {
	t.Helper()
	for {
		select {
		case event, ok := <-events.ResultChan():
			if !ok {
				t.Fatal("watch: ended before the deletion")
			}
			if event.Type == watch.Deleted {
				return
			}
			object := event.Object.(*unstructured.Unstructured)
			if len(object.GetFinalizers()) > 0 {
				return // somebody else has to let it go
			}
		case <-time.After(10 * time.Second):
			t.Fatal("watch: the deletion never came")
		}
	}
}

func contains(list *unstructured.UnstructuredList, name string) bool {
	for _, item := range list.Items {
		if item.GetName() == name {
			return true
		}
	}
	return false
}

// checkTable asks the way kubectl get does.
func checkTable(t *testing.T, row resource.Row, gv schema.GroupVersion) {
	t.Helper()
	path := "/apis/" + gv.String() + "/" + row.Plural
	if gv.Group == "" {
		path = "/api/" + gv.String() + "/" + row.Plural
	}
	var table metav1.Table
	if err := json.Unmarshal(get(t, path, "application/json;as=Table;v=v1;g=meta.k8s.io"), &table); err != nil {
		t.Fatal(err)
	}
	if table.Kind != "Table" || len(table.ColumnDefinitions) == 0 || len(table.Rows) == 0 {
		t.Errorf("as a table: kind %q, %d columns, %d rows", table.Kind, len(table.ColumnDefinitions), len(table.Rows))
	}
	for _, r := range table.Rows {
		if len(r.Cells) != len(table.ColumnDefinitions) {
			t.Errorf("as a table: %d cells in %d columns: %v", len(r.Cells), len(table.ColumnDefinitions), fmt.Sprint(r.Cells...))
		}
	}
}

func TestRowsAreSound(t *testing.T) {
	seen := map[schema.GroupVersionResource]bool{}
	for _, row := range table.Rows() {
		if err := row.Check(); err != nil {
			t.Error(err)
		}
		for _, gv := range append([]schema.GroupVersion{row.In}, row.AlsoIn...) {
			if key := gv.WithResource(row.Plural); seen[key] {
				t.Errorf("%s is in the table twice", key)
			} else {
				seen[key] = true
			}
		}
	}
}
