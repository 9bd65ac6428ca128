package announce

import (
	"hash/fnv"
	"io"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/netstack/endpoints"
)

// givenHere is the finalizer of Services whose addresses the cluster's own controller gave. Others' addresses are theirs
// to announce. See https://kubernetes.io/docs/tasks/access-application-cluster/create-external-load-balancer.
const givenHere = "service.kubernetes.io/load-balancer-cleanup"

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
		if _, out := node.Labels[corev1.LabelNodeExcludeBalancers]; !out && ready(node) && on(node, network) {
			names = append(names, node.Name)
		}
	}
	return names
}

func ready(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

func on(node *corev1.Node, network netip.Prefix) bool {
	return slices.ContainsFunc(node.Status.Addresses, func(a corev1.NodeAddress) bool {
		addr, err := netip.ParseAddr(a.Address)
		return err == nil && a.Type == corev1.NodeInternalIP && network.Contains(addr)
	})
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

// chosen is the node that speaks for an address, or none: every node draws a number for every address, the highest wins.
// So addresses spread over the nodes, and only those of a node that goes move.
func chosen(addr netip.Addr, nodes []string) string {
	var winner string
	var highest uint64
	for _, name := range nodes {
		if n := draw(addr, name); winner == "" || n > highest || n == highest && name < winner {
			winner, highest = name, n
		}
	}
	return winner
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
