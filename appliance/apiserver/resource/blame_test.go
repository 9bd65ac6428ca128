package resource

import (
	"context"
	"errors"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apiserver/pkg/registry/rest"
)

func TestBlame(t *testing.T) {
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	to := func(obj runtime.Object, err error) rest.TransformFunc {
		return func(context.Context, runtime.Object, runtime.Object) (runtime.Object, error) { return obj, err }
	}
	versioned := func(version string) runtime.Object {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{ResourceVersion: version}}
	}
	tests := map[string]struct {
		ctx    context.Context
		change rest.TransformFunc
		want   func(error) bool
	}{
		"an update that works":                   {change: to(versioned("7"), nil), want: func(err error) bool { return err == nil }},
		"a version is a number":                  {change: to(versioned("seven"), nil), want: apierrors.IsBadRequest},
		"a version is not for ever":              {change: to(versioned("18446744073709551616"), nil), want: apierrors.IsBadRequest},
		"a plain error is about what was sent":   {change: to(nil, errors.New("unknown patch type")), want: apierrors.IsBadRequest},
		"an answer stays the answer":             {change: to(nil, apierrors.NewConflict(corev1.Resource("pods"), "a", nil)), want: apierrors.IsConflict},
		"a client that hung up is no bad client": {ctx: gone, change: to(nil, context.Canceled), want: func(err error) bool { return errors.Is(err, context.Canceled) }},
		"nothing is left":                        {change: to(nil, nil), want: apierrors.IsBadRequest},
		"a panic of the library": {change: func(context.Context, runtime.Object, runtime.Object) (runtime.Object, error) {
			_, err := strategicpatch.StrategicMergeMapPatchUsingLookupPatchMeta(nil, map[string]any{"a": 1}, nil)
			return nil, err
		}, want: apierrors.IsBadRequest},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			ctx := tc.ctx
			if ctx == nil {
				ctx = context.Background()
			}
			_, err := Blame(rest.DefaultUpdatedObjectInfo(&appsv1.Deployment{}, tc.change)).UpdatedObject(ctx, &appsv1.Deployment{})
			if !tc.want(err) {
				t.Errorf("UpdatedObject() = %v", err)
			}
		})
	}
}

func TestOurOwnPanicsAreOurs(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a panic of this package was taken for a client's fault")
		}
	}()
	info := rest.DefaultUpdatedObjectInfo(&appsv1.Deployment{}, func(context.Context, runtime.Object, runtime.Object) (runtime.Object, error) {
		panic("a bug")
	})
	_, _ = Blame(info).UpdatedObject(context.Background(), &appsv1.Deployment{})
}
