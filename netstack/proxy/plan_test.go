package proxy

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/netstack/endpoints"
)

var site = Site{Node: "here", Pods: []netip.Prefix{podRange, netip.MustParsePrefix("fd00:42::/48")}, Reserved: []netip.Addr{dnsAddr}}

func onlyTCP(s *corev1.Service) { s.Spec.Ports = s.Spec.Ports[:1] }

func tcp(addr string, port uint16) Frontend {
	return Frontend{Addr: netip.MustParseAddr(addr), Proto: 6, Port: port}
}

func pool(endpoints ...string) []netip.AddrPort {
	var all []netip.AddrPort
	for _, e := range endpoints {
		all = append(all, netip.MustParseAddrPort(e))
	}
	return all
}

func TestPlan(t *testing.T) {
	here, away := ep("10.42.0.11", "here"), ep("10.42.7.12", "elsewhere")
	toAny := map[Frontend]string{tcp("10.43.0.80", 80): "any4/shop/web/TCP/80"}
	loop := []netip.Addr{netip.MustParseAddr("10.42.0.11")}
	cases := map[string]struct {
		service *corev1.Service
		slices  []*discoveryv1.EndpointSlice
		want    Plan
	}{
		"a cluster address goes to all ready endpoints": {
			service: svc(onlyTCP), slices: []*discoveryv1.EndpointSlice{sliceOf(here, away, ep("10.42.7.13", "elsewhere", notReady))},
			want: Plan{
				Frontends: toAny, Loops: loop,
				Chains: map[string]Chain{"any4/shop/web/TCP/80": {Pool: pool("10.42.0.11:8080", "10.42.7.12:8080")}},
			},
		},
		"an endpoint in two slices counts once": {
			service: svc(onlyTCP), slices: []*discoveryv1.EndpointSlice{sliceOf(here), sliceOf(here)},
			want: Plan{
				Frontends: toAny, Loops: loop,
				Chains: map[string]Chain{"any4/shop/web/TCP/80": {Pool: pool("10.42.0.11:8080")}},
			},
		},
		"endpoints that leave serve while nobody else does": {
			service: svc(onlyTCP), slices: []*discoveryv1.EndpointSlice{sliceOf(ep("10.42.7.12", "elsewhere", leaving))},
			want: Plan{
				Frontends: toAny,
				Chains:    map[string]Chain{"any4/shop/web/TCP/80": {Pool: pool("10.42.7.12:8080")}},
			},
		},
		"without endpoints connections are refused": {
			service: svc(onlyTCP, nodePort),
			want: Plan{Frontends: map[Frontend]string{
				tcp("10.43.0.80", 80): targetReject, tcp("0.0.0.0", 30080): targetReject,
			}},
		},
		"UDP flows may live on to the endpoints there are": {
			service: svc(func(s *corev1.Service) { s.Spec.Ports = s.Spec.Ports[1:] }), slices: []*discoveryv1.EndpointSlice{sliceOf(away)},
			want: Plan{
				Frontends: map[Frontend]string{{Addr: netip.MustParseAddr("10.43.0.80"), Proto: 17, Port: 80}: "any4/shop/web/UDP/80"},
				Chains:    map[string]Chain{"any4/shop/web/UDP/80": {Pool: pool("10.42.7.12:8080")}},
				Live:      map[Frontend][]netip.AddrPort{{Addr: netip.MustParseAddr("10.43.0.80"), Proto: 17, Port: 80}: pool("10.42.7.12:8080")},
			},
		},
		"a node port hides the sender and joins the others": {
			service: svc(onlyTCP, nodePort), slices: []*discoveryv1.EndpointSlice{sliceOf(away)},
			want: Plan{
				Frontends: map[Frontend]string{tcp("10.43.0.80", 80): "any4/shop/web/TCP/80", tcp("0.0.0.0", 30080): "out4/shop/web/TCP/80"},
				Chains: map[string]Chain{
					"any4/shop/web/TCP/80": {Pool: pool("10.42.7.12:8080")},
					"out4/shop/web/TCP/80": {Kind: outside, Next: "any4/shop/web/TCP/80"},
				},
			},
		},
		"the external Local policy keeps connections here": {
			service: svc(onlyTCP, nodePort, externalLocal), slices: []*discoveryv1.EndpointSlice{sliceOf(here, away)},
			want: Plan{
				Frontends: map[Frontend]string{tcp("10.43.0.80", 80): "any4/shop/web/TCP/80", tcp("0.0.0.0", 30080): "out4/shop/web/TCP/80"},
				Chains: map[string]Chain{
					"any4/shop/web/TCP/80": {Pool: pool("10.42.0.11:8080", "10.42.7.12:8080")},
					"out4/shop/web/TCP/80": {Kind: outsideHere, Pool: pool("10.42.0.11:8080"), Next: "any4/shop/web/TCP/80"},
				},
				Loops: loop,
			},
		},
		"the internal Local policy needs no other chain": {
			service: svc(onlyTCP, internalLocal), slices: []*discoveryv1.EndpointSlice{sliceOf(here, away)},
			want: Plan{
				Frontends: map[Frontend]string{tcp("10.43.0.80", 80): "here4/shop/web/TCP/80"},
				Chains:    map[string]Chain{"here4/shop/web/TCP/80": {Pool: pool("10.42.0.11:8080")}},
				Loops:     loop,
			},
		},
		"the internal Local policy with nobody here drops": {
			service: svc(onlyTCP, internalLocal), slices: []*discoveryv1.EndpointSlice{sliceOf(away)},
			want: Plan{Frontends: map[Frontend]string{tcp("10.43.0.80", 80): targetDrop}},
		},
		"clients stick for as long as the service says": {
			service: svc(onlyTCP, sticky, func(s *corev1.Service) {
				s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](60)}}
			}),
			slices: []*discoveryv1.EndpointSlice{sliceOf(away)},
			want: Plan{
				Frontends: toAny,
				Chains:    map[string]Chain{"any4/shop/web/TCP/80": {Pool: pool("10.42.7.12:8080"), Sticky: time.Minute}},
			},
		},
		"a balancer's address is guarded, a balancer that proxies is not ours": {
			service: svc(onlyTCP, func(s *corev1.Service) {
				s.Spec.Type = corev1.ServiceTypeLoadBalancer
				s.Spec.ExternalIPs = []string{"203.0.113.9"}
				s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24", "2001:db8::/32"}
				s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{
					{IP: "203.0.113.1"}, {IP: "203.0.113.2", IPMode: ptr.To(corev1.LoadBalancerIPModeProxy)}, {Hostname: "lb.example.com"},
				}
			}),
			slices: []*discoveryv1.EndpointSlice{sliceOf(away)},
			want: Plan{
				Frontends: map[Frontend]string{
					tcp("10.43.0.80", 80): "any4/shop/web/TCP/80", tcp("203.0.113.9", 80): "out4/shop/web/TCP/80", tcp("203.0.113.1", 80): "lb4/shop/web/TCP/80",
				},
				Chains: map[string]Chain{
					"any4/shop/web/TCP/80": {Pool: pool("10.42.7.12:8080")},
					"out4/shop/web/TCP/80": {Kind: outside, Next: "any4/shop/web/TCP/80"},
					"lb4/shop/web/TCP/80":  {Kind: guard, Sources: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Next: "out4/shop/web/TCP/80"},
				},
			},
		},
		"two families do not mix": {
			service: svc(onlyTCP, nodePort, func(s *corev1.Service) { s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, "fd00:43::80") }),
			slices: []*discoveryv1.EndpointSlice{sliceOf(away), func() *discoveryv1.EndpointSlice {
				s := sliceOf(ep("fd00:42::12", "elsewhere"))
				s.AddressType = discoveryv1.AddressTypeIPv6
				return s
			}()},
			want: Plan{
				Frontends: map[Frontend]string{
					tcp("10.43.0.80", 80): "any4/shop/web/TCP/80", tcp("0.0.0.0", 30080): "out4/shop/web/TCP/80",
					tcp("fd00:43::80", 80): "any6/shop/web/TCP/80", tcp("::", 30080): "out6/shop/web/TCP/80",
				},
				Chains: map[string]Chain{
					"any4/shop/web/TCP/80": {Pool: pool("10.42.7.12:8080")},
					"out4/shop/web/TCP/80": {Kind: outside, Next: "any4/shop/web/TCP/80"},
					"any6/shop/web/TCP/80": {V6: true, Pool: pool("[fd00:42::12]:8080")},
					"out6/shop/web/TCP/80": {Kind: outside, V6: true, Next: "any6/shop/web/TCP/80"},
				},
			},
		},
		"a reserved address is left alone, its node port is not": {
			service: svc(onlyTCP, nodePort, func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.43.0.10", []string{"10.43.0.10"} }),
			slices:  []*discoveryv1.EndpointSlice{sliceOf(away)},
			want: Plan{
				Frontends: map[Frontend]string{tcp("0.0.0.0", 30080): "out4/shop/web/TCP/80"},
				Chains: map[string]Chain{
					"any4/shop/web/TCP/80": {Pool: pool("10.42.7.12:8080")},
					"out4/shop/web/TCP/80": {Kind: outside, Next: "any4/shop/web/TCP/80"},
				},
			},
		},
		"a headless service wants nothing": {
			service: svc(func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "None", []string{"None"} }),
			slices:  []*discoveryv1.EndpointSlice{sliceOf(here)},
		},
		"a service that another proxy looks after wants nothing": {
			service: svc(func(s *corev1.Service) { s.Labels = map[string]string{labelProxyName: "mesh"} }),
			slices:  []*discoveryv1.EndpointSlice{sliceOf(here)},
		},
		"slices whose service is gone want nothing": {slices: []*discoveryv1.EndpointSlice{sliceOf(here)}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			before := tc.service.DeepCopy()
			got := plan(endpoints.Entry{Service: tc.service, Slices: tc.slices}, site)
			if diff := cmp.Diff(tc.want, got, same...); diff != "" {
				t.Errorf("plan() (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, tc.service); diff != "" {
				t.Errorf("plan() changed a cached object (-before +after):\n%s", diff)
			}
		})
	}
}

