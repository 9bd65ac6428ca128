package job

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/podcontrol"
)

// A failed pod is replaced after ten seconds, the next one after twice that, and so on.
const (
	firstDelay = 10 * time.Second
	maxDelay   = 6 * time.Minute
)

// delayAfter is how long to wait after so many failures in a row.
func delayAfter(failures int) time.Duration {
	if failures <= 0 {
		return 0
	}
	if failures > 6 { // 10 s * 2^6 is past the maximum, and shifting further would overflow in the end
		return maxDelay
	}
	return min(firstDelay<<(failures-1), maxDelay)
}

// restDelay is what is left to wait before the next pod, judging by those that failed since the last success. It
// looks at the pods there are rather than at a memory, so that a restart of the controller forgets nothing.
func restDelay(job batchJob, pods []*corev1.Pod, now time.Time) time.Duration {
	var failures []time.Time
	var success time.Time
	for _, pod := range pods {
		switch at := endOf(pod, now); {
		case pod.Status.Phase == corev1.PodSucceeded:
			if at.After(success) {
				success = at
			}
		case job.failed(pod):
			failures = append(failures, at)
		}
	}
	failures = slices.DeleteFunc(failures, func(at time.Time) bool { return !at.After(success) })
	if len(failures) == 0 {
		return 0
	}
	last := slices.MaxFunc(failures, time.Time.Compare)
	return max(0, last.Add(delayAfter(len(failures))).Sub(now))
}

// endOf is when a pod finished: its last container did, or when it was told to go if none ever ran.
func endOf(pod *corev1.Pod, now time.Time) time.Time {
	var last time.Time
	for _, status := range pod.Status.ContainerStatuses {
		if ended := status.State.Terminated; ended != nil && ended.FinishedAt.After(last) {
			last = ended.FinishedAt.Time
		}
	}
	switch ready := podcontrol.Condition(pod, corev1.PodReady); {
	case !last.IsZero():
	case pod.DeletionTimestamp != nil:
		last = pod.DeletionTimestamp.Time
		if grace := pod.DeletionGracePeriodSeconds; grace != nil {
			last = last.Add(-time.Duration(*grace) * time.Second)
		}
	case ready != nil && !ready.LastTransitionTime.IsZero():
		last = ready.LastTransitionTime.Time
	default:
		last = pod.CreationTimestamp.Time
	}
	if last.After(now) { // another machine's clock must not hold a job up for ever
		return now
	}
	return last
}
