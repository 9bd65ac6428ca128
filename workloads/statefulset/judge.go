package statefulset

import (
	"cmp"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/workloads/podcontrol"
)

// claimPatience is how soon to look again at a claim that is going; nothing else tells when it is gone.
const claimPatience = time.Second

// observed is what one pass decides from.
type observed struct {
	set             *appsv1.StatefulSet
	pods            []*corev1.Pod
	claims          claims
	current, update revision
	collisions      int32
}

// Plan is what one look at a StatefulSet leads to, in the order it is carried out.
type Plan struct {
	Claims []*corev1.PersistentVolumeClaim // with other owners
	Births []Birth
	Label  []Identity
	Deaths []Death
	Status appsv1.StatefulSetStatus
	Again  time.Duration // when a pod becomes available, or a claim that goes wants another look
}

// Birth is a pod to create, and claims to create before it; Pod is nil when only claims are missing.
type Birth struct {
	Name   string
	Claims []*corev1.PersistentVolumeClaim
	Pod    *corev1.Pod
}

// Identity is the labels a pod lacks.
type Identity struct {
	Pod    *corev1.Pod
	Labels map[string]string
}

// Death is a pod to delete.
type Death struct {
	Pod *corev1.Pod
	Why Reason
}

// Reason is why a pod is deleted.
type Reason int

const (
	// Surplus: the set became smaller, or starts elsewhere.
	Surplus Reason = iota
	// Outdated: another of a newer revision follows.
	Outdated
	// Ended: its containers have, and another follows.
	Ended
)

// pass is a plan in the making.
type pass struct {
	observed
	plan      Plan
	now       time.Time
	members   map[int]*corev1.Pod
	condemned []int // ordinals beyond the set's size, highest first
}

// judge decides one pass. An ordered set moves one pod at a time, and only while all before it are well; a parallel
// one moves them all.
func judge(o observed, now time.Time) Plan {
	p := &pass{observed: o, now: now, members: map[int]*corev1.Pod{}}
	for _, pod := range o.pods {
		ordinal, member := ordinalOf(o.set, pod.Name)
		if !member {
			continue
		}
		p.members[ordinal] = pod
		if !wanted(o.set, ordinal) {
			p.condemned = append(p.condemned, ordinal)
		}
	}
	slices.SortFunc(p.condemned, func(a, b int) int { return cmp.Compare(b, a) })
	p.plan.Status, p.plan.Again = judgeStatus(o, now)
	if o.set.DeletionTimestamp != nil {
		return p.plan
	}
	p.own()
	if p.fill() && p.shrink() {
		p.roll()
	}
	return p.plan
}

func (p *pass) ordered() bool {
	return p.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
}

// well says whether a pod is as good as it will get: available and meant to stay.
func (p *pass) well(pod *corev1.Pod) bool {
	if pod == nil || !podcontrol.Active(pod) || pod.Status.Phase != corev1.PodRunning {
		return false
	}
	available, _ := podcontrol.Available(pod, minReady(p.set), p.now)
	return available
}

// own brings the owners of the standing pods' claims up to date.
func (p *pass) own() {
	for _, ordinal := range slices.Sorted(maps.Keys(p.members)) {
		p.plan.Claims = append(p.plan.Claims, p.claims.reowned(p.set, ordinal, p.members[ordinal])...)
	}
}

// fill makes every wanted ordinal have a pod, lowest first. It says whether the pass may go on.
func (p *pass) fill() bool {
	for i := range replicas(p.set) {
		ordinal := start(p.set) + i
		if !p.settle(ordinal) && p.ordered() {
			return false
		}
	}
	return true
}

// settle does what one ordinal needs and says whether it is well already.
func (p *pass) settle(ordinal int) bool {
	pod := p.members[ordinal]
	switch {
	case pod == nil && p.claims.going(p.set, ordinal):
		p.plan.Again = soonest(p.plan.Again, claimPatience)
	case pod == nil:
		p.plan.Births = append(p.plan.Births, Birth{
			Name: podName(p.set, ordinal), Claims: p.claims.missing(p.set, ordinal), Pod: newPod(p.set, ordinal, p.revisionFor(ordinal)),
		})
	case pod.DeletionTimestamp != nil:
	case podcontrol.Terminal(pod):
		p.plan.Deaths = append(p.plan.Deaths, Death{Pod: pod, Why: Ended})
	default:
		p.complete(ordinal, pod)
		return p.well(pod)
	}
	return false
}

