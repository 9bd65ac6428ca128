package plugins

import (
	"errors"
	"fmt"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// Spread keeps a group of pods even over zones, hosts or any other topology.
type Spread struct {
	hard, soft []corev1.TopologySpreadConstraint // for pods that name none
	gentle     bool                              // nodes outside the topology of those count as well
}

func newSpread(args *configv1.PodTopologySpreadArgs) (Plugin, error) {
	switch {
	case args.DefaultingType == configv1.SystemDefaulting || args.DefaultingType == "" && len(args.DefaultConstraints) == 0:
		if len(args.DefaultConstraints) > 0 {
			return nil, errors.New("defaultConstraints: are only heeded with defaultingType List")
		}
		return Spread{soft: defaultSpread, gentle: true}, nil
	case args.DefaultingType != configv1.ListDefaulting && args.DefaultingType != "":
		return nil, fmt.Errorf("defaultingType: %q is not System or List", args.DefaultingType)
	}
	rule := Spread{}
	for i, c := range args.DefaultConstraints {
		switch {
		case c.LabelSelector != nil:
			return nil, fmt.Errorf("defaultConstraints[%d].labelSelector: must be empty: each pod's services and owner say who is like it", i)
		case c.MaxSkew < 1:
			return nil, fmt.Errorf("defaultConstraints[%d].maxSkew: %d is not at least 1", i, c.MaxSkew)
		case c.TopologyKey == "":
			return nil, fmt.Errorf("defaultConstraints[%d].topologyKey: must not be empty", i)
		case c.WhenUnsatisfiable == corev1.DoNotSchedule:
			rule.hard = append(rule.hard, c)
		case c.WhenUnsatisfiable == corev1.ScheduleAnyway:
			rule.soft = append(rule.soft, c)
		default:
			return nil, fmt.Errorf("defaultConstraints[%d].whenUnsatisfiable: %q is not DoNotSchedule or ScheduleAnyway", i, c.WhenUnsatisfiable)
		}
	}
	return rule, nil
}

// constraintsOf are a pod's constraints of a strictness: its own, or the defaults if it has none at all.
func (s Spread) constraintsOf(pod *corev1.Pod, snap *snapshot.Snapshot, when corev1.UnsatisfiableConstraintAction) []*constraint {
	if len(pod.Spec.TopologySpreadConstraints) > 0 {
		return parseConstraints(pod, when)
	}
	defaults := s.soft
	if when == corev1.DoNotSchedule {
		defaults = s.hard
	}
	if len(defaults) == 0 {
		return nil
	}
	return defaultConstraints(pod, defaults, snap.Services(pod.Namespace))
}

// Name of the rule.
func (Spread) Name() string { return "PodTopologySpread" }

// constraint is one topology spread constraint, parsed, with the group's pods counted by domain.
type constraint struct {
	spec     *corev1.TopologySpreadConstraint
	selector labels.Selector
	owner    types.UID // only pods of this controller, unless ""
	self     int64     // 1 if the pod is of its own group
	counts   map[string]int64
}

// Filter implements Filterer.
func (s Spread) Filter(pod *snapshot.Pod, snap *snapshot.Snapshot) (Filter, *Refusal) {
	constraints := s.constraintsOf(pod.Object, snap, corev1.DoNotSchedule)
	if len(constraints) == 0 {
		return nil, nil
	}
	countDomains(constraints, pod, snap)
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
	}, nil
}

// Helps implements Filterer.
func (s Spread) Helps(pod *snapshot.Pod, snap *snapshot.Snapshot, change snapshot.Change) bool {
	switch change.Kind {
	case snapshot.NodeAdded, snapshot.NodeChanged, snapshot.NodeGone, snapshot.PodRelabeled:
		return true
	case snapshot.PodPlaced, snapshot.PodGone:
		if change.Pod.Namespace != pod.Object.Namespace {
			return false
		}
		for _, c := range s.constraintsOf(pod.Object, snap, corev1.DoNotSchedule) {
			if c.selector.Matches(labels.Set(change.Pod.Labels)) {
				return true
			}
		}
	}
	return false
}

