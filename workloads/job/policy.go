package job

import (
	"fmt"
	"math"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// matchFailure finds what a job's policy says about a failed pod; why is for the reader of the job's condition.
// Without a rule that matches, a failure counts.
func matchFailure(policy *batchv1.PodFailurePolicy, pod *corev1.Pod) (action batchv1.PodFailurePolicyAction, why string) {
	if policy == nil {
		return batchv1.PodFailurePolicyActionCount, ""
	}
	for i, rule := range policy.Rules {
		switch rule.Action {
		case batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionIgnore, batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionFailJob:
		default:
			continue // from a newer API
		}
		if rule.OnExitCodes != nil {
			if container := exitedAs(pod, rule.OnExitCodes); container != nil {
				return rule.Action, fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v matching %v rule at index %d",
					container.Name, pod.Namespace, pod.Name, container.State.Terminated.ExitCode, rule.Action, i)
			}
			continue
		}
		if condition := conditionAs(pod, rule.OnPodConditions); condition != nil {
			return rule.Action, fmt.Sprintf("Pod %s/%s has condition %v matching %v rule at index %d",
				pod.Namespace, pod.Name, condition.Type, rule.Action, i)
		}
	}
	return batchv1.PodFailurePolicyActionCount, ""
}

func exitedAs(pod *corev1.Pod, want *batchv1.PodFailurePolicyOnExitCodesRequirement) *corev1.ContainerStatus {
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range statuses {
			ended := statuses[i].State.Terminated
			if ended == nil || ended.ExitCode == 0 || (want.ContainerName != nil && *want.ContainerName != statuses[i].Name) {
				continue
			}
			listed := slices.Contains(want.Values, ended.ExitCode)
			if (want.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && listed) || (want.Operator == batchv1.PodFailurePolicyOnExitCodesOpNotIn && !listed) {
				return &statuses[i]
			}
		}
	}
	return nil
}

func conditionAs(pod *corev1.Pod, want []batchv1.PodFailurePolicyOnPodConditionsPattern) *corev1.PodCondition {
	for i, condition := range pod.Status.Conditions {
		for _, pattern := range want {
			if pattern.Type == condition.Type && pattern.Status == condition.Status {
				return &pod.Status.Conditions[i]
			}
		}
	}
	return nil
}

// matchSuccess finds the first rule that the finished indexes satisfy, -1 if none does.
func matchSuccess(policy *batchv1.SuccessPolicy, done indexSet) int {
	if policy == nil {
		return -1
	}
	for i, rule := range policy.Rules {
		got, need := done.len(), math.MaxInt
		if rule.SucceededIndexes != nil {
			wanted := parseIndexes(*rule.SucceededIndexes, math.MaxInt)
			got, need = done.shared(wanted), wanted.len()
		}
		if rule.SucceededCount != nil {
			need = int(*rule.SucceededCount)
		}
		if got >= need {
			return i
		}
	}
	return -1
}
