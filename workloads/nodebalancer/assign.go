package nodebalancer

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/bootstrap/heldports"
)

// Label restricts who gives its addresses: as soon as one node has it with the value "true", only those that have.
const Label = "knarr.dev/load-balancer"

// world is what is decided from.
type world struct {
	services []*corev1.Service
	nodes    []*corev1.Node
	pods     []*corev1.Pod                            // with host ports
	behind   map[types.NamespacedName]map[string]bool // nodes with a ready endpoint, of services with externalTrafficPolicy Local
}

// grant is what a service gets, and why not more.
type grant struct {
	ingress []corev1.LoadBalancerIngress
	refused []string // a node each, and who has which port there
	waiting bool     // for nodes that have not looked yet
}

// place is a port of a node.
type place struct {
	node string
	port heldports.Port
}

// assign decides for all services of ours. A service has a node's addresses if all of its ports are free there. What it has it
// keeps, against everybody who came later; of two that want the same, the older one gets it.
func assign(w world) map[types.NamespacedName]grant {
	ours := slices.DeleteFunc(slices.Clone(w.services), func(s *corev1.Service) bool { return !concerns(s) || s.DeletionTimestamp != nil })
	slices.SortFunc(ours, func(a, b *corev1.Service) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(key(a).String(), key(b).String()))
	})
	nodes := giving(w.nodes)
	given := map[place]*corev1.Service{}
	for _, s := range ours {
		for _, n := range nodes {
			for _, port := range had(s, n) {
				if at := (place{n.Name, port}); given[at] == nil {
					given[at] = s
				}
			}
		}
	}
	others := others(w)
	grants := map[types.NamespacedName]grant{}
	for _, s := range ours {
		var g grant
		for _, n := range nodes {
			if unfit(s, n, w.behind[key(s)]) != "" {
				continue
			}
			holder, waits := obstacle(s, n, given, others)
			switch {
			case holder != "":
				g.refused = append(g.refused, n.Name+": "+holder)
			case waits:
				g.waiting = true
			default:
				for _, port := range heldports.Of(s) {
					given[place{n.Name, port}] = s
				}
				g.ingress = append(g.ingress, ingress(s, wanted(s, n))...)
			}
		}
		slices.SortFunc(g.ingress, func(a, b corev1.LoadBalancerIngress) int { return cmp.Compare(a.IP, b.IP) })
		grants[key(s)] = g
	}
	return grants
}

// obstacle is who has a port that a service wants at a node; waits says that the node has yet to look.
func obstacle(s *corev1.Service, n *corev1.Node, given map[place]*corev1.Service, others map[place]other) (holder string, waits bool) {
	for _, port := range heldports.Of(s) {
		at := place{n.Name, port}
		if given[at] == s {
			continue
		}
		held, known := heldports.Says(n.Annotations[heldports.Annotation], port)
		switch {
		case given[at] != nil:
			return fmt.Sprintf("service %s has port %s", key(given[at]), port), false
		case others[at].who != "" && others[at].service != s:
			return fmt.Sprintf("%s has port %s", others[at].who, port), false
		case held:
			return fmt.Sprintf("a program that listens on port %s", port), false
		case !known:
			waits = true
		}
	}
	return "", waits
}

// other is somebody who has a port.
type other struct {
	who     string
	service *corev1.Service // if it is one
}

// others are those who have ports of nodes and are not services of ours: pods, node ports, what others made nodes' addresses
// lead to.
func others(w world) map[place]other {
	taken := map[place]other{}
	for _, pod := range w.pods {
		for _, port := range hostPorts(pod) {
			taken[place{pod.Spec.NodeName, port}] = other{who: "pod " + pod.Namespace + "/" + pod.Name}
		}
	}
	for _, n := range w.nodes {
		own := map[string]bool{}
		for _, a := range n.Status.Addresses {
			own[a.Address] = true
		}
		for _, s := range w.services {
			for _, p := range s.Spec.Ports {
				if p.NodePort != 0 {
					taken[place{n.Name, heldports.Port{Number: p.NodePort, Protocol: p.Protocol}}] = other{"service " + key(s).String() + " (node port)", s}
				}
			}
			if slices.ContainsFunc(dialed(s), func(ip string) bool { return own[ip] }) {
				for _, port := range heldports.Of(s) {
					taken[place{n.Name, port}] = other{"service " + key(s).String() + " (by an address from elsewhere)", s}
				}
			}
		}
	}
	return taken
}

// dialed are the addresses a service is reached at from outside, but those we gave it.
func dialed(s *corev1.Service) []string {
	all := s.Spec.ExternalIPs
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && !concerns(s) {
		for _, i := range s.Status.LoadBalancer.Ingress {
			all = append(slices.Clip(all), i.IP)
		}
	}
	return all
}

