package statefulset

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/podcontrol"
)

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
		ripe = podcontrol.Sooner(ripe, in)
	}
	if all := int32(replicas(o.set)); o.set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType &&
		status.Replicas == all && status.UpdatedReplicas == all && status.ReadyReplicas == all {
		status.CurrentRevision, status.CurrentReplicas = status.UpdateRevision, status.UpdatedReplicas
	}
	return status, ripe
}
