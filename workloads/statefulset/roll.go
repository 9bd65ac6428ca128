package statefulset

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/workloads/podcontrol"
)

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
