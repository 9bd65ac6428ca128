package proxy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/netstack/endpoints"
)

// Frontend is an address a client dials. A node port has the unspecified address of its family: any address of the node.
type Frontend struct {
	Addr  netip.Addr
	Proto uint8 // as in the IP header
	Port  uint16
}

// Two targets that need no chain of their own.
const (
	targetReject = "reject" // nobody could answer anywhere: say so at once
	targetDrop   = "drop"   // somebody could, but not on this node, and the policy forbids going further
)

// kind is what a chain does with a new connection.
type kind int

const (
	// inside takes connections to a cluster address: hides the sender unless it is a pod, then picks an endpoint.
	inside kind = iota
	// outside takes connections from anywhere to any endpoint: always hides the sender, so that the answer comes back here.
	outside
	// outsideHere keeps connections and their sender's address on this node. Pods and the node itself are not outside:
	// they may go to any endpoint.
	outsideHere
	// guard lets only some senders pass on to another chain.
	guard
)

// Chain is what happens to connections to one port of one Service.
type Chain struct {
	Kind    kind
	V6      bool
	Pool    []netip.AddrPort // sorted, without repeats
	Sticky  time.Duration    // a client keeps its endpoint this long after its last connection; 0: no stickiness
	Next    string           // the chain that outside, outsideHere and guard pass connections to
	Sources []netip.Prefix   // guard: who may pass
}

func (c Chain) equal(other Chain) bool {
	return c.Kind == other.Kind && c.V6 == other.V6 && c.Sticky == other.Sticky && c.Next == other.Next &&
		slices.Equal(c.Pool, other.Pool) && slices.Equal(c.Sources, other.Sources)
}

// Plan is everything one Service wants from the kernel.
type Plan struct {
	Created   time.Time                     // of two Services that want one address, the older gets it
	Frontends map[Frontend]string           // to a chain or target
	Chains    map[string]Chain              // by name
	Live      map[Frontend][]netip.AddrPort // UDP only: where existing flows may go on to
	Caused    time.Time                     // when the last change of its endpoints happened, as far as is known
	Loops     []netip.Addr                  // endpoints here, which may reach themselves through the Service
}

// Site is what a plan needs to know about where it is made.
type Site struct {
	Node     string
	Zone     string         // of the node, "" if it has none
	Pods     []netip.Prefix // addresses of all pods
	Reserved []netip.Addr   // cluster addresses that something on this node answers itself

	// The node's own addresses: what is sent to an external one, somebody in front of the node may have sent on to an internal one.
	External, Internal []netip.Addr
}

var protocols = map[corev1.Protocol]uint8{corev1.ProtocolTCP: 6, corev1.ProtocolUDP: 17, corev1.ProtocolSCTP: 132}

const (
	labelProxyName = "service.kubernetes.io/service-proxy-name" // set: another proxy looks after this Service
	defaultSticky  = 3 * time.Hour                              // the API's default for ClientIP affinity
)

// plan decides what one Service wants. A Service that is gone, headless or not ours wants nothing.
func plan(e endpoints.Entry, site Site) Plan {
	service := e.Service
	if service == nil || service.Spec.Type == corev1.ServiceTypeExternalName {
		return Plan{}
	}
	if _, other := service.Labels[labelProxyName]; other {
		return Plan{}
	}
	p := Plan{
		Created:   service.CreationTimestamp.Time,
		Caused:    caused(e.Slices),
		Frontends: map[Frontend]string{},
		Chains:    map[string]Chain{},
		Live:      map[Frontend][]netip.AddrPort{},
	}
	for _, text := range clusterIPs(service) {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			continue // "None", or not assigned yet
		}
		for i := range service.Spec.Ports {
			if proto, known := protocols[service.Spec.Ports[i].Protocol]; known {
				p.addPort(e, &service.Spec.Ports[i], proto, addr, site)
			}
		}
	}
	slices.SortFunc(p.Loops, netip.Addr.Compare)
	p.Loops = slices.Compact(p.Loops)
	return p
}

// caused is the latest change that slices tell of; whoever makes them notes when a pod became ready, or ceased to be.
func caused(list []*discoveryv1.EndpointSlice) (latest time.Time) {
	for _, slice := range list {
		at, err := time.Parse(time.RFC3339Nano, slice.Annotations[corev1.EndpointsLastChangeTriggerTime])
		if err == nil && at.After(latest) {
			latest = at
		}
	}
	return latest
}

// fixed is the plan of what belongs to no Service: places that lead to one other each, of TCP.
func fixed(places map[netip.AddrPort]netip.AddrPort) Plan {
	p := Plan{Frontends: map[Frontend]string{}, Chains: map[string]Chain{}}
	for from, to := range places {
		name := fmt.Sprintf("own/%s/TCP/%d", strings.ReplaceAll(from.Addr().String(), ":", "-"), from.Port())
		p.Frontends[Frontend{Addr: from.Addr(), Proto: protocols[corev1.ProtocolTCP], Port: from.Port()}] = name
		p.Chains[name] = Chain{Kind: inside, V6: from.Addr().Is6(), Pool: []netip.AddrPort{to}}
	}
	return p
}

