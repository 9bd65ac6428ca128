package daemonset

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/knarr/workloads/podcontrol"
)

// roll deletes pods of older revisions as far as availability allows; settle creates the new ones once they are
// gone. Deleting one that is not ready takes nothing away.
func (p *pass) roll(budget int) {
	for _, s := range p.sites {
		if s.run && !p.available(s.fresh) && !p.available(s.stale) {
			budget--
		}
	}
	for _, s := range p.sites {
		switch {
		case !s.run || s.stale == nil || s.thinned:
		case !podcontrol.Ready(s.stale):
			p.end(s.stale, s.node, Outdated)
		case p.available(s.stale) && budget > 0:
			budget--
			p.end(s.stale, s.node, Outdated)
		}
	}
}

// rollSurging starts pods of the new revision beside old ones, and deletes an old one when the new one beside it is
// available. Where the old one serves nobody any more the new one starts at once, whatever the limit.
func (p *pass) rollSurging(limit int) {
	for _, s := range p.sites {
		if s.fresh != nil && s.stale != nil {
			limit--
		}
	}
	for _, s := range p.sites {
		switch {
		case !s.run || len(s.pods) == 0:
		case s.fresh != nil && s.stale != nil:
			if p.available(s.fresh) {
				p.end(s.stale, s.node, Outdated)
			}
		case s.fresh != nil:
		case s.stale == nil:
			if !slices.ContainsFunc(s.pods, func(pod *corev1.Pod) bool { return pod.DeletionTimestamp == nil }) {
				p.plan.Create = append(p.plan.Create, s.node)
			}
		case !podcontrol.Ready(s.stale):
			p.plan.Create = append(p.plan.Create, s.node)
		case limit > 0:
			limit--
			p.plan.Create = append(p.plan.Create, s.node)
		}
	}
}

// surge is how many nodes may have an old and a new pod; 0 if the strategy is not to surge.
func (p *pass) surge() int {
	if rolling := p.ds.Spec.UpdateStrategy.RollingUpdate; rolling != nil {
		return p.share(rolling.MaxSurge, 0)
	}
	return 0
}

// share is a number of the nodes that should run a pod, or a percentage of them, rounded up.
func (p *pass) share(of *intstr.IntOrString, otherwise int) int {
	if of == nil {
		return otherwise
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(of, int(p.plan.Status.DesiredNumberScheduled), true)
	if err != nil {
		return otherwise // the API server refuses what is neither a number nor a percentage
	}
	return n
}
