package podnet

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
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
		"a range of IPv6 is given from its beginning":                 {podRange: "fd42:0:0:1::/64", after: "fd42:0:0:1::7", want: "fd42:0:0:1::8"},
		"a taken address of IPv6 takes its twin":                      {podRange: "10.42.1.0/24,fd42:0:0:1::/64", held: []string{"fd42:0:0:1::2"}, want: "10.42.1.3"},
		"behind IPv4 there is always a twin in IPv6":                  {podRange: "10.42.1.0/24,fd42:0:0:1::/64", after: "10.42.1.253", want: "10.42.1.254"},
		"IPv6 goes round where IPv4 ends":                             {podRange: "fd42:0:0:1::/64,10.42.1.0/24", after: "fd42:0:0:1::fe", want: "fd42:0:0:1::2"},
		"and is full when IPv4 is":                                    {podRange: "fd42:0:0:1::/64,10.42.1.0/30", held: []string{"10.42.1.2"}, after: "fd42:0:0:1::2"},
		"a range that ends with all addresses does not go round to 0": {podRange: "255.255.255.252/30", held: []string{"255.255.255.254"}, after: "255.255.255.254"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			held := map[netip.Addr]bool{}
			for _, address := range tc.held {
				held[netip.MustParseAddr(address)] = true
			}
			var ranges []netip.Prefix
			for text := range strings.SplitSeq(tc.podRange, ",") {
				ranges = append(ranges, netip.MustParsePrefix(text))
			}
			var after netip.Addr
			if tc.after != "" {
				after = netip.MustParseAddr(tc.after)
			}
			got, ok := next(ranges, held, after)
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
		Address: netip.MustParseAddr("10.42.0.9"), Second: netip.MustParseAddr("fd42::9"), ContainerID: "c", IfName: "eth0", Pod: "default/web", Netns: "/run/netns/c",
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
	if !second.taken[lease.Address] || !second.taken[lease.Second] {
		t.Errorf("addresses that are known to be taken: %v", second.taken)
	}
	if second.cursor != lease.Address {
		t.Errorf("cursor = %v, want the address given last", second.cursor)
	}
	if err := second.drop(lease); err != nil {
		t.Fatal(err)
	}
	if len(second.taken) != 0 {
		t.Errorf("taken although nobody has a lease: %v", second.taken)
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

func TestRangesOf(t *testing.T) {
	four, six := netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd42::/48")
	tests := map[string]struct {
		spec    corev1.NodeSpec
		cluster []netip.Prefix
		want    string
	}{
		"a new node has none":                         {cluster: []netip.Prefix{four}, want: "[]"},
		"the range is normalised":                     {cluster: []netip.Prefix{four}, spec: corev1.NodeSpec{PodCIDR: "10.42.3.1/24"}, want: "[10.42.3.0/24]"},
		"a family the cluster has not is passed over": {cluster: []netip.Prefix{four}, spec: corev1.NodeSpec{PodCIDR: "fd42::/64", PodCIDRs: []string{"fd42::/64", "10.42.3.0/24"}}, want: "[10.42.3.0/24]"},
		"the cluster's order counts":                  {cluster: []netip.Prefix{four, six}, spec: corev1.NodeSpec{PodCIDR: "fd42::/64", PodCIDRs: []string{"fd42::/64", "10.42.3.0/24"}}, want: "[10.42.3.0/24 fd42::/64]"},
		"a node may be older than a family":           {cluster: []netip.Prefix{four, six}, spec: corev1.NodeSpec{PodCIDR: "10.42.3.0/24"}, want: "[10.42.3.0/24]"},
		"what is no range is as if it weren't there":  {cluster: []netip.Prefix{four}, spec: corev1.NodeSpec{PodCIDR: "soon"}, want: "[]"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := fmt.Sprint(rangesOf(&corev1.Node{Spec: tc.spec}, tc.cluster)); got != tc.want {
				t.Errorf("rangesOf() = %v; want %v", got, tc.want)
			}
		})
	}
}
