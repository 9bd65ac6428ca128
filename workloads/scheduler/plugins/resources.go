package plugins

import (
	"math"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// Resources keeps nodes from promising more than they have, and prefers those with most left.
type Resources struct{}

// Name of the rule.
func (Resources) Name() string { return "NodeResourcesFit" }

// Filter implements Filterer.
func (Resources) Filter(pod *snapshot.Pod, _ *snapshot.Snapshot) (Filter, *Refusal) {
	return func(n *snapshot.Node) *Refusal { return fits(pod, n) }, nil
}

// fits compares every amount a pod asks for with what is left of it.
func fits(pod *snapshot.Pod, n *snapshot.Node) *Refusal {
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
		check(name, asked, has.Scalar[name], taken.Scalar[name])
	}
	if len(refusal.Reasons) == 0 {
		return nil
	}
	return refusal
}

// Helps implements Filterer.
func (Resources) Helps(pod *snapshot.Pod, _ *snapshot.Snapshot, change snapshot.Change) bool {
	switch change.Kind {
	case snapshot.PodGone, snapshot.PodShrunk:
		return true
	case snapshot.NodeAdded, snapshot.NodeChanged:
		has, _ := snapshot.Of(change.Node.Status.Allocatable)
		return pod.Requests.MilliCPU <= has.MilliCPU && pod.Requests.Memory <= has.Memory
	}
	return false
}

// Score implements Scorer: the mean of what would be left of CPU and memory.
func (Resources) Score(pod *snapshot.Pod, _ *snapshot.Snapshot, _ []*snapshot.Node) Score {
	return func(n *snapshot.Node) int64 {
		cpu := left(n.Allocatable.MilliCPU, n.Assumed.MilliCPU+pod.Assumed.MilliCPU)
		memory := left(n.Allocatable.Memory, n.Assumed.Memory+pod.Assumed.Memory)
		return (cpu + memory) / 2
	}
}

// Normalize implements Scorer; shares are on the scale already.
func (Resources) Normalize([]int64) {}

func left(has, taken int64) int64 {
	if has <= 0 || taken > has {
		return 0
	}
	return (has - taken) * MaxScore / has
}

// Balance prefers nodes whose CPU and memory would be used alike, so that neither runs out while the other idles.
type Balance struct{}

// Name of the rule.
func (Balance) Name() string { return "NodeResourcesBalancedAllocation" }

// Score implements Scorer.
func (Balance) Score(pod *snapshot.Pod, _ *snapshot.Snapshot, _ []*snapshot.Node) Score {
	if pod.Requests.MilliCPU == 0 && pod.Requests.Memory == 0 {
		return nil // it would not change the balance
	}
	return func(n *snapshot.Node) int64 {
		cpu := share(n.Allocatable.MilliCPU, n.Requested.MilliCPU+pod.Requests.MilliCPU)
		memory := share(n.Allocatable.Memory, n.Requested.Memory+pod.Requests.Memory)
		deviation := math.Abs(cpu-memory) / 2
		return int64((1 - deviation) * MaxScore)
	}
}

// Normalize implements Scorer; the deviation is on the scale already.
func (Balance) Normalize([]int64) {}

func share(has, taken int64) float64 {
	if has <= 0 {
		return 1
	}
	return min(float64(taken)/float64(has), 1)
}
