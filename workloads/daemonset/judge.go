package daemonset

import (
	"cmp"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/podcontrol"
)

// burst bounds what one pass creates or deletes, so that a label on all of a thousand nodes does not starve the others.
const burst = 250

// observed is what one pass decides from.
type observed struct {
	ds         *appsv1.DaemonSet
	nodes      []*corev1.Node
	pods       []*corev1.Pod
	hash       string                   // of the current template
	held       map[string]time.Duration // nodes whose failed pod is not replaced yet, and for how long
	collisions int32
}

// Plan is what one look at a DaemonSet leads to.
type Plan struct {
	Create []string // nodes
	Deaths []Death
	Status appsv1.DaemonSetStatus
	Again  time.Duration // when a pod becomes available, or a failed one may be replaced
}

// Death is a pod to delete.
type Death struct {
	Pod  *corev1.Pod
	Node string
	Why  Reason
}

// Reason is why a pod is deleted.
type Reason int

const (
	// Misplaced: it is not meant to be on its node, or there is one more than there should be.
	Misplaced Reason = iota
	// Outdated: another of a newer revision follows, or has.
	Outdated
	// Ended: its containers have, and another follows.
	Ended
)

// site is one node, as far as the DaemonSet is concerned.
type site struct {
	node      string
	run, keep bool
	pods      []*corev1.Pod // all of them
	fresh     *corev1.Pod   // of the current revision, and standing
	stale     *corev1.Pod   // of an older one, and standing
	thinned   bool          // it had more, so what is left stays for now
}

// pass is a plan in the making.
type pass struct {
	observed
	plan  Plan
	now   time.Time
	sites []*site
}

// judge decides one pass.
func judge(o observed, now time.Time) Plan {
	p := &pass{observed: o, now: now}
	strays := p.survey()
	p.status()
	if o.ds.DeletionTimestamp != nil {
		return p.plan
	}
	for _, pod := range strays {
		p.end(pod, "", Misplaced)
	}
	for _, s := range p.sites {
		p.settle(s)
	}
	if rolling := o.ds.Spec.UpdateStrategy.RollingUpdate; rolling != nil {
		if surge := p.surge(); surge > 0 {
			p.rollSurging(surge)
		} else {
			p.roll(p.share(rolling.MaxUnavailable, 1))
		}
	}
	p.plan.Create = p.plan.Create[:min(len(p.plan.Create), burst)]
	p.plan.Deaths = p.plan.Deaths[:min(len(p.plan.Deaths), burst)]
	return p.plan
}

// survey sorts the pods by node and returns those made for a node that is gone and not placed on any. Pods on a
// node that is gone belong to the collector of left-over pods.
func (p *pass) survey() (strays []*corev1.Pod) {
	byNode := map[string][]*corev1.Pod{}
	for _, pod := range p.pods {
		if pod.DeletionTimestamp == nil || !podcontrol.Terminal(pod) {
			byNode[nodeOf(pod)] = append(byNode[nodeOf(pod)], pod)
		}
	}
	where := placementOf(p.ds)
	for _, node := range p.nodes {
		s := &site{node: node.Name, pods: byNode[node.Name]}
		s.run, s.keep = where.on(node)
		p.sites = append(p.sites, s)
		delete(byNode, node.Name)
	}
	slices.SortFunc(p.sites, func(a, b *site) int { return cmp.Compare(a.node, b.node) })
	for node, pods := range byNode {
		for _, pod := range pods {
			if node != "" && pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil {
				strays = append(strays, pod)
			}
		}
	}
	return strays
}

// settle gives one node the pod it should have, and takes the pods it should not.
func (p *pass) settle(s *site) {
	if !s.keep {
		for _, pod := range s.pods {
			p.end(pod, s.node, Misplaced)
		}
		return
	}
	var standing []*corev1.Pod
	for _, pod := range s.pods {
		switch {
		case pod.DeletionTimestamp != nil:
		case podcontrol.Terminal(pod):
			p.replaceEnded(s, pod)
		default:
			standing = append(standing, pod)
		}
	}
	slices.SortFunc(standing, func(a, b *corev1.Pod) int { return p.rank(a, b) })
	for _, pod := range standing {
		slot := &s.stale
		if p.isFresh(pod) {
			slot = &s.fresh
		}
		// Only a surge may have two pods on a node, one of each kind.
		if *slot != nil || (p.surge() == 0 && (s.stale != nil || s.fresh != nil)) {
			p.end(pod, s.node, Misplaced)
			s.thinned = true
			continue
		}
		*slot = pod
	}
	if s.run && len(s.pods) == 0 {
		p.plan.Create = append(p.plan.Create, s.node)
	}
}

// replaceEnded deletes a pod that failed or, against the rules, succeeded. A pod that fails again and again is
// replaced ever more slowly.
func (p *pass) replaceEnded(s *site, pod *corev1.Pod) {
	if wait, held := p.held[s.node]; held && pod.Status.Phase == corev1.PodFailed {
		p.plan.Again = podcontrol.Sooner(p.plan.Again, wait)
		return
	}
	p.end(pod, s.node, Ended)
}

func (p *pass) end(pod *corev1.Pod, node string, why Reason) {
	if pod.DeletionTimestamp == nil {
		p.plan.Deaths = append(p.plan.Deaths, Death{Pod: pod, Node: node, Why: why})
	}
}

// rank puts the pod worth keeping first: placed, ready, old.
func (p *pass) rank(a, b *corev1.Pod) int {
	return cmp.Or(
		trueFirst(a.Spec.NodeName != "", b.Spec.NodeName != ""),
		trueFirst(podcontrol.Ready(a), podcontrol.Ready(b)),
		a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		cmp.Compare(a.Name, b.Name),
	)
}

func trueFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func (p *pass) isFresh(pod *corev1.Pod) bool {
	return pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == p.hash
}

func (p *pass) available(pod *corev1.Pod) bool {
	if pod == nil {
		return false
	}
	available, _ := podcontrol.Available(pod, time.Duration(p.ds.Spec.MinReadySeconds)*time.Second, p.now)
	return available
}