// aside is the score of a node outside the topology a pod is to be spread over.
const aside = -1

// Score implements Scorer: the fewer of the group in a node's domains the better. A pod that says nothing is spread
// over hosts and zones with those its controller and its services count as its like.
func (s Spread) Score(pod *snapshot.Pod, snap *snapshot.Snapshot, nodes []*snapshot.Node) Score {
	constraints := s.constraintsOf(pod.Object, snap, corev1.ScheduleAnyway)
	everywhere := s.gentle && len(pod.Object.Spec.TopologySpreadConstraints) == 0 // nodes outside the topology count as well
	if len(constraints) == 0 {
		return nil
	}
	var wide []*constraint // a host's own pods are counted when it is asked about
	for _, c := range constraints {
		if c.spec.TopologyKey != corev1.LabelHostname && anyHas(nodes, c.spec.TopologyKey) {
			wide = append(wide, c)
		}
	}
	if len(wide) > 0 {
		countDomains(wide, pod, snap)
	}
	weights := make([]float64, len(constraints))
	for i, c := range constraints {
		weights[i] = c.weight(nodes)
	}
	return func(n *snapshot.Node) int64 {
		var sum float64
		for i, c := range constraints {
			value, has := n.Label(c.spec.TopologyKey)
			if !has && !everywhere {
				return aside
			}
			if !has {
				continue
			}
			there := c.counts[value]
			if c.spec.TopologyKey == corev1.LabelHostname {
				there = c.group(pod.Object.Namespace, n)
			}
			sum += float64(there)*weights[i] + float64(c.spec.MaxSkew-1)
		}
		return int64(math.Round(sum))
	}
}

func anyHas(nodes []*snapshot.Node, key string) bool {
	return slices.ContainsFunc(nodes, func(n *snapshot.Node) bool { _, has := n.Label(key); return has })
}

// weight grows with the number of domains: many small ones must not outweigh a few large ones.
func (c *constraint) weight(nodes []*snapshot.Node) float64 {
	if c.spec.TopologyKey == corev1.LabelHostname {
		return math.Log(float64(len(nodes) + 2))
	}
	domains := map[string]bool{}
	for _, n := range nodes {
		if value, has := n.Label(c.spec.TopologyKey); has {
			domains[value] = true
		}
	}
	return math.Log(float64(len(domains) + 2))
}

// Normalize implements Scorer.
func (Spread) Normalize(scores []int64) {
	low, high := int64(math.MaxInt64), int64(0)
	for _, s := range scores {
		if s != aside {
			low, high = min(low, s), max(high, s)
		}
	}
	for i, s := range scores {
		switch {
		case s == aside:
			scores[i] = 0
		case high == 0:
			scores[i] = MaxScore
		default:
			scores[i] = MaxScore * (high + low - s) / high
		}
	}
}

// defaultConstraints are those of a list for a pod that names none. A pod's like are those its services select together with it and, when a controller that keeps replicas made it, that one's.
// Upstream asks the controller's selector; the controller's name on its pods says the same without reading it.
func defaultConstraints(pod *corev1.Pod, defaults []corev1.TopologySpreadConstraint, services []labels.Selector) []*constraint {
	like := labels.Everything()
	for _, service := range services {
		if service.Matches(labels.Set(pod.Labels)) {
			requirements, _ := service.Requirements()
			like = like.Add(requirements...)
		}
	}
	var owner types.UID
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		switch ref.Kind {
		case "ReplicaSet", "ReplicationController", "StatefulSet":
			owner = ref.UID
		}
	}
	if like.Empty() && owner == "" {
		return nil
	}
	constraints := make([]*constraint, len(defaults))
	for i := range defaults {
		constraints[i] = &constraint{spec: &defaults[i], selector: like, owner: owner, self: 1, counts: map[string]int64{}}
	}
	return constraints
}

