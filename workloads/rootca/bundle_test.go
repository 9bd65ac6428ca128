package rootca

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

func TestBundles(t *testing.T) {
	const name = "kubernetes.io:kube-apiserver-serving:384fb9a44fabe158be2757b9" // by sha256sum
	bundle := func(name, trust string) *certificatesv1.ClusterTrustBundle {
		return &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name, UID: "u"}, Spec: certificatesv1.ClusterTrustBundleSpec{
			SignerName: "kubernetes.io/kube-apiserver-serving", TrustBundle: trust,
		}}
	}
	tests := map[string]struct{ objects []client.Object }{
		"where there is none one is made":               {},
		"what is as it should be stays":                 {objects: []client.Object{bundle(name, "PEM")}},
		"an edited one is put right":                    {objects: []client.Object{bundle(name, "mine")}},
		"that of another authority goes":                {objects: []client.Object{bundle("kubernetes.io:kube-apiserver-serving:before", "OLD")}},
		"a second one goes, whoever made it":            {objects: []client.Object{bundle(name, "PEM"), bundle("kubernetes.io:kube-apiserver-serving:also", "PEM")}},
		"an edited one is put right, a second one goes": {objects: []client.Object{bundle(name, ""), bundle("kubernetes.io:kube-apiserver-serving:also", "PEM")}},
	}
	for title, tc := range tests {
		t.Run(title, func(t *testing.T) {
			c := fake.NewClientBuilder().WithObjects(tc.objects...).Build()
			b := &bundles{client: c, published: c, ca: "PEM"}
			for range 2 {
				if _, err := b.Reconcile(t.Context(), ctrl.Request{}); err != nil {
					t.Fatal(err)
				}
			}
			var list certificatesv1.ClusterTrustBundleList
			if err := c.List(t.Context(), &list); err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for _, b := range list.Items {
				got[b.Name] = b.Spec.TrustBundle
			}
			if diff := cmp.Diff(map[string]string{name: "PEM"}, got); diff != "" {
				t.Errorf("bundles (-want +got):\n%s", diff)
			}
		})
	}
}
