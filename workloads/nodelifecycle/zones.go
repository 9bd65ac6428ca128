package nodelifecycle

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/topology"
)

// The documented defaults (kubernetes.io/docs/concepts/architecture/nodes, "Rate limits on eviction").
const (
	evictEvery       = 10 * time.Second  // a node of a zone, --node-eviction-rate 0.1
	evictEverySeldom = 100 * time.Second // in a large zone that is disrupted, --secondary-node-eviction-rate 0.01
	unhealthyShare   = 0.55              // --unhealthy-zone-threshold
	largeZone        = 50                // nodes, --large-cluster-size-threshold
)

// state of a zone.
type state string

const (
	normal  state = "Normal"
	partial state = "PartialDisruption" // so many nodes are lost that the reason is likely not theirs
	full    state = "FullDisruption"    // all are
)

// zone is a failure domain. Its name is "" where nodes have no labels of the kind.
type zone struct {
	nodes, lost int
}

func (z zone) state() state {
	switch {
	case z.lost > 0 && z.lost == z.nodes:
		return full
	case z.lost > 2 && float64(z.lost) >= unhealthyShare*float64(z.nodes):
		return partial
	}
	return normal
}

// every is the time between two nodes of a zone from which pods are driven; 0: from none.
func (z zone) every() time.Duration {
	switch {
	case z.state() != partial:
		return evictEvery
	case z.nodes > largeZone:
		return evictEverySeldom
	}
	return 0
}

// survey counts the nodes of each zone.
func survey(nodes []corev1.Node) map[string]zone {
	zones := map[string]zone{}
	for i := range nodes {
		key := topology.GetZoneKey(&nodes[i])
		z := zones[key]
		z.nodes++
		if !healthy(&nodes[i]) {
			z.lost++
		}
		zones[key] = z
	}
	return zones
}

// judgeDrive says whether pods are to be driven from a node that is not healthy, and if only later, when to look again.
// last is how long ago a node of its zone was the one before. When every zone is lost it is more likely we who are cut off.
func judgeDrive(node *corev1.Node, zones map[string]zone, last time.Duration) (evict bool, again time.Duration) {
	alive := false
	for _, z := range zones {
		alive = alive || z.state() != full
	}
	every := zones[topology.GetZoneKey(node)].every()
	switch {
	case !alive:
		return false, 0
	case drives(node):
		return true, 0 // only the name of the taint may change
	case every == 0:
		return false, 0 // until the zone's state changes
	}
	left := max(0, every-last)
	return left == 0, left
}

// drives says whether a node already has one of our taints that drive pods away.
func drives(node *corev1.Node) bool {
	for _, taint := range node.Spec.Taints {
		if taint.Effect == corev1.TaintEffectNoExecute && (taint.Key == corev1.TaintNodeNotReady || taint.Key == corev1.TaintNodeUnreachable) {
			return true
		}
	}
	return false
}