// defaultSpread is upstream's: gentle, over zones and more so over hosts.
var defaultSpread = []corev1.TopologySpreadConstraint{
	{TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway, MaxSkew: 3},
	{TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.ScheduleAnyway, MaxSkew: 5},
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

// domainsFor is the key of what countDomains remembers: whose domains, and of which constraints.
type domainsFor struct{ kin, of string }

// countDomains counts the group's pods on the nodes that are in question for the pod: other nodes' domains can
// neither be filled nor empty in a way that matters. What was counted for a pod that is alike takes in what moved since.
func countDomains(constraints []*constraint, pod *snapshot.Pod, snap *snapshot.Snapshot) {
	key := domainsFor{kin: pod.Kin()}
	for _, c := range constraints {
		key.of += fmt.Sprintf("%s %s,", c.spec.TopologyKey, c.spec.WhenUnsatisfiable)
	}
	concerns := concerned(constraints, pod.Object)
	if value, since, ok := snap.Recall(key); ok {
		for i, counts := range value.([]map[string]int64) {
			constraints[i].counts = counts
		}
		for _, m := range since {
			for _, c := range concerns(m.Node) {
				value, _ := m.Node.Label(c.spec.TopologyKey)
				c.counts[value] += m.By * c.counted(pod.Object.Namespace, m.Pod)
			}
		}
		return
	}
	for _, n := range snap.Nodes() {
		for _, c := range concerns(n) {
			value, _ := n.Label(c.spec.TopologyKey)
			c.counts[value] += c.group(pod.Object.Namespace, n)
		}
	}
	counts := make([]map[string]int64, len(constraints))
	for i, c := range constraints {
		counts[i] = c.counts
	}
	snap.Remember(key, counts)
}

// concerned tells for which constraints of a pod a node is in question.
func concerned(constraints []*constraint, pod *corev1.Pod) func(*snapshot.Node) []*constraint {
	required := nodeaffinity.GetRequiredNodeAffinity(pod)
	those := make([]*constraint, 0, len(constraints))
	return func(n *snapshot.Node) []*constraint {
		if n.Object == nil {
			return nil
		}
		for _, c := range constraints {
			if _, has := n.Label(c.spec.TopologyKey); !has {
				return nil
			}
		}
		those = those[:0]
		for _, c := range constraints {
			if policy := c.spec.NodeAffinityPolicy; policy == nil || *policy == corev1.NodeInclusionPolicyHonor {
				if matches, err := required.Match(n.Object); err != nil || !matches {
					continue
				}
			}
			if policy := c.spec.NodeTaintsPolicy; policy != nil && *policy == corev1.NodeInclusionPolicyHonor && repels(n.Taints, pod) {
				continue
			}
			those = append(those, c)
		}
		return those
	}
}

// group counts the pods of the group on one node.
func (c *constraint) group(namespace string, n *snapshot.Node) int64 {
	if c.nobody() {
		return 0
	}
	var of int64
	if c.owner != "" {
		for _, other := range n.OwnedBy(c.owner) {
			of += c.counted(namespace, other)
		}
		return of
	}
	for _, other := range n.Pods {
		of += c.counted(namespace, other)
	}
	return of
}

// nobody says that there is no group: no selector means none, not everybody.
func (c *constraint) nobody() bool { return c.selector.Empty() && c.owner == "" }

// counted is 1 for a pod of the group. One that is going has left already: its place may be taken.
func (c *constraint) counted(namespace string, other *snapshot.Pod) int64 {
	if c.nobody() || other.Object.Namespace != namespace || other.Object.DeletionTimestamp != nil ||
		!c.selector.Matches(labels.Set(other.Object.Labels)) {
		return 0
	}
	if c.owner != "" {
		if ref := metav1.GetControllerOfNoCopy(other.Object); ref == nil || ref.UID != c.owner {
			return 0
		}
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
