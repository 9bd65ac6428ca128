package serviceaccount

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

func TestReconcile(t *testing.T) {
	tests := map[string]struct {
		objects []client.Object
		want    bool
	}{
		"a new namespace gets its account": {
			objects: []client.Object{namespace(corev1.NamespaceActive)}, want: true,
		},
		"an account that is there stays": {
			objects: []client.Object{namespace(corev1.NamespaceActive), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "default"}}}, want: true,
		},
		"a namespace that is going gets none": {
			objects: []client.Object{namespace(corev1.NamespaceTerminating)},
		},
		"a namespace that is gone is no error": {},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c := fake.NewClientBuilder().WithObjects(tc.objects...).Build()
			r := &Reconciler{client: c}
			for range 2 { // the second pass changes nothing
				if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Name: "shop"}}); err != nil {
					t.Fatal(err)
				}
			}
			err := c.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "default"}, &corev1.ServiceAccount{})
			if client.IgnoreNotFound(err) != nil {
				t.Fatal(err)
			}
			if got := !apierrors.IsNotFound(err); got != tc.want {
				t.Errorf("account exists: %v, want %v", got, tc.want)
			}
		})
	}
}

func namespace(phase corev1.NamespacePhase) *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}, Status: corev1.NamespaceStatus{Phase: phase}}
}
