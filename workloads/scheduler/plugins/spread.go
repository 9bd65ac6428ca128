package plugins

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// Spread keeps a group of pods even over zones, hosts or any other topology.
type Spread struct{}

// Name of the rule.
func (Spread) Name() string { return "PodTopologySpread" }

// Weight implements Scorer.
func (Spread) Weight() int64 { return 2 }

// constraint is one topology spread constraint, parsed, with the group's pods counted by domain.
type constraint struct {
	spec     *corev1.TopologySpreadConstraint
	selector labels.Selector
	self     int64 // 1 if the pod is of its own group
	counts   map[string]int64
}

// Filter implements Filterer.
func (Spread) Filter(pod *snapshot.Pod, snap *snapshot.Snapshot) Filter {
	constraints := parseConstraints(pod.Object, corev1.DoNotSchedule)
	if len(constraints) == 0 {
		return nil
	}
	countDomains(constraints, pod.Object, snap.Nodes())
	emptiest := make([]lows, len(constraints))
	for i, c := range constraints {
		emptiest[i] = c.lows()
	}
	unlabeled := &Refusal{Reasons: []string{"node(s) didn't match pod topology spread constraints (missing required label)"}, Final: true}
	skewed := &Refusal{Reasons: []string{"node(s) didn't match pod topology spread constraints"}}
	return func(n *snapshot.Node) *Refusal {
		for i, c := range constraints {
			value, has := n.Label(c.spec.TopologyKey)
			if !has {
				return unlabeled
			}
			here := c.counts[value]
			for moved, by := range n.Moved {
				here += by * c.counted(pod.Object.Namespace, moved)
			}
			if here+c.self-emptiest[i].least(value, here) > int64(c.spec.MaxSkew) {
				return skewed
			}
		}
		return nil
	}
}

// Helps implements Filterer.
func (Spread) Helps(pod *snapshot.Pod, _ *snapshot.Snapshot, change snapshot.Change) bool {
	switch change.Kind {
	case snapshot.NodeAdded, snapshot.NodeChanged, snapshot.NodeGone, snapshot.PodRelabeled:
		return true
	case snapshot.PodPlaced, snapshot.PodGone:
		if change.Pod.Namespace != pod.Object.Namespace {
			return false
		}
		for _, c := range parseConstraints(pod.Object, corev1.DoNotSchedule) {
			if c.selector.Matches(labels.Set(change.Pod.Labels)) {
				return true
			}
		}
	}
	return false
}

// Score implements Scorer: the fewer of the group in a node's domains the better. A pod that says nothing is
// spread from its siblings over hosts, gently.
func (Spread) Score(pod *snapshot.Pod, snap *snapshot.Snapshot, nodes []*snapshot.Node) Score {
	constraints := parseConstraints(pod.Object, corev1.ScheduleAnyway)
	if len(constraints) == 0 {
		if len(pod.Object.Spec.TopologySpreadConstraints) > 0 {
			return nil
		}
		return apart(pod.Object)
	}
	countDomains(constraints, pod.Object, snap.Nodes())
	weights := make([]float64, len(constraints))
	for i, c := range constraints {
		domains := map[string]bool{}
		for _, n := range nodes {
			if value, has := n.Label(c.spec.TopologyKey); has {
				domains[value] = true
			}
		}
		weights[i] = math.Log(float64(len(domains) + 2)) // many small domains must not outweigh a few large ones
	}
	return func(n *snapshot.Node) int64 {
		var sum float64
		for i, c := range constraints {
			if value, has := n.Label(c.spec.TopologyKey); has {
				sum += float64(c.counts[value])*weights[i] + float64(c.spec.MaxSkew-1)
			}
		}
		return int64(math.Round(sum))
	}
}

// Normalize implements Scorer.
func (Spread) Normalize(scores []int64) {
	if len(scores) == 0 {
		return
	}
	low, high := scores[0], scores[0]
	for _, s := range scores {
		low, high = min(low, s), max(high, s)
	}
	for i := range scores {
		if high == 0 {
			scores[i] = MaxScore
		} else {
			scores[i] = MaxScore * (high + low - scores[i]) / high
		}
	}
}

