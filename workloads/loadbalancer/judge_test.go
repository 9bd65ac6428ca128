package loadbalancer

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1listers "k8s.io/client-go/listers/core/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/bootstrap/addresspool"
)

func service(name string, changes ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}},
	}
	for _, change := range changes {
		change(s)
	}
	return s
}

func asks(ip string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.LoadBalancerIP = ip }
}

func dual(policy corev1.IPFamilyPolicy) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.IPFamilyPolicy, s.Spec.IPFamilies = &policy, []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	}
}

func addresses(texts string) []netip.Addr {
	var out []netip.Addr
	for _, text := range strings.Fields(texts) {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

func TestChoose(t *testing.T) {
	tests := map[string]struct {
		service     *corev1.Service
		have, taken string
		pool        string
		want, err   string
	}{
		"the first address that is free":               {service: service("a"), pool: "192.0.2.1-192.0.2.3", taken: "192.0.2.1", want: "192.0.2.2"},
		"what it has it keeps":                         {service: service("a"), pool: "192.0.2.1-192.0.2.3", have: "192.0.2.3", want: "192.0.2.3"},
		"what is no longer in the pool it loses":       {service: service("a"), pool: "192.0.2.1-192.0.2.3", have: "192.0.2.9", want: "192.0.2.1"},
		"what another has as well it loses":            {service: service("a"), pool: "192.0.2.1-192.0.2.3", have: "192.0.2.1", taken: "192.0.2.1", want: "192.0.2.2"},
		"a full pool":                                  {service: service("a"), pool: "192.0.2.1", taken: "192.0.2.1", err: "no free IPv4 address"},
		"what it asks for it gets":                     {service: service("a", asks("192.0.2.3")), pool: "192.0.2.1-192.0.2.3", have: "192.0.2.1", want: "192.0.2.3"},
		"what it asks for is another's":                {service: service("a", asks("192.0.2.3")), pool: "192.0.2.1-192.0.2.3", taken: "192.0.2.3", err: "another service's"},
		"what it asks for is not in the pool":          {service: service("a", asks("198.51.100.1")), pool: "192.0.2.1-192.0.2.3", err: "not among"},
		"both families":                                {service: service("a", dual(corev1.IPFamilyPolicyRequireDualStack)), pool: "192.0.2.1, 2001:db8::1", want: "192.0.2.1 2001:db8::1"},
		"both needed, one there":                       {service: service("a", dual(corev1.IPFamilyPolicyRequireDualStack)), pool: "192.0.2.1", err: "no free IPv6 address"},
		"both preferred, one there":                    {service: service("a", dual(corev1.IPFamilyPolicyPreferDualStack)), pool: "192.0.2.1", want: "192.0.2.1"},
		"an IPv4 service gets no IPv6 address instead": {service: service("a"), pool: "2001:db8::1", err: "no free IPv4 address"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			pool, err := addresspool.Parse(tc.pool)
			if err != nil {
				t.Fatal(err)
			}
			occupied := map[netip.Addr]bool{}
			for _, ip := range addresses(tc.taken) {
				occupied[ip] = true
			}
			got, err := choose(tc.service, addresses(tc.have), pool, occupied)
			if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Fatalf("choose() error = %v, want %q", err, tc.err)
			}
			if diff := cmp.Diff(addresses(tc.want), got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Errorf("choose() (-want +got):\n%s", diff)
			}
		})
	}
}

// TestProviderGivesNothingTwice asks faster than the cache can follow, and after a restart.
func TestProviderGivesNothingTwice(t *testing.T) {
	store := toolscache.NewIndexer(toolscache.MetaNamespaceKeyFunc, toolscache.Indexers{})
	old := service("old")
	old.Status.LoadBalancer = *status(addresses("192.0.2.1"))
	a, b := service("a"), service("b")
	for _, s := range []*corev1.Service{old, a, b} {
		if err := store.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	pool, err := addresspool.Parse("192.0.2.1-192.0.2.3")
	if err != nil {
		t.Fatal(err)
	}
	p := NewProvider(pool, corev1listers.NewServiceLister(store))
	seen := map[string]string{}
	for _, s := range []*corev1.Service{a, b, old, a, b} {
		got, err := p.EnsureLoadBalancer(t.Context(), "", s, nil)
		if err != nil {
			t.Fatal(err)
		}
		ip := got.Ingress[0].IP
		if other := seen[ip]; other != "" && other != s.Name {
			t.Errorf("%s and %s both have %s", other, s.Name, ip)
		}
		seen[ip] = s.Name
	}
	if seen["192.0.2.1"] != "old" {
		t.Error("the service that had an address has lost it")
	}
	if _, err := p.EnsureLoadBalancer(t.Context(), "", service("c"), nil); err == nil {
		t.Error("a fourth address out of three")
	}
	if err := p.EnsureLoadBalancerDeleted(t.Context(), "", a); err != nil {
		t.Fatal(err)
	}
	if _, err := p.EnsureLoadBalancer(t.Context(), "", service("c"), nil); err != nil {
		t.Error(err)
	}
	if !ptr.Equal(status(addresses("192.0.2.1")).Ingress[0].IPMode, ptr.To(corev1.LoadBalancerIPModeVIP)) {
		t.Error("the address is not the cluster's own to answer for")
	}
}