// complete gives a standing pod what it lacks of its identity.
func (p *pass) complete(ordinal int, pod *corev1.Pod) {
	if !identified(p.set, ordinal, pod) {
		p.plan.Label = append(p.plan.Label, Identity{Pod: pod, Labels: identity(p.set, ordinal)})
	}
	if pod.Status.Phase != corev1.PodPending {
		return
	}
	if missing := p.claims.missing(p.set, ordinal); len(missing) > 0 {
		p.plan.Births = append(p.plan.Births, Birth{Name: pod.Name, Claims: missing})
	}
}

// shrink deletes the pods beyond the set's size, highest first. It says whether the pass may go on.
func (p *pass) shrink() bool {
	for i, ordinal := range p.condemned {
		pod := p.members[ordinal]
		if pod.DeletionTimestamp != nil {
			if p.ordered() {
				return false
			}
			continue
		}
		// A pod that is not well may need those that are; the lowest of the sick has nobody left to wait for.
		if p.ordered() && !p.well(pod) && slices.ContainsFunc(p.condemned[i+1:], func(lower int) bool { return !p.well(p.members[lower]) }) {
			return false
		}
		p.plan.Deaths = append(p.plan.Deaths, Death{Pod: pod, Why: Surplus})
		if p.ordered() {
			return false
		}
	}
	return true
}

// roll deletes pods of older revisions, highest ordinal first, as far as availability allows. Deleting one that is
// not ready takes nothing away, so such a pod never holds up the update that may heal it.
func (p *pass) roll() {
	strategy := p.set.Spec.UpdateStrategy
	if strategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return
	}
	budget := p.maxUnavailable()
	for i := range replicas(p.set) {
		if !p.well(p.members[start(p.set)+i]) {
			budget--
		}
	}
	for i := replicas(p.set) - 1; i >= p.partition(); i-- {
		pod := p.members[start(p.set)+i]
		if pod == nil || !podcontrol.Active(pod) || revisionOf(pod) == p.update.name {
			continue
		}
		switch {
		case !podcontrol.Ready(pod):
		case budget <= 0 || !p.well(pod): // one that is ready becomes available by waiting
			continue
		default:
			budget--
		}
		p.plan.Deaths = append(p.plan.Deaths, Death{Pod: pod, Why: Outdated})
	}
}

// revisionFor is the revision an ordinal's next pod is made of.
func (p *pass) revisionFor(ordinal int) revision {
	if p.set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType && ordinal < start(p.set)+p.partition() {
		return p.current
	}
	return p.update
}

// partition is how many pods, counted from the first, a rolling update leaves alone.
func (p *pass) partition() int {
	rolling := p.set.Spec.UpdateStrategy.RollingUpdate
	if rolling == nil {
		return 0
	}
	return int(ptr.Deref(rolling.Partition, 0))
}

func (p *pass) maxUnavailable() int {
	rolling := p.set.Spec.UpdateStrategy.RollingUpdate
	if rolling == nil || rolling.MaxUnavailable == nil {
		return 1
	}
	most, err := intstr.GetScaledValueFromIntOrPercent(rolling.MaxUnavailable, replicas(p.set), true)
	if err != nil {
		return 1 // the API server refuses what is neither a number nor a percentage
	}
	return max(most, 1)
}

// judgeStatus is the status the pods amount to; ripe is when the next ready pod becomes available, 0 if none will.
func judgeStatus(o observed, now time.Time) (status appsv1.StatefulSetStatus, ripe time.Duration) {
	status = appsv1.StatefulSetStatus{
		ObservedGeneration: o.set.Generation,
		CurrentRevision:    o.current.name,
		UpdateRevision:     o.update.name,
		CollisionCount:     &o.collisions,
		Conditions:         o.set.Status.Conditions,
	}
	for _, pod := range o.pods {
		if _, member := ordinalOf(o.set, pod.Name); !member {
			continue
		}
		status.Replicas++
		if pod.DeletionTimestamp == nil {
			if revisionOf(pod) == o.current.name {
				status.CurrentReplicas++
			}
			if revisionOf(pod) == o.update.name {
				status.UpdatedReplicas++
			}
		}
		if pod.Status.Phase != corev1.PodRunning || !podcontrol.Ready(pod) {
			continue
		}
		status.ReadyReplicas++
		available, in := podcontrol.Available(pod, minReady(o.set), now)
		if available {
			status.AvailableReplicas++
		}
		ripe = soonest(ripe, in)
	}
	if all := int32(replicas(o.set)); o.set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType &&
		status.Replicas == all && status.UpdatedReplicas == all && status.ReadyReplicas == all {
		status.CurrentRevision, status.CurrentReplicas = status.UpdateRevision, status.UpdatedReplicas
	}
	return status, ripe
}

func minReady(set *appsv1.StatefulSet) time.Duration {
	return time.Duration(set.Spec.MinReadySeconds) * time.Second
}

// soonest is the smaller of two waits, where 0 is none.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}