var same = cmp.Options{
	cmpopts.EquateEmpty(),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func TestNear(t *testing.T) {
	hinted := func(addr string, nodes, zones []string, change ...func(*discoveryv1.EndpointConditions)) discoveryv1.Endpoint {
		e := ep(addr, "elsewhere", change...)
		e.Hints = &discoveryv1.EndpointHints{}
		for _, n := range nodes {
			e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: n})
		}
		for _, z := range zones {
			e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: z})
		}
		return e
	}
	type names = []string
	tests := map[string]struct {
		endpoints []discoveryv1.Endpoint
		want      []netip.AddrPort
	}{
		"those of our zone": {
			[]discoveryv1.Endpoint{hinted("10.42.0.1", nil, names{"ours"}), hinted("10.42.0.2", nil, names{"other"}), hinted("10.42.0.3", nil, names{"other", "ours"})},
			pool("10.42.0.1:8080", "10.42.0.3:8080"),
		},
		"all, when none is for our zone": {
			[]discoveryv1.Endpoint{hinted("10.42.0.1", nil, names{"other"}), hinted("10.42.0.2", nil, names{"third"})},
			pool("10.42.0.1:8080", "10.42.0.2:8080"),
		},
		"all, when one has no hint": {
			[]discoveryv1.Endpoint{hinted("10.42.0.1", nil, names{"ours"}), ep("10.42.0.2", "elsewhere")},
			pool("10.42.0.1:8080", "10.42.0.2:8080"),
		},
		"an unready one counts neither for nor against": {
			[]discoveryv1.Endpoint{hinted("10.42.0.1", nil, names{"ours"}), hinted("10.42.0.2", nil, names{"other"}), ep("10.42.0.3", "elsewhere", notReady)},
			pool("10.42.0.1:8080"),
		},
		"our node before our zone": {
			[]discoveryv1.Endpoint{hinted("10.42.0.1", names{"here"}, names{"ours"}), hinted("10.42.0.2", names{"elsewhere"}, names{"ours"})},
			pool("10.42.0.1:8080"),
		},
		"our zone, when none is for our node": {
			[]discoveryv1.Endpoint{hinted("10.42.0.1", names{"elsewhere"}, names{"ours"}), hinted("10.42.0.2", names{"elsewhere"}, names{"other"})},
			pool("10.42.0.1:8080"),
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			zoned := site
			zoned.Zone = "ours"
			got := plan(endpoints.Entry{Service: svc(onlyTCP), Slices: []*discoveryv1.EndpointSlice{sliceOf(tc.endpoints...)}}, zoned)
			if diff := cmp.Diff(tc.want, got.Chains["any4/shop/web/TCP/80"].Pool, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
				t.Errorf("pool (-want +got):\n%s", diff)
			}
		})
	}
}

