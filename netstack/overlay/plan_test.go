package overlay

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func node(name, podRange string, addresses ...string) corev1.Node {
	n := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{PodCIDR: podRange}}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}}
	for _, address := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address})
	}
	return n
}

func dual(n corev1.Node, ranges ...string) corev1.Node {
	n.Spec.PodCIDRs = ranges
	return n
}

func TestLook(t *testing.T) {
	self := node("self", "10.42.0.0/24", "192.0.2.1")
	tests := map[string]struct {
		nodes   []corev1.Node
		want    []string // of the others
		unknown bool
	}{
		"a node alone sees nobody":                         {nodes: []corev1.Node{self}},
		"others come in the order of their names":          {nodes: []corev1.Node{node("b", "10.42.2.0/24", "192.0.2.3"), self, node("a", "10.42.1.0/24", "192.0.2.2")}, want: []string{"a [10.42.1.0/24] 192.0.2.2", "b [10.42.2.0/24] 192.0.2.3"}},
		"a node without range takes no part":               {nodes: []corev1.Node{self, node("a", "", "192.0.2.2")}},
		"a node without address takes no part":             {nodes: []corev1.Node{self, node("a", "10.42.1.0/24")}},
		"the node itself must be known":                    {nodes: []corev1.Node{node("a", "10.42.1.0/24", "192.0.2.2")}, unknown: true},
		"and have a range":                                 {nodes: []corev1.Node{node("self", "", "192.0.2.1")}, unknown: true},
		"and have an address":                              {nodes: []corev1.Node{node("self", "10.42.0.0/24")}, unknown: true},
		"the first of two with one range has it":           {nodes: []corev1.Node{self, node("b", "10.42.1.0/24", "192.0.2.3"), node("a", "10.42.1.0/24", "192.0.2.2")}, want: []string{"a [10.42.1.0/24] 192.0.2.2"}},
		"nobody gets this node's range":                    {nodes: []corev1.Node{self, node("a", "10.42.0.0/25", "192.0.2.2")}},
		"an old object of this machine is not another":     {nodes: []corev1.Node{self, node("old", "10.42.9.0/24", "192.0.2.1")}},
		"addresses of the other family are passed over":    {nodes: []corev1.Node{self, node("a", "10.42.1.0/24", "2001:db8::2", "192.0.2.2")}, want: []string{"a [10.42.1.0/24] 192.0.2.2"}},
		"a node with the other family alone is left out":   {nodes: []corev1.Node{self, node("a", "10.42.1.0/24", "2001:db8::2")}},
		"of two families both count":                       {nodes: []corev1.Node{self, dual(node("a", "10.42.1.0/24", "192.0.2.2"), "10.42.1.0/24", "fd42:0:0:1::/64")}, want: []string{"a [10.42.1.0/24 fd42:0:0:1::/64] 192.0.2.2"}},
		"two ranges of one family are one":                 {nodes: []corev1.Node{self, dual(node("a", "10.42.1.0/24", "192.0.2.2"), "10.42.1.0/24", "10.42.7.0/24")}, want: []string{"a [10.42.1.0/24] 192.0.2.2"}},
		"the first of two with one range of IPv6 has it":   {nodes: []corev1.Node{self, dual(node("b", "10.42.2.0/24", "192.0.2.3"), "10.42.2.0/24", "fd42:0:0:1::/64"), dual(node("a", "10.42.1.0/24", "192.0.2.2"), "10.42.1.0/24", "fd42:0:0:1::/64")}, want: []string{"a [10.42.1.0/24 fd42:0:0:1::/64] 192.0.2.2"}},
		"machines with IPv6 addresses carry pods of IPv4 ": {nodes: []corev1.Node{node("self", "10.42.0.0/24", "2001:db8::1"), node("a", "10.42.1.0/24", "2001:db8::2")}, want: []string{"a [10.42.1.0/24] 2001:db8::2"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			v, ok := look(tc.nodes, "self")
			if ok == tc.unknown {
				t.Fatalf("look() knows this node: %v", ok)
			}
			var got []string
			for _, peer := range v.Others {
				got = append(got, fmt.Sprint(peer.Node, " ", peer.Ranges, " ", peer.Address))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("others (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPlanLeadsThroughAllThreeTables(t *testing.T) {
	four, six := netip.MustParsePrefix("10.42.1.0/24"), netip.MustParsePrefix("fd42:0:0:1::/64")
	tests := map[string]struct{ own, theirs, want []netip.Prefix }{
		"one family":    {[]netip.Prefix{four}, []netip.Prefix{four}, []netip.Prefix{four}},
		"both families": {[]netip.Prefix{four, six}, []netip.Prefix{four, six}, []netip.Prefix{four, six}},
		"IPv6 alone":    {[]netip.Prefix{six}, []netip.Prefix{six}, []netip.Prefix{six}},
		"a family that pods here have not is left": {[]netip.Prefix{six}, []netip.Prefix{four, six}, []netip.Prefix{six}},
		"a family that pods there have not":        {[]netip.Prefix{four, six}, []netip.Prefix{four}, []netip.Prefix{four}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			machine := netip.MustParseAddr("192.0.2.2")
			got := plan([]Peer{{Node: "a", Ranges: tc.theirs, Address: machine}}, Peer{Ranges: tc.own}, nil)
			if len(got.routes) != len(tc.want) || len(got.neighbours) != len(tc.want) {
				t.Errorf("plan() has ways to other ranges: %+v", got)
			}
			for _, pods := range tc.want {
				if at := got.forwarding[got.neighbours[got.routes[pods]]]; at != machine {
					t.Errorf("pods of %s are sent to %v: %+v", pods, at, got)
				}
			}
		})
	}
}

// Two tunnel ends with one hardware address would be sent each other's packets.
func TestHardwareAddressesOfTunnelEndsDiffer(t *testing.T) {
	for _, ranges := range [][]string{{"10.42.0.0/24", "10.42.1.0/24"}, {"fd42::/64", "fd42:0:0:1::/64"}, {"fd42:0:0:1::/64", "fd42:0:0:1:0:0:0:0/80", "fd42:0:1::/64"}} {
		seen := map[hardware]netip.Addr{}
		for _, text := range ranges {
			r := netip.MustParsePrefix(text)
			if other, known := seen[hardwareOf(r)]; known && other != tunnelEnd(r) {
				t.Errorf("%s and %s have the hardware address %v", other, r, hardwareOf(r))
			}
			seen[hardwareOf(r)] = tunnelEnd(r)
		}
	}
}

func TestDifference(t *testing.T) {
	tests := map[string]struct {
		want, have map[string]int
		set        map[string]int
		remove     []string
	}{
		"what is right is left alone":    {want: map[string]int{"a": 1}, have: map[string]int{"a": 1}, set: map[string]int{}},
		"what is missing is set":         {want: map[string]int{"a": 1}, set: map[string]int{"a": 1}},
		"what changed is set, not taken": {want: map[string]int{"a": 2}, have: map[string]int{"a": 1}, set: map[string]int{"a": 2}},
		"what is too much goes":          {have: map[string]int{"a": 1}, set: map[string]int{}, remove: []string{"a"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			set, remove := difference(tc.want, tc.have)
			if diff := cmp.Diff(tc.set, set) + cmp.Diff(tc.remove, remove); diff != "" {
				t.Errorf("difference() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAViewOutlivesTheProcess(t *testing.T) {
	path := t.TempDir() + "/network/overlay.json"
	if v, err := load(path); err != nil || !v.equal(view{}) {
		t.Errorf("load() on a new machine = %v, %v", v, err)
	}
	want, _ := look([]corev1.Node{node("self", "10.42.0.0/24", "192.0.2.1"), node("a", "10.42.1.0/24", "192.0.2.2")}, "self")
	if err := save(path, want); err != nil {
		t.Fatal(err)
	}
	if got, err := load(path); err != nil || !got.equal(want) {
		t.Errorf("load() = %v, %v; want %v", got, err, want)
	}
}
