package announce

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/netstack/endpoints"
	"knarr.dev/knarr/netstack/heartbeat"
)

var network = netip.MustParsePrefix("192.0.2.0/24")

// balanced is a Service as the cluster's own controller leaves it.
func balanced(address string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Finalizers: []string{givenHere}},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
		Status:     corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: address}}}},
	}
}

func node(name, address string, ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}},
	}}
}

func endpoint(node string, ready bool) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{"10.42.0.9"}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
}

func TestAddressesOf(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*corev1.Service)
		want   string
	}{
		"what the cluster gave is announced":                   {func(*corev1.Service) {}, "[192.0.2.9]"},
		"a Service of another controller's class is its":       {func(s *corev1.Service) { class := "example.com/lb"; s.Spec.LoadBalancerClass = &class }, "[]"},
		"an address somebody else gave is theirs to announce":  {func(s *corev1.Service) { s.Finalizers = nil }, "[]"},
		"a Service that is no load balancer any more has none": {func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }, "[]"},
		"an address that a proxy in front has is not ours": {func(s *corev1.Service) {
			mode := corev1.LoadBalancerIPModeProxy
			s.Status.LoadBalancer.Ingress[0].IPMode = &mode
		}, "[]"},
		"so is an address of IPv6":                                {func(s *corev1.Service) { s.Status.LoadBalancer.Ingress[0].IP = "2001:db8::1" }, "[2001:db8::1]"},
		"a load balancer with a name instead of an address":       {func(s *corev1.Service) { s.Status.LoadBalancer.Ingress[0].IP = "" }, "[]"},
		"a Service that has been deleted is announced until gone": {func(s *corev1.Service) { now := metav1.Now(); s.DeletionTimestamp = &now }, "[192.0.2.9]"},
	} {
		t.Run(name, func(t *testing.T) {
			service := balanced("192.0.2.9")
			c.change(service)
			if got := fmt.Sprint(addressesOf(service)); got != c.want {
				t.Errorf("addresses %s; want %s", got, c.want)
			}
		})
	}
	if got := addressesOf(nil); got != nil {
		t.Errorf("a Service that is gone has %v", got)
	}
}

