package nodebalancer

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Explain says of each node that gives a service no address why; waiting, that some have yet to look who has the ports.
func Explain(s *corev1.Service, services []corev1.Service, nodes []corev1.Node, pods []corev1.Pod, endpoints []discoveryv1.EndpointSlice) (lines []string, waiting bool) {
	w := world{behind: map[types.NamespacedName]map[string]bool{key(s): behind(endpoints)}, services: pointers(services), nodes: pointers(nodes), pods: pointers(pods)}
	slices.SortFunc(w.nodes, func(a, b *corev1.Node) int { return cmp.Compare(a.Name, b.Name) })
	chosen := slices.ContainsFunc(w.nodes, isChosen)
	for _, n := range w.nodes {
		if why := cmp.Or(withheld(n, chosen), unfit(s, n, w.behind[key(s)])); why != "" {
			lines = append(lines, n.Name+": "+why)
		}
	}
	g := assign(w)[key(s)]
	return append(lines, g.refused...), g.waiting
}

func pointers[T any](items []T) []*T {
	all := make([]*T, len(items))
	for i := range items {
		all[i] = &items[i]
	}
	return all
}
