package plugins

import (
	"fmt"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// Resources keeps nodes from promising more than they have, and prefers those with most left, or what its arguments say.
type Resources struct {
	ignored []string // extended resources other programs look after
	groups  []string // and whole groups of them, by what stands before the slash
	weighed []weighedResource
	rate    func(has, taken int64) int64
	round   bool // the mean, and leave out what rates 0
}

// weighedResource is a resource that counts in a score, and how much.
type weighedResource struct {
	name   corev1.ResourceName
	weight int64
}

var cpuAndMemory = []weighedResource{{corev1.ResourceCPU, 1}, {corev1.ResourceMemory, 1}}

func newResources(args *configv1.NodeResourcesFitArgs) (Plugin, error) {
	rule := Resources{ignored: args.IgnoredResources, groups: args.IgnoredResourceGroups, weighed: cpuAndMemory, rate: left}
	strategy := args.ScoringStrategy
	if strategy == nil {
		return rule, nil
	}
	var err error
	if rule.weighed, err = weigh(strategy.Resources, 100); err != nil {
		return nil, fmt.Errorf("scoringStrategy.%w", err)
	}
	switch strategy.Type {
	case configv1.LeastAllocated, "":
	case configv1.MostAllocated:
		rule.rate = used
	case configv1.RequestedToCapacityRatio:
		if strategy.RequestedToCapacityRatio == nil {
			return nil, fmt.Errorf("scoringStrategy.requestedToCapacityRatio: needs a shape")
		}
		if rule.rate, err = shaped(strategy.RequestedToCapacityRatio.Shape); err != nil {
			return nil, fmt.Errorf("scoringStrategy.requestedToCapacityRatio.%w", err)
		}
		rule.round = true
	default:
		return nil, fmt.Errorf("scoringStrategy.type: %q is not LeastAllocated, MostAllocated or RequestedToCapacityRatio", strategy.Type)
	}
	return rule, nil
}

// weigh reads the resources that count; none are CPU and memory, alike.
func weigh(specs []configv1.ResourceSpec, most int64) ([]weighedResource, error) {
	if len(specs) == 0 {
		return cpuAndMemory, nil
	}
	weighed := make([]weighedResource, len(specs))
	for i, s := range specs {
		weight := s.Weight
		if weight == 0 {
			weight = 1
		}
		if weight < 1 || weight > most {
			return nil, fmt.Errorf("resources[%d].weight: %d is not between 1 and %d", i, s.Weight, most)
		}
		weighed[i] = weighedResource{corev1.ResourceName(s.Name), weight}
	}
	return weighed, nil
}

// Name of the rule.
func (Resources) Name() string { return "NodeResourcesFit" }

// Filter implements Filterer.
func (r Resources) Filter(pod *snapshot.Pod, snap *snapshot.Snapshot) (Filter, *Refusal) {
	return func(n *snapshot.Node) *Refusal { return r.fits(pod, n, snap) }, nil
}

// fits compares every amount a pod asks for with what is left of it. About devices that stand for a resource DynamicResources
// has its say.
func (r Resources) fits(pod *snapshot.Pod, n *snapshot.Node, snap *snapshot.Snapshot) *Refusal {
	refusal := &Refusal{}
	check := func(name corev1.ResourceName, asked, has, taken int64) {
		if asked > 0 && asked > has-taken {
			refusal.Reasons = append(refusal.Reasons, "Insufficient "+string(name))
			refusal.Final = refusal.Final || asked > has
		}
	}
	if int64(len(n.Pods))+1 > n.MaxPods {
		refusal.Reasons = append(refusal.Reasons, "Too many pods")
	}
	ask, has, taken := &pod.Requests, &n.Allocatable, &n.Requested
	check(corev1.ResourceCPU, ask.MilliCPU, has.MilliCPU, taken.MilliCPU)
	check(corev1.ResourceMemory, ask.Memory, has.Memory, taken.Memory)
	check(corev1.ResourceEphemeralStorage, ask.Ephemeral, has.Ephemeral, taken.Ephemeral)
	for name, asked := range ask.Scalar {
		if !r.ignores(name) && !standsIn(name, n, snap) {
			check(name, asked, has.Scalar[name], taken.Scalar[name])
		}
	}
	if len(refusal.Reasons) == 0 {
		return nil
	}
	return refusal
}

func (r Resources) ignores(name corev1.ResourceName) bool {
	if len(r.ignored)+len(r.groups) == 0 {
		return false
	}
	group, _, extended := strings.Cut(string(name), "/")
	return extended && (slices.Contains(r.ignored, string(name)) || slices.Contains(r.groups, group))
}

// LocalFilter implements LocalFilterer.
func (Resources) LocalFilter() {}

// Helps implements Filterer.
func (r Resources) Helps(pod *snapshot.Pod, snap *snapshot.Snapshot, change snapshot.Change) bool {
	switch change.Kind {
	case snapshot.PodGone, snapshot.PodShrunk:
		return r.roomFor(pod, snap, change.Pod.Spec.NodeName)
	case snapshot.NodeAdded, snapshot.NodeChanged:
		has, _ := snapshot.Of(change.Node.Status.Allocatable)
		return pod.Requests.MilliCPU <= has.MilliCPU && pod.Requests.Memory <= has.Memory
	case snapshot.DevicesChanged:
		return len(extendedOf(pod, snap)) > 0
	}
	return false
}

// roomFor says whether a pod has room on a node that has got some, beside those that wait for it already. A decision
// that was taken back names no node.
func (r Resources) roomFor(pod *snapshot.Pod, snap *snapshot.Snapshot, node string) bool {
	if node == "" {
		return true
	}
	n := snap.Node(node)
	if n == nil || r.fits(pod, n, snap) != nil {
		return false
	}
	full := snap.WithExpected(pod, n)
	return full == nil || r.fits(pod, full, snap) == nil
}

// Score implements Scorer: the weighted mean over the resources that count.
func (r Resources) Score(pod *snapshot.Pod, _ *snapshot.Snapshot, _ []*snapshot.Node) Score {
	return func(n *snapshot.Node) int64 {
		var sum, weights int64
		for _, w := range r.weighed {
			has, taken, counts := amounts(w.name, pod, n)
			if !counts || has == 0 {
				continue
			}
			rated := r.rate(has, taken)
			if r.round && rated == 0 {
				continue
			}
			sum += rated * w.weight
			weights += w.weight
		}
		switch {
		case weights == 0:
			return 0
		case r.round:
			return int64(math.Round(float64(sum) / float64(weights)))
		}
		return sum / weights
	}
}

// amounts are what a node has of a resource and what would be taken with the pod there, guesses included; what a pod
// does not ask for does not count, but for CPU and memory.
func amounts(name corev1.ResourceName, pod *snapshot.Pod, n *snapshot.Node) (has, taken int64, counts bool) {
	switch name {
	case corev1.ResourceCPU:
		return n.Allocatable.MilliCPU, n.Assumed.MilliCPU + pod.Assumed.MilliCPU, true
	case corev1.ResourceMemory:
		return n.Allocatable.Memory, n.Assumed.Memory + pod.Assumed.Memory, true
	case corev1.ResourceEphemeralStorage:
		return n.Allocatable.Ephemeral, n.Assumed.Ephemeral + pod.Assumed.Ephemeral, true
	}
	asked := pod.Assumed.Scalar[name]
	return n.Allocatable.Scalar[name], n.Assumed.Scalar[name] + asked, asked > 0
}

// LocalScore implements LocalScorer.
func (Resources) LocalScore() {}

// Normalize implements Scorer; shares are on the scale already.
func (Resources) Normalize([]int64) {}

// left rates what would be left.
func left(has, taken int64) int64 {
	if has <= 0 || taken > has {
		return 0
	}
	return (has - taken) * MaxScore / has
}

// used rates what would be taken.
func used(has, taken int64) int64 {
	if has <= 0 {
		return 0
	}
	return min(taken, has) * MaxScore / has
}

// shaped rates the percentage that would be taken by a line through points, whose scores are from 0 to 10.
func shaped(points []configv1.UtilizationShapePoint) (func(has, taken int64) int64, error) {
	if err := validShape(points); err != nil {
		return nil, err
	}
	return func(has, taken int64) int64 {
		percent := int64(100)
		if has > 0 && taken <= has {
			percent = 100 - (has-taken)*100/has
		}
		return along(points, percent)
	}, nil
}

func validShape(points []configv1.UtilizationShapePoint) error {
	if len(points) == 0 {
		return fmt.Errorf("shape: needs at least one point")
	}
	for i, p := range points {
		switch {
		case p.Utilization < 0 || p.Utilization > 100:
			return fmt.Errorf("shape[%d].utilization: %d is not between 0 and 100", i, p.Utilization)
		case p.Score < 0 || p.Score > 10:
			return fmt.Errorf("shape[%d].score: %d is not between 0 and 10", i, p.Score)
		case i > 0 && p.Utilization <= points[i-1].Utilization:
			return fmt.Errorf("shape[%d].utilization: %d does not come after %d", i, p.Utilization, points[i-1].Utilization)
		}
	}
	return nil
}

// along is the score at a percentage: that of the first point before it, of the last one behind it, and in between on
// the line from one to the next.
func along(points []configv1.UtilizationShapePoint, percent int64) int64 {
	const scale = MaxScore / 10
	for i, p := range points {
		if percent > int64(p.Utilization) {
			continue
		}
		if i == 0 {
			return int64(p.Score) * scale
		}
		from := points[i-1]
		rise := int64(p.Score-from.Score) * scale
		return int64(from.Score)*scale + rise*(percent-int64(from.Utilization))/int64(p.Utilization-from.Utilization)
	}
	return int64(points[len(points)-1].Score) * scale
}

// Balance prefers nodes whose CPU and memory would be used alike, so that neither runs out while the other idles.
type Balance struct{ weighed []weighedResource }

func newBalance(args *configv1.NodeResourcesBalancedAllocationArgs) (Plugin, error) {
	weighed, err := weigh(args.Resources, 1)
	if err != nil {
		return nil, err
	}
	return Balance{weighed}, nil
}

// Name of the rule.
func (Balance) Name() string { return "NodeResourcesBalancedAllocation" }

// Score implements Scorer.
func (b Balance) Score(pod *snapshot.Pod, _ *snapshot.Snapshot, _ []*snapshot.Node) Score {
	asks := false
	for _, w := range b.weighed {
		asks = asks || pod.Requests.Amount(w.name) > 0
	}
	if !asks {
		return nil // it would not change the balance
	}
	return func(n *snapshot.Node) int64 {
		shares := make([]float64, 0, len(b.weighed))
		for _, w := range b.weighed {
			has := n.Allocatable.Amount(w.name)
			if has == 0 {
				continue
			}
			shares = append(shares, min(float64(n.Requested.Amount(w.name)+pod.Requests.Amount(w.name))/float64(has), 1))
		}
		return int64((1 - deviation(shares)) * MaxScore)
	}
}

// deviation is the standard deviation of shares.
func deviation(shares []float64) float64 {
	if len(shares) < 2 {
		return 0
	}
	var mean, squares float64
	for _, s := range shares {
		mean += s / float64(len(shares))
	}
	for _, s := range shares {
		squares += (s - mean) * (s - mean)
	}
	return math.Sqrt(squares / float64(len(shares)))
}

// LocalScore implements LocalScorer.
func (Balance) LocalScore() {}

// Normalize implements Scorer; the deviation is on the scale already.
func (Balance) Normalize([]int64) {}
