package scheduler

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// Why a node is no help to a pod that may send others away, worded as upstream's.
const (
	notHelpful = "Preemption is not helpful for scheduling"
	noVictims  = "No preemption victims found for incoming pod"
)

// clearing is a node that has room for a pod once the victims have left it.
type clearing struct {
	node       string
	victims    []*snapshot.Pod // most important first
	violations int             // victims beyond what a disruption budget allows
}

// mayPreempt says whether a pod nobody has room for may send others away, and if not, why. Gone says of a pod whether
// it is being sent away already.
func mayPreempt(pod *snapshot.Pod, snap *snapshot.Snapshot, d *decision, going func(*snapshot.Pod) bool) (bool, string) {
	if policy := pod.Object.Spec.PreemptionPolicy; policy != nil && *policy == corev1.PreemptNever {
		return false, "not eligible due to preemptionPolicy=Never."
	}
	n := snap.Node(snap.Nomination(pod.Object.UID))
	if n == nil {
		return true, ""
	}
	if d.final(slices.Index(snap.Nodes(), n)) {
		return true, "" // it waits at the wrong door
	}
	for _, other := range n.Pods {
		if other.Priority < pod.Priority && going(other) {
			return false, "not eligible due to a terminating pod on the nominated node."
		}
	}
	return true, ""
}

// clearable are the nodes less important pods could leave, from the start-th on and around, and how often each reason
// speaks against the others.
func clearable(pod *snapshot.Pod, snap *snapshot.Snapshot, d *decision, start int) (open []*snapshot.Node, against map[string]int) {
	against = map[string]int{}
	nodes := snap.Nodes()
	for i := range nodes {
		at := (start + i) % len(nodes)
		n := nodes[at]
		switch {
		case d.final(at):
			against[notHelpful]++
		case !hasLesser(pod, n):
			against[noVictims]++
		default:
			open = append(open, n)
		}
	}
	return open, against
}

func hasLesser(pod *snapshot.Pod, n *snapshot.Node) bool {
	for _, other := range n.Pods {
		if other.Priority < pod.Priority {
			return true
		}
	}
	return false
}

// trial finds who must leave a node for a pod, or why that would not help. Goroutines may try different nodes at once.
type trial func(*snapshot.Node) (*clearing, refusal)

func trying(pod *snapshot.Pod, snap *snapshot.Snapshot, ready []prepared, budgets []budget) trial {
	return func(n *snapshot.Node) (*clearing, refusal) { return clearFor(pod, n, snap, ready, budgets) }
}

// trying asks about a node only once, for all pods that want the same and matter as much, where nothing but the node has a
// say: in a wave of pods that all need room this is most of what there is to do.
func (r *rules) trying(pod *snapshot.Pod, snap *snapshot.Snapshot, budgets []budget) trial {
	try := trying(pod, snap, slices.Concat(r.known.filters, r.far), budgets)
	if len(r.far)+len(budgets) > 0 {
		return try
	}
	r.known.makeCleared()
	return func(n *snapshot.Node) (*clearing, refusal) {
		if snap.Nomination(pod.Object.UID) == n.Name {
			return try(n) // it is one of those that are expected there
		}
		return r.known.clear(pod, n, try)
	}
}

// clearings are nodes that can be cleared for a pod, enough to choose the least harm among; without any, against says
// why as well.
func clearings(try trial, open []*snapshot.Node, against map[string]int, enough candidates) []*clearing {
	// Beyond a share of the nodes the least harm found is near enough to the least there is.
	wanted := int64(max(len(open)*enough.percent/100, enough.least))
	found := make([]*clearing, len(open))
	refused := make([]refusal, len(open))
	var cleared, harmless atomic.Int64
	inParallel(len(open), func(i int) bool {
		if found[i], refused[i] = try(open[i]); found[i] == nil {
			return true
		}
		if found[i].violations == 0 {
			harmless.Add(1)
		}
		return cleared.Add(1) < wanted || harmless.Load() == 0
	})
	found = slices.DeleteFunc(found, func(c *clearing) bool { return c == nil })
	if len(found) > 0 {
		return found
	}
	for _, r := range refused {
		if r.Refusal == nil {
			continue
		}
		for _, reason := range r.Reasons {
			against[reason]++
		}
	}
	return nil
}