// addPort plans one port in one address family, that of the cluster address.
func (p *Plan) addPort(e endpoints.Entry, port *corev1.ServicePort, proto uint8, clusterIP netip.Addr, site Site) {
	service := e.Service
	v6 := clusterIP.Is6()
	behind := backends(e.Slices, port, v6, site)
	everywhere, here := choose(near(behind), false), choose(behind, true)
	sticky := stickiness(service)
	name := func(prefix string) string { return chainName(prefix, service, port, v6) }

	// needAny makes the cluster-wide chain exist; most Services have no other.
	needAny := func() string {
		p.Chains[name("any")] = Chain{Kind: inside, V6: v6, Pool: everywhere, Sticky: sticky}
		return name("any")
	}
	front := func(addr netip.Addr, number uint16, target string, live []netip.AddrPort) {
		f := Frontend{Addr: addr, Proto: proto, Port: number}
		p.Frontends[f] = target
		if proto == protocols[corev1.ProtocolUDP] {
			p.Live[f] = live
		}
	}

	if !slices.Contains(site.Reserved, clusterIP) {
		target, live := targetReject, everywhere
		switch internalLocal := ptr.Deref(service.Spec.InternalTrafficPolicy, "") == corev1.ServiceInternalTrafficPolicyLocal; {
		case len(everywhere) == 0:
		case !internalLocal:
			target = needAny()
		case len(here) == 0:
			target, live = targetDrop, nil
		default:
			target, live = name("here"), here
			p.Chains[target] = Chain{Kind: inside, V6: v6, Pool: here, Sticky: sticky}
		}
		front(clusterIP, uint16(port.Port), target, live)
	}

	external := externalAddrs(service, v6)
	balanced := site.arriving(balancerAddrs(service, v6), v6)
	if len(external)+len(balanced) > 0 || port.NodePort != 0 {
		target := targetReject
		switch {
		case len(everywhere) == 0:
		case service.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal:
			target = name("out")
			p.Chains[target] = Chain{Kind: outsideHere, V6: v6, Pool: here, Sticky: sticky, Next: needAny()}
		default:
			target = name("out")
			p.Chains[target] = Chain{Kind: outside, V6: v6, Next: needAny()}
		}
		for _, addr := range external {
			front(addr, uint16(port.Port), target, everywhere)
		}
		if port.NodePort != 0 {
			front(anywhere(v6), uint16(port.NodePort), target, everywhere)
		}
		if sources := sourceRanges(service, v6); target != targetReject && len(balanced) > 0 && len(service.Spec.LoadBalancerSourceRanges) > 0 {
			p.Chains[name("lb")] = Chain{Kind: guard, V6: v6, Sources: sources, Next: target}
			target = name("lb")
		}
		for _, addr := range balanced {
			front(addr, uint16(port.Port), target, everywhere)
		}
	}

	for _, b := range behind {
		if b.here && slices.ContainsFunc(site.Pods, func(r netip.Prefix) bool { return r.Contains(b.addr.Addr()) }) {
			p.Loops = append(p.Loops, b.addr.Addr())
		}
	}
}

// arriving are the addresses at which packets for a load balancer's addresses arrive here.
func (s Site) arriving(balanced []netip.Addr, v6 bool) []netip.Addr {
	if !slices.ContainsFunc(balanced, func(addr netip.Addr) bool { return slices.Contains(s.External, addr) }) {
		return balanced
	}
	for _, addr := range s.Internal {
		if addr.Is6() == v6 && !slices.Contains(balanced, addr) {
			balanced = append(balanced, addr)
		}
	}
	return balanced
}

// backend is one endpoint of one port.
type backend struct {
	addr  netip.AddrPort
	here  bool
	ready bool
	last  bool // terminating but still serving: better than nobody
	hints [2]hint
}

// hint is for which nodes, or for which zones, whoever made the slice meant an endpoint.
type hint struct{ given, us bool }

