package apiserver_test

import (
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// TestPatchesThatCannotBeMerged sends what the library's function for it panics over to kinds of all three servers.
func TestPatchesThatCannotBeMerged(t *testing.T) {
	patch := []byte(`{"$retainKeys":["a",null,{}],"spec":{"group":"example.com"}}`)
	objects := map[string]struct {
		resource schema.GroupVersionResource
		name     string
	}{
		"a kind of the table": {schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}, "default"},
		"an APIService":       {schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}, "v1.apps"},
	}
	for name, tc := range objects {
		t.Run(name, func(t *testing.T) {
			for _, options := range []metav1.PatchOptions{{}, {DryRun: try.DryRun}} {
				_, err := anything(t).Resource(tc.resource).Patch(within(t), tc.name, types.StrategicMergePatchType, patch, options)
				if !apierrors.IsBadRequest(err) {
					t.Errorf("answer %v, want BadRequest", err)
				}
			}
		})
	}
}
