package statefulset

import (
	"cmp"
	"maps"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

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
		p.plan.Again = podcontrol.Sooner(p.plan.Again, claimPatience)
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

func minReady(set *appsv1.StatefulSet) time.Duration {
	return time.Duration(set.Spec.MinReadySeconds) * time.Second
}