func TestArriving(t *testing.T) {
	addrs := func(texts ...string) []netip.Addr {
		var all []netip.Addr
		for _, text := range texts {
			all = append(all, netip.MustParseAddr(text))
		}
		return all
	}
	own := Site{External: addrs("198.51.100.1"), Internal: addrs("192.0.2.1", "2001:db8::1")}
	for name, c := range map[string]struct{ balanced, want []netip.Addr }{
		"what is sent to another's address arrives there": {addrs("198.51.100.2"), addrs("198.51.100.2")},
		"what is sent to an external address of this node, somebody may have sent on to an internal one": {
			addrs("198.51.100.2", "198.51.100.1"), addrs("198.51.100.2", "198.51.100.1", "192.0.2.1"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := own.arriving(c.balanced, false); !slices.Equal(got, c.want) {
				t.Errorf("arriving() = %v; want %v", got, c.want)
			}
		})
	}
}

func TestWhatOfItsNodeMatters(t *testing.T) {
	one := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{corev1.LabelTopologyZone: "z"}}, Status: corev1.NodeStatus{
		Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}, {Type: corev1.NodeHostName, Address: "one"}},
	}}
	moved := one.DeepCopy()
	moved.Status.Addresses[0].Address = "192.0.2.2"
	outside, outsideMoved := one.DeepCopy(), moved.DeepCopy()
	for _, n := range []*corev1.Node{outside, outsideMoved} {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "198.51.100.1"})
	}
	for name, c := range map[string]struct {
		before, now *corev1.Node
		want        bool
	}{
		"its zone, when it becomes known":                 {nil, one, true},
		"nothing without a zone":                          {nil, &corev1.Node{}, false},
		"nothing that stays":                              {one, one, false},
		"no other internal address":                       {one, moved, false},
		"an external address":                             {one, outside, true},
		"another internal address beside an external one": {outside, outsideMoved, true},
	} {
		t.Run(name, func(t *testing.T) {
			var before *self
			if c.before != nil {
				before = selfOf(c.before)
			}
			if got := selfOf(c.now).matters(before); got != c.want {
				t.Errorf("matters() = %t", got)
			}
		})
	}
}
