package apiserver

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime/debug"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// asElsewhere is how the library passes on what was thrown on another goroutine.
func asElsewhere(throw func()) (thrown any) {
	defer func() { thrown = fmt.Sprintf("%v\n%s", recover(), debug.Stack()) }()
	throw()
	return nil
}

func TestBlamePatches(t *testing.T) {
	merge := func() {
		schema, err := strategicpatch.NewPatchMetaFromStruct(&corev1.Pod{})
		if err != nil {
			t.Error(err)
		}
		_, _ = strategicpatch.StrategicMergeMapPatchUsingLookupPatchMeta(map[string]any{"spec": map[string]any{}}, map[string]any{"spec": map[string]any{"$retainKeys": []any{map[string]any{}}}}, schema)
	}
	tests := map[string]struct {
		method string
		throw  any
		status int // 0: it goes on falling
	}{
		"a patch that cannot be merged is the client's fault": {method: http.MethodPatch, throw: asElsewhere(merge), status: http.StatusBadRequest},
		"a bug of ours is ours":                               {method: http.MethodPatch, throw: asElsewhere(func() { panic("a bug") })},
		"a connection that is given up is given up":           {method: http.MethodPatch, throw: http.ErrAbortHandler},
		"only patches are merged":                             {method: http.MethodPut, throw: asElsewhere(merge)},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			defer func() {
				if again := recover(); (again != nil) != (tc.status == 0) {
					t.Errorf("thrown on: %v", again)
				}
				if tc.status != 0 && (w.Code != tc.status || !strings.Contains(w.Body.String(), `"reason":"BadRequest"`)) {
					t.Errorf("answer %d %s, want %d", w.Code, w.Body, tc.status)
				}
			}()
			blamePatches(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(tc.throw) })).ServeHTTP(w, httptest.NewRequest(tc.method, "/", nil))
		})
	}
}