// backends collects the endpoints of a port from all slices; one that moves between slices may be in two for a moment.
func backends(list []*discoveryv1.EndpointSlice, port *corev1.ServicePort, v6 bool, site Site) []backend {
	family := discoveryv1.AddressTypeIPv4
	if v6 {
		family = discoveryv1.AddressTypeIPv6
	}
	var all []backend
	for _, slice := range list {
		if slice.AddressType != family {
			continue
		}
		number, found := portOf(slice, port)
		if !found {
			continue
		}
		for i := range slice.Endpoints {
			endpoint := &slice.Endpoints[i]
			if len(endpoint.Addresses) == 0 {
				continue
			}
			addr, err := netip.ParseAddr(endpoint.Addresses[0]) // the API gives further ones no meaning
			if err != nil {
				continue
			}
			ready := ptr.Deref(endpoint.Conditions.Ready, true)
			all = append(all, backend{
				addr:  netip.AddrPortFrom(addr, number),
				here:  ptr.Deref(endpoint.NodeName, "") == site.Node,
				ready: ready,
				last:  ptr.Deref(endpoint.Conditions.Serving, ready) && ptr.Deref(endpoint.Conditions.Terminating, false),
				hints: hintsOf(endpoint.Hints, site),
			})
		}
	}
	return all
}

// hintsOf are an endpoint's hints for nodes and for zones: the nearer first.
func hintsOf(h *discoveryv1.EndpointHints, site Site) [2]hint {
	if h == nil {
		return [2]hint{}
	}
	return [2]hint{
		{len(h.ForNodes) > 0, slices.ContainsFunc(h.ForNodes, func(n discoveryv1.ForNode) bool { return n.Name == site.Node })},
		{len(h.ForZones) > 0, slices.ContainsFunc(h.ForZones, func(z discoveryv1.ForZone) bool { return z.Name == site.Zone })},
	}
}

// near leaves the endpoints that are meant for this node or, if none is, for its zone. Hints count if every ready
// endpoint has them: else they are just being given, and those without would get nothing.
func near(all []backend) []backend {
	for kind := range [2]hint{} {
		var ours []backend
		given := true
		for _, b := range all {
			if !b.ready {
				continue
			}
			given = given && b.hints[kind].given
			if b.hints[kind].us {
				ours = append(ours, b)
			}
		}
		if given && len(ours) > 0 {
			return ours
		}
	}
	return all
}

func portOf(slice *discoveryv1.EndpointSlice, port *corev1.ServicePort) (uint16, bool) {
	for _, p := range slice.Ports {
		if p.Port != nil && ptr.Deref(p.Name, "") == port.Name && ptr.Deref(p.Protocol, corev1.ProtocolTCP) == port.Protocol {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

// choose picks who gets new connections: the ready; when there are none, those who are leaving but still answer.
func choose(all []backend, here bool) []netip.AddrPort {
	var ready, last []netip.AddrPort
	for _, b := range all {
		switch {
		case here && !b.here:
		case b.ready:
			ready = append(ready, b.addr)
		case b.last:
			last = append(last, b.addr)
		}
	}
	if len(ready) == 0 {
		ready = last
	}
	slices.SortFunc(ready, netip.AddrPort.Compare)
	return slices.Compact(ready)
}

func clusterIPs(service *corev1.Service) []string {
	if len(service.Spec.ClusterIPs) > 0 {
		return service.Spec.ClusterIPs
	}
	return []string{service.Spec.ClusterIP}
}

func externalAddrs(service *corev1.Service, v6 bool) []netip.Addr {
	return parseAddrs(service.Spec.ExternalIPs, v6)
}

// balancerAddrs are the load balancer's addresses whose packets arrive here unchanged.
func balancerAddrs(service *corev1.Service, v6 bool) []netip.Addr {
	if service.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	var texts []string
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		if ptr.Deref(ingress.IPMode, corev1.LoadBalancerIPModeVIP) == corev1.LoadBalancerIPModeVIP {
			texts = append(texts, ingress.IP)
		}
	}
	return parseAddrs(texts, v6)
}

func parseAddrs(texts []string, v6 bool) []netip.Addr {
	var addrs []netip.Addr
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil && addr.Is6() == v6 {
			addrs = append(addrs, addr)
		}
	}
	return addrs
}

// sourceRanges in one family. Ranges in the other family only leave an empty list: then nobody passes.
func sourceRanges(service *corev1.Service, v6 bool) []netip.Prefix {
	var ranges []netip.Prefix
	for _, text := range service.Spec.LoadBalancerSourceRanges {
		if r, err := netip.ParsePrefix(text); err == nil && r.Addr().Is6() == v6 {
			ranges = append(ranges, r.Masked())
		}
	}
	return ranges
}

func stickiness(service *corev1.Service) time.Duration {
	if service.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	if c := service.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		return time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
	}
	return defaultSticky
}

func anywhere(v6 bool) netip.Addr {
	if v6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// chainName reads well in `nft list ruleset` and is unique: a Service has a protocol and port only once.
func chainName(prefix string, service *corev1.Service, port *corev1.ServicePort, v6 bool) string {
	family := 4
	if v6 {
		family = 6
	}
	return fmt.Sprintf("%s%d/%s/%s/%s/%d", prefix, family, service.Namespace, service.Name, port.Protocol, port.Port)
}