// apart counts the pods of the same controller on a node.
func apart(pod *corev1.Pod) Score {
	owner := metav1.GetControllerOfNoCopy(pod)
	if owner == nil {
		return nil
	}
	return func(n *snapshot.Node) int64 {
		var siblings int64
		for _, other := range n.Pods {
			if ref := metav1.GetControllerOfNoCopy(other.Object); ref != nil && ref.UID == owner.UID {
				siblings++
			}
		}
		return siblings
	}
}

func parseConstraints(pod *corev1.Pod, when corev1.UnsatisfiableConstraintAction) []*constraint {
	var constraints []*constraint
	for i := range pod.Spec.TopologySpreadConstraints {
		spec := &pod.Spec.TopologySpreadConstraints[i]
		if spec.WhenUnsatisfiable != when {
			continue
		}
		selector := snapshot.Selector(spec.LabelSelector)
		for _, key := range spec.MatchLabelKeys {
			if value, has := pod.Labels[key]; has {
				if same, err := labels.ValidatedSelectorFromSet(labels.Set{key: value}); err == nil {
					requirements, _ := same.Requirements()
					selector = selector.Add(requirements...)
				}
			}
		}
		c := &constraint{spec: spec, selector: selector, counts: map[string]int64{}}
		if selector.Matches(labels.Set(pod.Labels)) {
			c.self = 1
		}
		constraints = append(constraints, c)
	}
	return constraints
}

// countDomains counts the group's pods on the nodes that are in question for the pod: other nodes' domains can
// neither be filled nor empty in a way that matters.
func countDomains(constraints []*constraint, pod *corev1.Pod, nodes []*snapshot.Node) {
	required := nodeaffinity.GetRequiredNodeAffinity(pod)
	for _, n := range nodes {
		labeled := true
		for _, c := range constraints {
			_, has := n.Label(c.spec.TopologyKey)
			labeled = labeled && has
		}
		if !labeled {
			continue
		}
		for _, c := range constraints {
			if policy := c.spec.NodeAffinityPolicy; policy == nil || *policy == corev1.NodeInclusionPolicyHonor {
				if matches, err := required.Match(n.Object); err != nil || !matches {
					continue
				}
			}
			if policy := c.spec.NodeTaintsPolicy; policy != nil && *policy == corev1.NodeInclusionPolicyHonor && repels(n.Object, pod) {
				continue
			}
			value, _ := n.Label(c.spec.TopologyKey)
			c.counts[value] += c.group(pod.Namespace, n)
		}
	}
}

// group counts the pods of the group on one node.
func (c *constraint) group(namespace string, n *snapshot.Node) int64 {
	if c.selector.Empty() {
		return 0 // no selector means no group, not everybody
	}
	var of int64
	for _, other := range n.Pods {
		of += c.counted(namespace, other)
	}
	return of
}

// counted is 1 for a pod of the group. One that is going has left already: its place may be taken.
func (c *constraint) counted(namespace string, other *snapshot.Pod) int64 {
	if c.selector.Empty() || other.Object.Namespace != namespace || other.Object.DeletionTimestamp != nil ||
		!c.selector.Matches(labels.Set(other.Object.Labels)) {
		return 0
	}
	return 1
}

// lows are the two emptiest domains: enough to know the emptiest when one domain's count is another than counted.
type lows struct {
	tooFew         bool // domains; that counts as an empty one more
	first          string
	lowest, second int64
}

func (c *constraint) lows() lows {
	l := lows{lowest: math.MaxInt64, second: math.MaxInt64}
	l.tooFew = len(c.counts) == 0 || (c.spec.MinDomains != nil && len(c.counts) < int(*c.spec.MinDomains))
	for value, n := range c.counts {
		switch {
		case n < l.lowest:
			l.first, l.lowest, l.second = value, n, l.lowest
		case n < l.second:
			l.second = n
		}
	}
	return l
}

// least is the size of the emptiest domain when one of them holds that many.
func (l lows) least(value string, holds int64) int64 {
	switch {
	case l.tooFew:
		return 0
	case value == l.first:
		return min(holds, l.second)
	}
	return min(holds, l.lowest)
}
