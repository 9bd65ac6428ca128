package deployment

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// The reasons kubectl rollout status and others branch on.
const (
	reasonAvailable = "NewReplicaSetAvailable"
	reasonUpdated   = "ReplicaSetUpdated"
	reasonTimedOut  = "ProgressDeadlineExceeded"
	reasonPaused    = "DeploymentPaused"
	reasonResumed   = "DeploymentResumed"

	reasonNotCreated = "ReplicaSetCreateError"
)

// count is the status the ReplicaSets amount to.
func (r *rollout) count() appsv1.DeploymentStatus {
	d, all := r.d, r.all()
	status := appsv1.DeploymentStatus{
		ObservedGeneration: d.Generation,
		Replicas:           total(all, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.Replicas }),
		ReadyReplicas:      total(all, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.ReadyReplicas }),
		AvailableReplicas:  total(all, available),
		CollisionCount:     d.Status.CollisionCount,
		Conditions:         slices.Clone(r.conditions),
	}
	status.TerminatingReplicas = ptr.To(total(all, func(rs *appsv1.ReplicaSet) int32 { return ptr.Deref(rs.Status.TerminatingReplicas, 0) }))
	status.UnavailableReplicas = max(total(all, size)-status.AvailableReplicas, 0)
	if r.current != nil {
		status.UpdatedReplicas = r.current.Status.Replicas
	}
	enough := appsv1.DeploymentCondition{
		Type: appsv1.DeploymentAvailable, Status: corev1.ConditionFalse,
		Reason: "MinimumReplicasUnavailable", Message: "Deployment does not have minimum availability.",
		LastUpdateTime: metav1.NewTime(r.now), LastTransitionTime: metav1.NewTime(r.now),
	}
	if _, unavailable := bounds(d); status.AvailableReplicas >= desired(d)-unavailable {
		enough.Status, enough.Reason, enough.Message = corev1.ConditionTrue, "MinimumReplicasAvailable", "Deployment has minimum availability."
	}
	status.Conditions = withCondition(status.Conditions, enough)
	return status
}

// progress adds to a status how the rollout gets on, and says when its deadline wants another look.
func (r *rollout) progress(status appsv1.DeploymentStatus) (appsv1.DeploymentStatus, time.Duration) {
	d := r.d
	subject := fmt.Sprintf("Deployment %q", d.Name)
	if r.current != nil {
		subject = fmt.Sprintf("ReplicaSet %q", r.current.Name)
	}
	before := condition(status.Conditions, appsv1.DeploymentProgressing)
	settled := before != nil && before.Reason == reasonAvailable && status.Replicas == status.UpdatedReplicas
	switch {
	case !hasDeadline(d):
		status.Conditions = slices.DeleteFunc(status.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == appsv1.DeploymentProgressing })
	case settled:
	case complete(d, &status):
		status.Conditions = withCondition(status.Conditions, progressing(corev1.ConditionTrue, reasonAvailable, subject+" has successfully progressed.", r.now))
	case advanced(&d.Status, &status):
		// Replaced even if it says the same: its update time is what the deadline counts from.
		status.Conditions = replaceCondition(status.Conditions, progressing(corev1.ConditionTrue, reasonUpdated, subject+" is progressing.", r.now))
	case r.deadline(before) < 0:
		status.Conditions = withCondition(status.Conditions, progressing(corev1.ConditionFalse, reasonTimedOut, subject+" has timed out progressing.", r.now))
	}
	status.Conditions = r.withFailure(status.Conditions)
	after := condition(status.Conditions, appsv1.DeploymentProgressing)
	if after == nil || after.Reason == reasonAvailable || after.Reason == reasonTimedOut {
		return status, 0
	}
	return status, r.deadline(after) + time.Second // conditions keep whole seconds
}

// deadline is the time left to make progress; less than 0 when it has passed.
func (r *rollout) deadline(c *appsv1.DeploymentCondition) time.Duration {
	if c == nil || c.Reason == reasonAvailable || !hasDeadline(r.d) {
		return 0
	}
	if c.Reason == reasonTimedOut {
		return -1
	}
	limit := time.Duration(*r.d.Spec.ProgressDeadlineSeconds) * time.Second
	return c.LastUpdateTime.Add(limit).Sub(r.now)
}

// complete says whether a rollout has nothing left to do.
func complete(d *appsv1.Deployment, status *appsv1.DeploymentStatus) bool {
	return status.UpdatedReplicas == desired(d) && status.Replicas == desired(d) &&
		status.AvailableReplicas == desired(d) && status.ObservedGeneration >= d.Generation
}

func advanced(before, after *appsv1.DeploymentStatus) bool {
	return after.UpdatedReplicas > before.UpdatedReplicas ||
		after.Replicas-after.UpdatedReplicas < before.Replicas-before.UpdatedReplicas ||
		after.ReadyReplicas > before.ReadyReplicas ||
		after.AvailableReplicas > before.AvailableReplicas
}

// withFailure repeats the ReplicaSets' trouble with their pods, the current one's first.
func (r *rollout) withFailure(conditions []appsv1.DeploymentCondition) []appsv1.DeploymentCondition {
	conditions = slices.DeleteFunc(conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == appsv1.DeploymentReplicaFailure })
	all := r.all()
	for i := len(all) - 1; i >= 0; i-- {
		for _, c := range all[i].Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				return append(conditions, appsv1.DeploymentCondition{
					Type: appsv1.DeploymentReplicaFailure, Status: c.Status, Reason: c.Reason, Message: c.Message,
					LastTransitionTime: c.LastTransitionTime, LastUpdateTime: c.LastTransitionTime,
				})
			}
		}
	}
	return conditions
}

func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

func progressing(status corev1.ConditionStatus, reason, message string, now time.Time) appsv1.DeploymentCondition {
	return appsv1.DeploymentCondition{
		Type: appsv1.DeploymentProgressing, Status: status, Reason: reason, Message: message,
		LastUpdateTime: metav1.NewTime(now), LastTransitionTime: metav1.NewTime(now),
	}
}

func condition(conditions []appsv1.DeploymentCondition, kind appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range conditions {
		if conditions[i].Type == kind {
			return &conditions[i]
		}
	}
	return nil
}

// withCondition sets c unless a condition with its status and reason is there.
func withCondition(conditions []appsv1.DeploymentCondition, c appsv1.DeploymentCondition) []appsv1.DeploymentCondition {
	if was := condition(conditions, c.Type); was != nil && was.Status == c.Status && was.Reason == c.Reason {
		return conditions
	}
	return replaceCondition(conditions, c)
}

// replaceCondition sets c; a status that stays keeps the time it was reached.
func replaceCondition(conditions []appsv1.DeploymentCondition, c appsv1.DeploymentCondition) []appsv1.DeploymentCondition {
	conditions = slices.Clone(conditions)
	for i := range conditions {
		if conditions[i].Type == c.Type {
			if conditions[i].Status == c.Status {
				c.LastTransitionTime = conditions[i].LastTransitionTime
			}
			conditions[i] = c
			return conditions
		}
	}
	return append(conditions, c)
}
