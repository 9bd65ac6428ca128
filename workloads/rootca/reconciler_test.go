package rootca

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

func TestReconcile(t *testing.T) {
	active := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}}
	going := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}, Status: corev1.NamespaceStatus{Phase: corev1.NamespaceTerminating}}
	edited := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "kube-root-ca.crt"}, Data: map[string]string{"ca.crt": "mine", "more": "x"}}
	tests := map[string]struct {
		objects []client.Object
		want    map[string]string
	}{
		"a new namespace gets the CA":         {objects: []client.Object{active}, want: map[string]string{"ca.crt": "PEM"}},
		"an edited one is put right":          {objects: []client.Object{active, edited}, want: map[string]string{"ca.crt": "PEM"}},
		"a namespace that is going gets none": {objects: []client.Object{going}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c := fake.NewClientBuilder().WithObjects(tc.objects...).Build()
			r := &Reconciler{client: c, published: c, ca: "PEM"}
			for range 2 {
				if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Name: "shop"}}); err != nil {
					t.Fatal(err)
				}
			}
			var got corev1.ConfigMap
			err := c.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "kube-root-ca.crt"}, &got)
			if err != nil && !apierrors.IsNotFound(err) {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got.Data); diff != "" {
				t.Errorf("published data (-want +got):\n%s", diff)
			}
		})
	}
}
