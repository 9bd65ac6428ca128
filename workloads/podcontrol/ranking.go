package podcontrol

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// DeletionOrder sorts pods so that those whose loss costs least come first: never placed, not yet running, not
// ready, cheap by their own annotation, crowded together on one node, young. crowd says how many pods of the same
// application share a node.
func DeletionOrder(pods []*corev1.Pod, crowd map[string]int, now time.Time) []*corev1.Pod {
	sorted := slices.Clone(pods)
	slices.SortStableFunc(sorted, func(a, b *corev1.Pod) int {
		return cmp.Or(
			falseFirst(a.Spec.NodeName != "", b.Spec.NodeName != ""),
			cmp.Compare(progress(a), progress(b)),
			falseFirst(Ready(a), Ready(b)),
			cmp.Compare(deletionCost(a), deletionCost(b)),
			cmp.Compare(crowd[b.Spec.NodeName], crowd[a.Spec.NodeName]),
			cmp.Compare(ageClass(readySince(a), now), ageClass(readySince(b), now)),
			cmp.Compare(restarts(b), restarts(a)),
			cmp.Compare(ageClass(a.CreationTimestamp.Time, now), ageClass(b.CreationTimestamp.Time, now)),
			cmp.Compare(a.UID, b.UID),
		)
	})
	return sorted
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case !a:
		return -1
	}
	return 1
}

func progress(pod *corev1.Pod) int {
	switch pod.Status.Phase {
	case corev1.PodRunning:
		return 2
	case corev1.PodUnknown:
		return 1
	}
	return 0
}

func deletionCost(pod *corev1.Pod) int32 {
	cost, err := strconv.ParseInt(pod.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0 // the API server refuses a malformed cost; absent means 0
	}
	return int32(cost)
}

// ageClass groups ages by powers of two, so that among pods of about the same age the choice is arbitrary and
// scaling down does not always hit the ones a rolling failure domain started last.
func ageClass(since, now time.Time) int {
	if since.IsZero() {
		return -1
	}
	age := now.Sub(since)
	if age < 1 {
		return 0
	}
	return int(math.Log2(float64(age)))
}

func readySince(pod *corev1.Pod) time.Time {
	if c := Condition(pod, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

func restarts(pod *corev1.Pod) int32 {
	var most int32
	for _, c := range pod.Status.ContainerStatuses {
		most = max(most, c.RestartCount)
	}
	return most
}
