package podnet

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/netstack/cni"
)

func TestNext(t *testing.T) {
	tests := map[string]struct {
		podRange string
		held     []string
		after    string
		want     string // "" means: none is free
	}{
		"the first pod gets the address behind the gateway":           {podRange: "10.42.1.0/24", want: "10.42.1.2"},
		"an address given back rests while others are free":           {podRange: "10.42.1.0/24", after: "10.42.1.7", want: "10.42.1.8"},
		"taken addresses are passed over":                             {podRange: "10.42.1.0/24", held: []string{"10.42.1.8", "10.42.1.9"}, after: "10.42.1.7", want: "10.42.1.10"},
		"behind the last comes the first, not the broadcast address":  {podRange: "10.42.1.0/24", after: "10.42.1.254", want: "10.42.1.2"},
		"the last address before the broadcast address is given":      {podRange: "10.42.1.0/24", after: "10.42.1.253", want: "10.42.1.254"},
		"a full range has none":                                       {podRange: "10.42.1.0/29", held: []string{"10.42.1.2", "10.42.1.3", "10.42.1.4", "10.42.1.5", "10.42.1.6"}, after: "10.42.1.4"},
		"the only free address is found behind the end":               {podRange: "10.42.1.0/29", held: []string{"10.42.1.2", "10.42.1.4", "10.42.1.5", "10.42.1.6"}, after: "10.42.1.5", want: "10.42.1.3"},
		"a range of another time does not say where to begin":         {podRange: "10.42.1.0/24", after: "10.99.0.7", want: "10.42.1.2"},
		"leases of another range take nothing from this one":          {podRange: "10.42.1.0/30", held: []string{"10.99.0.2", "10.99.0.3"}, after: "10.99.0.3", want: "10.42.1.2"},
		"a range with room for the gateway alone has none":            {podRange: "10.42.1.0/31"},
		"a range that ends with all addresses does not go round to 0": {podRange: "255.255.255.252/30", held: []string{"255.255.255.254"}, after: "255.255.255.254"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			held := map[netip.Addr]Lease{}
			for _, address := range tc.held {
				held[netip.MustParseAddr(address)] = Lease{}
			}
			var after netip.Addr
			if tc.after != "" {
				after = netip.MustParseAddr(tc.after)
			}
			got, ok := next(netip.MustParsePrefix(tc.podRange), held, after)
			if text := fmt.Sprint(got); ok && text != tc.want || ok != (tc.want != "") {
				t.Errorf("next() = %v, %v; want %q", got, ok, tc.want)
			}
		})
	}
}

func TestLeasesOutliveTheProcessButNotATornWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "leases")
	first, err := loadLeases(dir)
	if err != nil {
		t.Fatal(err)
	}
	lease := Lease{
		Address: netip.MustParseAddr("10.42.0.9"), ContainerID: "c", IfName: "eth0", Pod: "default/web", Netns: "/run/netns/c",
		Ports: []cni.PortMapping{{HostPort: 80, ContainerPort: 8080, Protocol: "tcp"}},
	}
	if err := first.put(lease); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "10.42.0.10"), []byte(`{"address":"10.4`), 0o600); err != nil {
		t.Fatal(err)
	}
	second, err := loadLeases(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Lease{lease}, second.all(), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("leases after a restart (-want +got):\n%s", diff)
	}
	if second.cursor != lease.Address {
		t.Errorf("cursor = %v, want the address given last", second.cursor)
	}
	if err := second.drop(lease); err != nil {
		t.Fatal(err)
	}
	if err := second.drop(lease); err != nil {
		t.Errorf("dropping a lease twice: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("files left: %v, %v", entries, err)
	}
}

func TestUnlisted(t *testing.T) {
	held := []Lease{{ContainerID: "a", IfName: "eth0"}, {ContainerID: "b", IfName: "eth0"}, {ContainerID: "b", IfName: "eth1"}}
	got := unlisted(held, []cni.Attachment{{ContainerID: "b", IfName: "eth0"}})
	if len(got) != 2 || got[0].ContainerID != "a" || got[1].IfName != "eth1" {
		t.Errorf("unlisted() = %v, want a/eth0 and b/eth1", got)
	}
}

func TestPodName(t *testing.T) {
	tests := map[string]struct{ args, want string }{
		"containerd names the pod":       {args: "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=web-0;K8S_POD_UID=u", want: "ns/web-0"},
		"other runtimes name nothing":    {args: "", want: ""},
		"a namespace alone is no pod":    {args: "K8S_POD_NAMESPACE=ns", want: ""},
		"a pair without value is no pod": {args: "K8S_POD_NAME", want: ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := podName(tc.args); got != tc.want {
				t.Errorf("podName(%q) = %q, want %q", tc.args, got, tc.want)
			}
		})
	}
}

func TestRangeOf(t *testing.T) {
	tests := map[string]struct {
		spec corev1.NodeSpec
		want string
	}{
		"a new node has none":                        {},
		"the range is normalised":                    {spec: corev1.NodeSpec{PodCIDR: "10.42.3.1/24"}, want: "10.42.3.0/24"},
		"of two families IPv4 is taken":              {spec: corev1.NodeSpec{PodCIDR: "fd00::/64", PodCIDRs: []string{"fd00::/64", "10.42.3.0/24"}}, want: "10.42.3.0/24"},
		"what is no range is as if it weren't there": {spec: corev1.NodeSpec{PodCIDR: "soon"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := rangeOf(&corev1.Node{Spec: tc.spec})
			if ok != (tc.want != "") || ok && got.String() != tc.want {
				t.Errorf("rangeOf() = %v, %v; want %q", got, ok, tc.want)
			}
		})
	}
}