// clearFor finds who must leave a node so that a pod has room there: everybody less important at first; then as many as
// fit may stay, those whose disruption a budget forbids before others, the most important before others.
func clearFor(pod *snapshot.Pod, n *snapshot.Node, snap *snapshot.Snapshot, filters []prepared, budgets []budget) (*clearing, refusal) {
	var lesser []*snapshot.Pod
	for _, other := range n.Pods {
		if other.Priority < pod.Priority {
			lesser = append(lesser, other)
		}
	}
	trial := n.Trial()
	for _, other := range lesser {
		trial.Leave(other)
	}
	if r, ok := judge(pod, trial, snap, filters); !ok {
		return nil, r
	}
	slices.SortFunc(lesser, byImportance)
	protected, others := split(lesser, budgets)
	c := &clearing{node: n.Name}
	for i, other := range slices.Concat(protected, others) {
		trial.Join(other)
		if _, ok := judge(pod, trial, snap, filters); ok {
			continue // it may stay
		}
		trial.Leave(other)
		c.victims = append(c.victims, other)
		if i < len(protected) {
			c.violations++
		}
	}
	slices.SortFunc(c.victims, byImportance)
	return c, refusal{}
}

// agreed are the clearings extenders agree to.
func (p *profile) agreed(ctx context.Context, pod *snapshot.Pod, found []*clearing) ([]*clearing, error) {
	for _, e := range p.concerned(pod.Object, func(e *extender) string { return e.PreemptVerb }) {
		if len(found) == 0 {
			break
		}
		left, err := e.preempt(ctx, pod.Object, found)
		if err != nil && e.Ignorable {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = left
	}
	return found, nil
}

// leastHarm chooses among clearings, nil if there are none: the fewest broken budgets, then the least important worst victim, the smallest
// sum of priorities, the fewest victims, and the one whose most important victims started last.
func leastHarm(found []*clearing) *clearing {
	if len(found) == 0 {
		return nil
	}
	return slices.MinFunc(found, func(a, b *clearing) int {
		return cmp.Or(
			cmp.Compare(a.violations, b.violations),
			cmp.Compare(a.highest(), b.highest()),
			cmp.Compare(a.sum(), b.sum()),
			cmp.Compare(len(a.victims), len(b.victims)),
			b.earliest().Compare(a.earliest()),
		)
	})
}

func (c *clearing) highest() int32 {
	if len(c.victims) == 0 {
		return math.MinInt32
	}
	return c.victims[0].Priority
}

// sum adds up priorities, all taken as positive: two pods of a negative one are more harm than one.
func (c *clearing) sum() (sum int64) {
	for _, v := range c.victims {
		sum += int64(v.Priority) + math.MaxInt32 + 1
	}
	return sum
}

// earliest is when the first of the most important victims started.
func (c *clearing) earliest() time.Time {
	earliest := started(nil)
	for _, v := range c.victims {
		if at := started(v); v.Priority == c.highest() && at.Before(earliest) {
			earliest = at
		}
	}
	return earliest
}

// byImportance orders the most important pods first: by priority, then those that have run longest.
func byImportance(a, b *snapshot.Pod) int {
	return cmp.Or(
		cmp.Compare(b.Priority, a.Priority),
		started(a).Compare(started(b)),
		cmp.Compare(a.Object.UID, b.Object.UID), // the same choice each time
	)
}

// started is when a pod started; one that has not is the youngest.
func started(pod *snapshot.Pod) time.Time {
	if pod == nil || pod.Object.Status.StartTime == nil {
		return time.Unix(math.MaxInt32, 0)
	}
	return pod.Object.Status.StartTime.Time
}

// budget is a disruption budget, parsed.
type budget struct {
	namespace string
	selector  labels.Selector
	allowed   int32
	counted   map[string]bool // names of pods whose disruption is in allowed already
}

func newBudget(of *policyv1.PodDisruptionBudget) budget {
	b := budget{namespace: of.Namespace, selector: snapshot.Selector(of.Spec.Selector), allowed: of.Status.DisruptionsAllowed, counted: map[string]bool{}}
	for name := range of.Status.DisruptedPods {
		b.counted[name] = true
	}
	return b
}

// split tells the pods whose disruption would break a budget from the others, in the order given: a budget that
// allows one disruption protects all of its pods but the first.
func split(pods []*snapshot.Pod, budgets []budget) (protected, others []*snapshot.Pod) {
	used := make([]int32, len(budgets))
	for _, pod := range pods {
		breaks := false
		for i, b := range budgets {
			if b.namespace != pod.Object.Namespace || b.counted[pod.Object.Name] || !b.selector.Matches(labels.Set(pod.Object.Labels)) {
				continue
			}
			used[i]++
			breaks = breaks || used[i] > b.allowed
		}
		if breaks {
			protected = append(protected, pod)
		} else {
			others = append(others, pod)
		}
	}
	return protected, others
}

// outranked are the pods that wait for room on a node and must look elsewhere now that a more important one does.
func outranked(pod *snapshot.Pod, node string, snap *snapshot.Snapshot) (pods []*snapshot.Pod) {
	for _, other := range snap.Expected(node) {
		if other.Priority < pod.Priority {
			pods = append(pods, other)
		}
	}
	return pods
}
