package replicaset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/workloads/podcontrol"
)

// burst bounds what one pass creates or deletes, so that one huge ReplicaSet does not starve the others.
const burst = 500

// judge says how many pods to create, or with a minus sign to delete, and which count as there.
func judge(rs *appsv1.ReplicaSet, pods []*corev1.Pod) (missing int, active []*corev1.Pod) {
	for _, pod := range pods {
		if podcontrol.Active(pod) {
			active = append(active, pod)
		}
	}
	missing = int(ptr.Deref(rs.Spec.Replicas, 1)) - len(active)
	return max(min(missing, burst), -burst), active
}

// judgeStatus is the status that pods amount to; ripe is when the next ready pod becomes available, 0 if none will.
func judgeStatus(rs *appsv1.ReplicaSet, pods []*corev1.Pod, failure error, now time.Time) (status appsv1.ReplicaSetStatus, ripe time.Duration) {
	status = appsv1.ReplicaSetStatus{
		ObservedGeneration:  rs.Generation,
		Conditions:          slices.Clone(rs.Status.Conditions),
		TerminatingReplicas: new(int32),
	}
	template := labels.SelectorFromSet(rs.Spec.Template.Labels)
	minReady := time.Duration(rs.Spec.MinReadySeconds) * time.Second
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil && !podcontrol.Terminal(pod) {
			*status.TerminatingReplicas++
		}
		if !podcontrol.Active(pod) {
			continue
		}
		status.Replicas++
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		if !podcontrol.Ready(pod) {
			continue
		}
		status.ReadyReplicas++
		available, in := podcontrol.Available(pod, minReady, now)
		if available {
			status.AvailableReplicas++
		}
		ripe = podcontrol.Sooner(ripe, in)
	}
	status.Conditions = withFailure(status.Conditions, int(ptr.Deref(rs.Spec.Replicas, 1))-int(status.Replicas), failure, now)
	return status, ripe
}

// withFailure sets or removes the ReplicaFailure condition. Its text stays as it first was: a refusal repeated
// with another random pod name is not news.
func withFailure(conditions []appsv1.ReplicaSetCondition, missing int, failure error, now time.Time) []appsv1.ReplicaSetCondition {
	at := slices.IndexFunc(conditions, func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure })
	switch {
	case failure == nil && at >= 0:
		return slices.Delete(conditions, at, at+1)
	case failure == nil || at >= 0:
		return conditions
	}
	reason := "FailedCreate"
	if missing < 0 {
		reason = "FailedDelete"
	}
	return append(conditions, appsv1.ReplicaSetCondition{
		Type:               appsv1.ReplicaSetReplicaFailure,
		Status:             corev1.ConditionTrue,
		LastTransitionTime: metav1.NewTime(now),
		Reason:             reason,
		Message:            failure.Error(),
	})
}
