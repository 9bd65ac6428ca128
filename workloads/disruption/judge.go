package disruption

import (
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/knarr/workloads/podcontrol"
)

// confirmation is how long a pod whose eviction was allowed may take to be seen going. After it the eviction is
// taken to have failed on its way.
const confirmation = 2 * time.Minute

// scaled says whether a budget is a share of how many pods there should be, which only their owners know.
func scaled(b *policyv1.PodDisruptionBudget) bool {
	return b.Spec.MaxUnavailable != nil || (b.Spec.MinAvailable != nil && b.Spec.MinAvailable.Type == intstr.String)
}

// desired is how many of the expected pods have to be healthy.
func desired(b *policyv1.PodDisruptionBudget, expected int32) (int32, error) {
	switch {
	case b.Spec.MaxUnavailable != nil:
		n, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MaxUnavailable, int(expected), true)
		return max(0, expected-int32(n)), err
	case b.Spec.MinAvailable != nil:
		n, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MinAvailable, int(expected), true)
		return int32(n), err
	}
	return 0, nil
}

// judge is a budget's status by the pods it covers. unconfirmed are pods that should be gone by now and are not.
func judge(b *policyv1.PodDisruptionBudget, pods []*corev1.Pod, expected int32, now time.Time) (status policyv1.PodDisruptionBudgetStatus, unconfirmed []*corev1.Pod, again time.Duration, err error) {
	status = *b.Status.DeepCopy()
	status.ObservedGeneration = b.Generation
	status.ExpectedPods = expected
	status.CurrentHealthy = 0
	status.DisruptedPods = nil
	if status.DesiredHealthy, err = desired(b, expected); err != nil {
		return status, nil, 0, err
	}
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil {
			continue
		}
		if since, going := b.Status.DisruptedPods[pod.Name]; going {
			left := since.Add(confirmation).Sub(now)
			if left > 0 {
				if status.DisruptedPods == nil {
					status.DisruptedPods = map[string]metav1.Time{}
				}
				status.DisruptedPods[pod.Name] = since
				again = sooner(again, left)
				continue
			}
			unconfirmed = append(unconfirmed, pod)
		}
		if podcontrol.Ready(pod) {
			status.CurrentHealthy++
		}
	}
	status.DisruptionsAllowed = 0
	if expected > 0 {
		status.DisruptionsAllowed = max(0, status.CurrentHealthy-status.DesiredHealthy)
	}
	condition := metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionTrue, Reason: policyv1.SufficientPodsReason,
		ObservedGeneration: b.Generation, LastTransitionTime: metav1.NewTime(now),
	}
	if status.DisruptionsAllowed == 0 {
		condition.Status, condition.Reason = metav1.ConditionFalse, policyv1.InsufficientPodsReason
	}
	meta.SetStatusCondition(&status.Conditions, condition)
	return status, unconfirmed, again, nil
}

// broken is the status of a budget that cannot be worked out: it allows nothing, which is the safe side.
func broken(b *policyv1.PodDisruptionBudget, failure error, now time.Time) policyv1.PodDisruptionBudgetStatus {
	status := *b.Status.DeepCopy()
	status.DisruptionsAllowed = 0
	status.ObservedGeneration = b.Generation
	meta.SetStatusCondition(&status.Conditions, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason,
		Message: failure.Error(), ObservedGeneration: b.Generation, LastTransitionTime: metav1.NewTime(now),
	})
	return status
}

// owner is the controller of some pods.
type owner struct {
	metav1.OwnerReference
	namespace string
}

// ownersOf are the controllers of pods, each once, and the names of the pods that have none.
func ownersOf(pods []*corev1.Pod) (owners []owner, unmanaged []string) {
	found := map[string]owner{}
	for _, pod := range pods {
		ref := metav1.GetControllerOfNoCopy(pod)
		if ref == nil {
			unmanaged = append(unmanaged, pod.Name)
			continue
		}
		found[string(ref.UID)] = owner{*ref, pod.Namespace}
	}
	for _, uid := range slices.Sorted(maps.Keys(found)) {
		owners = append(owners, found[uid])
	}
	return owners, unmanaged
}

// sooner is the smaller of two waits, where 0 is none.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}