// hostPorts of a pod that is not over.
func hostPorts(pod *corev1.Pod) []heldports.Port {
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	var ports []heldports.Port
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			for _, p := range containers[i].Ports {
				if p.HostPort != 0 {
					ports = append(ports, heldports.Port{Number: p.HostPort, Protocol: p.Protocol})
				}
			}
		}
	}
	return ports
}

// giving are the nodes whose addresses services may have.
func giving(nodes []*corev1.Node) []*corev1.Node {
	chosen := slices.ContainsFunc(nodes, isChosen)
	return slices.DeleteFunc(slices.Clone(nodes), func(n *corev1.Node) bool { return withheld(n, chosen) != "" })
}

func isChosen(n *corev1.Node) bool { return n.Labels[Label] == "true" }

// withheld is why no service may have a node's addresses; chosen says that some node is.
func withheld(n *corev1.Node, chosen bool) string {
	_, excluded := n.Labels[corev1.LabelNodeExcludeBalancers] // KEP-1143
	switch {
	case excluded:
		return "has the label " + corev1.LabelNodeExcludeBalancers
	case !ready(n):
		return "is not ready"
	case n.DeletionTimestamp != nil:
		return "is being deleted"
	case chosen && !isChosen(n):
		return "has not the label " + Label + "=true, as others have"
	}
	return ""
}

// unfit is why a node's addresses are of no use to a service; behind are the nodes with a ready endpoint of it.
func unfit(s *corev1.Service, n *corev1.Node, behind map[string]bool) string {
	switch {
	case len(wanted(s, n)) > 0 && (s.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal || behind[n.Name]):
		return ""
	case len(wanted(s, n)) > 0:
		return "has no ready pod of the service (externalTrafficPolicy: Local)"
	case s.Spec.LoadBalancerIP != "":
		return "has not the address " + s.Spec.LoadBalancerIP + " (spec.loadBalancerIP)"
	}
	return "has no address of the service's families"
}

func ready(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// wanted are a node's addresses for a service: of each of its families the external ones, or the internal ones where there are
// none; the one it asks for by name, if it does.
func wanted(s *corev1.Service, n *corev1.Node) []netip.Addr {
	families := s.Spec.IPFamilies
	if len(families) == 0 {
		families = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	var all []netip.Addr
	for _, family := range families {
		for _, kind := range []corev1.NodeAddressType{corev1.NodeExternalIP, corev1.NodeInternalIP} {
			found := addresses(n, kind, family == corev1.IPv6Protocol)
			if all = append(all, found...); len(found) > 0 {
				break
			}
		}
	}
	if wish := s.Spec.LoadBalancerIP; wish != "" {
		all = slices.DeleteFunc(all, func(ip netip.Addr) bool { return ip.String() != wish })
	}
	return all
}

func addresses(n *corev1.Node, kind corev1.NodeAddressType, v6 bool) []netip.Addr {
	var found []netip.Addr
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == kind && ip.Is6() == v6 && !slices.Contains(found, ip) {
			found = append(found, ip)
		}
	}
	return found
}

// ingress says where a service is, and at which ports, so that what it has is known when its ports change.
func ingress(s *corev1.Service, addresses []netip.Addr) []corev1.LoadBalancerIngress {
	var all []corev1.LoadBalancerIngress
	for _, ip := range addresses {
		i := corev1.LoadBalancerIngress{IP: ip.String(), IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)}
		for _, port := range heldports.Of(s) {
			i.Ports = append(i.Ports, corev1.PortStatus{Port: port.Number, Protocol: port.Protocol})
		}
		all = append(all, i)
	}
	return all
}

// had are the ports that a service has at a node and still wants.
func had(s *corev1.Service, n *corev1.Node) []heldports.Port {
	var ports []heldports.Port
	here := wanted(s, n)
	for _, i := range s.Status.LoadBalancer.Ingress {
		if ip, err := netip.ParseAddr(i.IP); err != nil || !slices.Contains(here, ip) {
			continue
		}
		for _, p := range i.Ports {
			if port := (heldports.Port{Number: p.Port, Protocol: p.Protocol}); slices.Contains(heldports.Of(s), port) {
				ports = append(ports, port)
			}
		}
	}
	return ports
}

// concerns tells whether a service is one we are for.
func concerns(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.LoadBalancerClass == nil
}

func key(s *corev1.Service) types.NamespacedName {
	return types.NamespacedName{Namespace: s.Namespace, Name: s.Name}
}
