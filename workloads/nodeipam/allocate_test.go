package nodeipam

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

func TestAllocate(t *testing.T) {
	tests := map[string]struct {
		cluster string
		taken   []string
		want    string // "" means: refused
	}{
		"the first node gets the first range":         {cluster: "10.42.0.0/16", want: "10.42.0.0/24"},
		"a range that is taken is skipped":            {cluster: "10.42.0.0/16", taken: []string{"10.42.0.0/24"}, want: "10.42.1.0/24"},
		"a gap is filled":                             {cluster: "10.42.0.0/16", taken: []string{"10.42.0.0/24", "10.42.2.0/24"}, want: "10.42.1.0/24"},
		"a wider range of another time keeps its own": {cluster: "10.42.0.0/16", taken: []string{"10.42.0.0/22"}, want: "10.42.4.0/24"},
		"the first range of IPv6":                     {cluster: "fd42::/48", want: "fd42::/64"},
		"a gap of IPv6 is filled":                     {cluster: "fd42::/48", taken: []string{"fd42::/64", "fd42:0:0:2::/64", "10.42.0.0/24"}, want: "fd42:0:0:1::/64"},
		"an odd range of IPv6 is gone round":          {cluster: "fd42::/60", taken: []string{"fd42::/63"}, want: "fd42:0:0:2::/64"},
		"the last range of IPv6 can be had":           {cluster: "fd42:0:0:fffe::/63", taken: []string{"fd42:0:0:fffe::/64"}, want: "fd42:0:0:ffff::/64"},
		"an IPv6 cluster smaller than a node":         {cluster: "fd42::/96"},
		"all of IPv6 is enough":                       {cluster: "::/0", want: "::/64"},
		"IPv6 ranges are no obstacle":                 {cluster: "10.42.0.0/16", taken: []string{"fd00::/64"}, want: "10.42.0.0/24"},
		"the last range can be had":                   {cluster: "10.42.0.0/23", taken: []string{"10.42.0.0/24"}, want: "10.42.1.0/24"},
		"a full cluster is refused":                   {cluster: "10.42.0.0/24", taken: []string{"10.42.0.0/24"}},
		"a cluster smaller than a node is refused":    {cluster: "10.42.0.0/25"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var taken []netip.Prefix
			for _, p := range tc.taken {
				taken = append(taken, netip.MustParsePrefix(p))
			}
			got, err := allocate(netip.MustParsePrefix(tc.cluster), taken)
			if (err != nil) != (tc.want == "") {
				t.Fatalf("allocate() error = %v, want a range: %v", err, tc.want != "")
			}
			if err == nil && got.String() != tc.want {
				t.Errorf("allocate() = %s, want %s", got, tc.want)
			}
		})
	}
}

func TestReconcileKeepsWhatNodesHave(t *testing.T) {
	c := fake.NewClientBuilder().WithObjects(node("a", "10.42.0.0/24"), node("b", ""), node("c", "")).Build()
	r := &Reconciler{client: c, live: c, events: record.NewFakeRecorder(8), ranges: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd42::/48")}}
	for _, name := range []string{"a", "b", "c", "b", "gone"} {
		if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"a": "10.42.0.0/24", "b": "10.42.1.0/24", "c": "10.42.2.0/24"} {
		var got corev1.Node
		if err := c.Get(t.Context(), client.ObjectKey{Name: name}, &got); err != nil {
			t.Fatal(err)
		}
		if got.Spec.PodCIDR != want {
			t.Errorf("node %s has %q, want %q", name, got.Spec.PodCIDR, want)
		}
		if families := len(got.Spec.PodCIDRs); name != "a" && families != 2 { // a is from before there was IPv6
			t.Errorf("node %s has ranges of %d families: %v", name, families, got.Spec.PodCIDRs)
		}
	}
}

func node(name, cidr string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if cidr != "" {
		n.Spec.PodCIDR, n.Spec.PodCIDRs = cidr, []string{cidr}
	}
	return n
}