func TestWhoMaySpeak(t *testing.T) {
	excluded := node("excluded", "192.0.2.4", corev1.ConditionTrue)
	excluded.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""}
	nodes := []corev1.Node{
		*node("a", "192.0.2.1", corev1.ConditionTrue), *node("b", "192.0.2.2", corev1.ConditionTrue),
		*node("lost", "192.0.2.3", corev1.ConditionUnknown), *excluded, *node("elsewhere", "198.51.100.1", corev1.ConditionTrue),
		{ObjectMeta: metav1.ObjectMeta{Name: "new"}},
	}
	able := candidates(nodes, network)
	if diff := cmp.Diff([]string{"a", "b"}, able); diff != "" {
		t.Errorf("nodes that are Ready, on the network and not excluded (-want +got):\n%s", diff)
	}
	if !nodeAddresses(nodes)[netip.MustParseAddr("192.0.2.3")] {
		t.Error("a lost node's address may be announced")
	}
	for name, c := range map[string]struct {
		policy    corev1.ServiceExternalTrafficPolicy
		endpoints []discoveryv1.Endpoint
		want      []string
	}{
		"any node passes connections on":             {corev1.ServiceExternalTrafficPolicyCluster, nil, []string{"a", "b"}},
		"Local: the node with a ready endpoint":      {corev1.ServiceExternalTrafficPolicyLocal, []discoveryv1.Endpoint{endpoint("b", true)}, []string{"b"}},
		"Local: an endpoint that is not ready":       {corev1.ServiceExternalTrafficPolicyLocal, []discoveryv1.Endpoint{endpoint("a", false), endpoint("b", true)}, []string{"b"}},
		"Local: an endpoint on a node that is lost":  {corev1.ServiceExternalTrafficPolicyLocal, []discoveryv1.Endpoint{endpoint("lost", true)}, []string{}},
		"Local: nobody speaks while nobody is there": {corev1.ServiceExternalTrafficPolicyLocal, nil, []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			service := balanced("192.0.2.9")
			service.Spec.ExternalTrafficPolicy = c.policy
			got := serving(endpoints.Entry{Service: service, Slices: []*discoveryv1.EndpointSlice{{Endpoints: c.endpoints}}}, able)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAddressesSpreadAndOnlyThoseOfANodeThatGoesMove(t *testing.T) {
	if got := ranked(netip.MustParseAddr("192.0.2.9"), nil); len(got) > 0 {
		t.Errorf("of no nodes %q speak", got)
	}
	count := map[string]int{}
	for addr := network.Addr(); network.Contains(addr); addr = addr.Next() {
		before, after := ranked(addr, []string{"n1", "n2", "n3"})[0], ranked(addr, []string{"n3", "n1"})[0]
		count[before]++
		if before != "n2" && after != before {
			t.Errorf("%s moved from %s to %s, though only n2 went", addr, before, after)
		}
	}
	for _, name := range []string{"n1", "n2", "n3"} {
		if count[name] < 256/6 {
			t.Errorf("%s speaks for %d of 256 addresses: %v", name, count[name], count)
		}
	}
}

func TestSpeaker(t *testing.T) {
	here, gone := heartbeat.Presence{Heard: true, Standing: true, Serving: true}, heartbeat.Presence{Heard: true, Gone: true, Standing: true, Serving: true}
	back := heartbeat.Presence{Heard: true, Serving: true} // somebody else has lost it
	mute := heartbeat.Presence{Heard: true, Standing: true}
	type peers = map[string]heartbeat.Presence
	line, api := claim{line: []string{"a", "b", "c"}}, claim{line: []string{"a", "b", "c"}, api: true, ready: map[string]bool{"a": true}}
	for name, c := range map[string]struct {
		claim   claim
		peers   peers
		doubted bool
		mute    bool // the API server here
		want    string
	}{
		"the first in line": {claim: line, peers: peers{"a": here, "c": here}, want: "a"},
		"one who is not heard counts by its node's condition":     {claim: line, want: "a"},
		"the next when the first is gone":                         {claim: line, peers: peers{"a": gone, "c": here}, want: "b"},
		"the next when the first stands back for others":          {claim: line, peers: peers{"a": back, "c": here}, want: "b"},
		"who is doubted stands back":                              {claim: line, peers: peers{"a": gone, "c": here}, doubted: true, want: "c"},
		"who is doubted by the last one left speaks all the same": {claim: line, peers: peers{"a": gone, "c": back}, doubted: true, want: "b"},
		"a line of one":  {claim: claim{line: []string{"b"}}, want: "b"},
		"nobody in line": {want: ""},
		"the API: the first whose server answers":                   {claim: api, peers: peers{"a": mute, "c": here}, want: "b"},
		"the API: one who is not heard counts by its node":          {claim: api, want: "a"},
		"the API: not the one here when its server does not answer": {claim: api, peers: peers{"a": gone, "c": here}, mute: true, want: "c"},
		"the API: nobody when no server answers":                    {claim: api, peers: peers{"a": mute, "c": mute}, mute: true, want: ""},
		"the API: one who is not heard and not Ready is not there":  {claim: api, peers: peers{"a": gone}, mute: true, want: ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.claim.speaker("b", !c.mute, heartbeat.View{Peers: c.peers, Doubted: c.doubted, Settled: true}); got != c.want {
				t.Errorf("%q speaks; want %q", got, c.want)
			}
		})
	}
}

func TestCompany(t *testing.T) {
	five := []string{"a", "b", "c", "d", "e"}
	for name, c := range map[string]struct {
		claim claim
		self  string
		want  []string
	}{
		"the first three listen for each other":    {claim{line: five}, "b", []string{"a", "c"}},
		"others have nobody to listen for":         {claim{line: five}, "d", nil},
		"one alone has nobody to listen for":       {claim{line: five[:1]}, "a", []string{}},
		"who is not in line has nobody":            {claim{line: five[:2]}, "c", nil},
		"API servers are few: all listen for each": {claim{line: five, api: true}, "e", []string{"a", "b", "c", "d"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, c.claim.company(c.self)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestServers(t *testing.T) {
	server := func(name, address string, ready corev1.ConditionStatus) corev1.Node {
		n := node(name, address, ready)
		n.Labels = map[string]string{controlPlane: ""}
		return *n
	}
	names, ready := servers([]corev1.Node{
		server("a", "192.0.2.1", corev1.ConditionTrue), server("b", "192.0.2.2", corev1.ConditionUnknown),
		server("elsewhere", "198.51.100.1", corev1.ConditionTrue), *node("agent", "192.0.2.4", corev1.ConditionTrue),
	}, network, "c")
	if diff := cmp.Diff([]string{"c", "a", "b"}, names); diff != "" {
		t.Errorf("servers on the network, and this one (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]bool{"a": true, "b": false}, ready); diff != "" {
		t.Errorf("which of the others are Ready (-want +got):\n%s", diff)
	}
}

func TestPackets(t *testing.T) {
	asked := packet{request, []byte{2, 0, 0, 0, 0, 1}, nobody, netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.9")}
	frame := asked.frame(broadcast)
	got, ok := parse(append(frame, make([]byte, 18)...)) // Ethernet fills up to 60 bytes
	if diff := cmp.Diff(asked, got, cmp.AllowUnexported(packet{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); !ok || diff != "" {
		t.Errorf("parsed %t (-want +got):\n%s", ok, diff)
	}
	for name, at := range map[string]int{"another protocol": 13, "another kind of link": 15, "another kind of address": 16} {
		other := append([]byte(nil), frame...)
		other[at] ^= 0xff
		if _, ok := parse(other); ok {
			t.Errorf("%s is taken for ARP", name)
		}
	}
	if _, ok := parse(frame[:frameSize-1]); ok {
		t.Error("a frame that is cut short is taken for ARP")
	}
}
