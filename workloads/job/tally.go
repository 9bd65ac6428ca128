package job

import (
	"slices"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/workloads/podcontrol"
)

// batchJob is a Job with the questions asked about it.
type batchJob struct{ *batchv1.Job }

func (j batchJob) indexed() bool {
	return ptr.Deref(j.Spec.CompletionMode, batchv1.NonIndexedCompletion) == batchv1.IndexedCompletion
}

func (j batchJob) perIndex() bool { return j.indexed() && j.Spec.BackoffLimitPerIndex != nil }

func (j batchJob) suspended() bool { return ptr.Deref(j.Spec.Suspend, false) }

func (j batchJob) completions() int { return int(ptr.Deref(j.Spec.Completions, 0)) }

// waitsForEnd is true if only a pod that has ended is replaced, not one that is about to.
func (j batchJob) waitsForEnd() bool {
	return j.Spec.PodFailurePolicy != nil || ptr.Deref(j.Spec.PodReplacementPolicy, batchv1.TerminatingOrFailed) == batchv1.Failed
}

// failed says whether a pod counts as failed, which one that is told to go does early unless the job waits for its end.
func (j batchJob) failed(pod *corev1.Pod) bool {
	if pod.Status.Phase == corev1.PodFailed {
		return true
	}
	return !j.waitsForEnd() && pod.DeletionTimestamp != nil && pod.Status.Phase != corev1.PodSucceeded
}

func (j batchJob) condition(kind batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range j.Status.Conditions {
		if c := &j.Status.Conditions[i]; c.Type == kind && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

// finished says whether a job has reached its end, whichever.
func (j batchJob) finished() bool {
	return j.condition(batchv1.JobComplete) != nil || j.condition(batchv1.JobFailed) != nil
}

// indexOf is a pod's completion index, -1 if it has none below the job's completions.
func (j batchJob) indexOf(pod *corev1.Pod) int {
	i, err := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || i < 0 || i >= j.completions() {
		return -1
	}
	return i
}

// tally is what the pods of a job amount to. A pod is tracked while it carries the job's finalizer, which it does
// until it is in the status.
type tally struct {
	all       []*corev1.Pod
	active    []*corev1.Pod
	ready     int32
	ending    int32 // told to go and not gone
	tracked   map[types.UID]bool
	bare      []*corev1.Pod // run without our finalizer: their end would not be counted
	done      []*corev1.Pod // tracked and over, whether in the status or not
	succeeded []*corev1.Pod // those the status does not show yet
	failed    []*corev1.Pod
}

// count sorts a job's pods. untracked are the pods we took the finalizer from, whatever the cache says.
func count(job batchJob, pods []*corev1.Pod, untracked map[types.UID]bool) tally {
	t := tally{all: pods, tracked: map[types.UID]bool{}}
	noted := sets.New[types.UID]()
	if uncounted := job.Status.UncountedTerminatedPods; uncounted != nil {
		noted.Insert(uncounted.Succeeded...).Insert(uncounted.Failed...)
	}
	for _, pod := range pods {
		switch {
		case podcontrol.Active(pod):
			t.active = append(t.active, pod)
			if podcontrol.Ready(pod) {
				t.ready++
			}
			// One that was adopted just now has it, and is shown as it was before.
			if !hasFinalizer(pod) && metav1.IsControlledBy(pod, job) {
				t.bare = append(t.bare, pod)
			}
		case !podcontrol.Terminal(pod):
			t.ending++
		}
		if untracked[pod.UID] || !hasFinalizer(pod) {
			continue
		}
		t.tracked[pod.UID] = true
		succeeded, failed := pod.Status.Phase == corev1.PodSucceeded, job.failed(pod)
		if succeeded || failed {
			t.done = append(t.done, pod)
		}
		switch {
		case noted.Has(pod.UID):
		case succeeded:
			t.succeeded = append(t.succeeded, pod)
		case failed:
			t.failed = append(t.failed, pod)
		}
	}
	return t
}

func hasFinalizer(pod *corev1.Pod) bool {
	return slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer)
}
