package daemonset

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"knarr.dev/knarr/workloads/podcontrol"
)

// status counts. Pods that end count as there, but not as anything better.
func (p *pass) status() {
	status := appsv1.DaemonSetStatus{
		ObservedGeneration: p.ds.Generation,
		CollisionCount:     p.ds.Status.CollisionCount,
		Conditions:         p.ds.Status.Conditions,
	}
	if p.collisions > 0 {
		status.CollisionCount = &p.collisions
	}
	for _, s := range p.sites {
		switch {
		case s.run:
			status.DesiredNumberScheduled++
			p.count(s, &status)
		case len(s.pods) > 0:
			status.NumberMisscheduled++
		}
	}
	status.NumberUnavailable = status.DesiredNumberScheduled - status.NumberAvailable
	p.plan.Status = status
}

// count adds one node that should run a pod.
func (p *pass) count(s *site, status *appsv1.DaemonSetStatus) {
	var ready, available, updated bool
	for _, pod := range s.pods {
		if !podcontrol.Active(pod) {
			continue
		}
		updated = updated || p.isFresh(pod)
		ready = ready || podcontrol.Ready(pod)
		ripe, in := podcontrol.Available(pod, time.Duration(p.ds.Spec.MinReadySeconds)*time.Second, p.now)
		available = available || ripe
		p.plan.Again = podcontrol.Sooner(p.plan.Again, in)
	}
	for counter, holds := range map[*int32]bool{
		&status.CurrentNumberScheduled: len(s.pods) > 0,
		&status.UpdatedNumberScheduled: updated,
		&status.NumberReady:            ready,
		&status.NumberAvailable:        available,
	} {
		if holds {
			*counter++
		}
	}
}
