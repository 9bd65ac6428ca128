package shutdown

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/agent/pressure"
)

// Step is how long pods from a priority up to the next step's get.
type Step struct {
	Priority int32
	Grace    time.Duration
}

// wave is the pods of one step.
type wave struct {
	Step
	pods []pressure.Pod
}

// waves puts pods into the order in which they have to end. Pods below the lowest step's priority end with it; a step
// without pods takes no time.
func waves(steps []Step, pods []pressure.Pod) []wave {
	out := make([]wave, 0, len(steps))
	for _, step := range steps {
		out = append(out, wave{Step: step})
	}
	slices.SortFunc(out, func(a, b wave) int { return cmp.Compare(a.Priority, b.Priority) })
	for _, pod := range pods {
		if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		var priority int32
		if pod.Spec.Priority != nil {
			priority = *pod.Spec.Priority
		}
		i, exact := slices.BinarySearchFunc(out, priority, func(w wave, p int32) int { return cmp.Compare(w.Priority, p) })
		if !exact {
			i = max(i-1, 0)
		}
		out[i].pods = append(out[i].pods, pod)
	}
	return slices.DeleteFunc(out, func(w wave) bool { return len(w.pods) == 0 })
}

// graceOf is how long a pod's containers get, in seconds: what it asks for, within what its wave has.
func (w wave) graceOf(pod *corev1.Pod) int64 {
	grace := int64(w.Grace / time.Second)
	if own := pod.Spec.TerminationGracePeriodSeconds; own != nil {
		grace = min(grace, *own)
	}
	return grace
}
