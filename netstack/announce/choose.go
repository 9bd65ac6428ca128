package announce

import (
	"cmp"
	"hash/fnv"
	"io"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/netstack/endpoints"
	"knarr.dev/knarr/netstack/heartbeat"
)

// givenHere is the finalizer of Services whose addresses the cluster's own controller gave. Others' addresses are theirs
// to announce. See https://kubernetes.io/docs/tasks/access-application-cluster/create-external-load-balancer.
const givenHere = "service.kubernetes.io/load-balancer-cleanup"

// controlPlane is the label of nodes with API servers.
const controlPlane = "node-role.kubernetes.io/control-plane"

// addressesOf are the addresses a Service wants to have announced. Those of mode Proxy belong to a machine
// in front of the cluster (KEP-1860).
func addressesOf(service *corev1.Service) []netip.Addr {
	if service == nil || service.Spec.Type != corev1.ServiceTypeLoadBalancer || service.Spec.LoadBalancerClass != nil ||
		!slices.Contains(service.Finalizers, givenHere) {
		return nil
	}
	var all []netip.Addr
	for _, ingress := range service.Status.LoadBalancer.Ingress {
		addr, err := netip.ParseAddr(ingress.IP)
		if err == nil && (ingress.IPMode == nil || *ingress.IPMode == corev1.LoadBalancerIPModeVIP) {
			all = append(all, addr)
		}
	}
	return all
}

// candidates are the nodes on a network that may take connections from outside: Ready, and not taken out by label (KEP-1143).
func candidates(nodes []corev1.Node, network netip.Prefix) []string {
	var names []string
	for i := range nodes {
		node := &nodes[i]
		if _, out := node.Labels[corev1.LabelNodeExcludeBalancers]; !out && isReady(node) && on(node, network).IsValid() {
			names = append(names, node.Name)
		}
	}
	return names
}

func isReady(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// on is a node's address on a network; none is the zero value.
func on(node *corev1.Node, network netip.Prefix) netip.Addr {
	for _, a := range node.Status.Addresses {
		addr, err := netip.ParseAddr(a.Address)
		if err == nil && a.Type == corev1.NodeInternalIP && network.Contains(addr) {
			return addr
		}
	}
	return netip.Addr{}
}

// servers are the nodes on a network that have API servers, and which of them are Ready. This one is among them, whatever is
// known of its node.
func servers(nodes []corev1.Node, network netip.Prefix, self string) (names []string, ready map[string]bool) {
	names, ready = []string{self}, map[string]bool{}
	for i := range nodes {
		node := &nodes[i]
		if _, is := node.Labels[controlPlane]; is && node.Name != self && on(node, network).IsValid() {
			names = append(names, node.Name)
			ready[node.Name] = isReady(node)
		}
	}
	return names, ready
}

// nodeAddresses are never announced, though a pool may hold them: their machines answer for them.
func nodeAddresses(nodes []corev1.Node) map[netip.Addr]bool {
	all := map[netip.Addr]bool{}
	for i := range nodes {
		for _, a := range nodes[i].Status.Addresses {
			if addr, err := netip.ParseAddr(a.Address); err == nil {
				all[addr] = true
			}
		}
	}
	return all
}

// serving are those nodes that pass a Service's connections on: with externalTrafficPolicy Local, where a ready endpoint is.
func serving(entry endpoints.Entry, nodes []string) []string {
	if entry.Service.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return nodes
	}
	have := map[string]bool{}
	for _, slice := range entry.Slices {
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if e.NodeName != nil && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				have[*e.NodeName] = true
			}
		}
	}
	return slices.DeleteFunc(slices.Clone(nodes), func(name string) bool { return !have[name] })
}

// claim is an address to be spoken for, and who may, the first first.
type claim struct {
	addr  netip.Addr
	line  []string
	api   bool            // it is the API servers': who speaks has to serve
	ready map[string]bool // api: by their nodes' conditions, which count for those who are not heard
}

// ranked is who speaks for an address, and who next if that one cannot: every node draws a number for every address, the
// highest wins. So addresses spread over the nodes, and only those of a node that goes move.
func ranked(addr netip.Addr, nodes []string) []string {
	line := slices.Clone(nodes)
	slices.SortFunc(line, func(a, b string) int {
		return cmp.Or(cmp.Compare(draw(addr, b), draw(addr, a)), cmp.Compare(a, b))
	})
	return line
}

// listeners is how many of those in line for an address listen for each other. One that fell silent is replaced by one that
// heard it; more would cost datagrams, and help where three machines die at once.
const listeners = 3

// company is who a node listens for because of an address: nobody, unless it is among the first in line.
func (c claim) company(self string) []string {
	first := c.line
	if !c.api && len(first) > listeners { // API servers are few
		first = first[:listeners]
	}
	if !slices.Contains(first, self) {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(first), func(name string) bool { return name == self })
}

// speaker is who speaks for an address, or nobody. Who is heard counts by what is heard, others by their nodes' conditions,
// which decided who is in line.
//
// A node that somebody lost stands back until it has been back for long enough. Should all stand back, for having lost
// one another in a circle, the first who is here speaks all the same: better two than none.
func (c claim) speaker(self string, serves bool, seen heartbeat.View) string {
	here := func(name string, standing bool) bool {
		if name == self {
			return (serves || !c.api) && (!standing || !seen.Doubted)
		}
		if p := seen.Peers[name]; p.Heard {
			return !p.Gone && (p.Serving || !c.api) && (!standing || p.Standing)
		}
		return c.ready[name] || !c.api
	}
	for _, standing := range []bool{true, false} {
		if i := slices.IndexFunc(c.line, func(name string) bool { return here(name, standing) }); i >= 0 {
			return c.line[i]
		}
	}
	return ""
}

func draw(addr netip.Addr, name string) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, addr.String()+" "+name)
	// FNV leaves alike what differs in the last letter only, and nodes are numbered: mix once more (MurmurHash3's finalizer).
	n := h.Sum64()
	n = (n ^ n>>33) * 0xff51afd7ed558ccd
	n = (n ^ n>>33) * 0xc4ceb9fe1a85ec53
	return n ^ n>>33
}
