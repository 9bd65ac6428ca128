package job

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// A finished pod reaches the counters in three writes, so that a crash between any two neither loses it nor counts
// it twice: its UID goes into the status, its finalizer goes, the UID turns into a count. Indexes that succeed
// need no UID: the set of indexes is itself what remembers them.

// page bounds the UIDs in one status.
const page = 500

// began is the status of a pass before any pod is accounted for, after it acted on the pods.
func began(job batchJob, p plan, active, ready, ending int32, now time.Time) batchv1.JobStatus {
	status := *job.Status.DeepCopy()
	status.Active, status.Ready, status.Terminating = active, &ready, &ending
	if status.StartTime == nil && (!job.suspended() || p.finish != nil) { // the API has no finished job that never began
		status.StartTime = ptr.To(metav1.NewTime(now))
	}
	if status.UncountedTerminatedPods == nil {
		status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	if job.perIndex() {
		status.FailedIndexes = ptr.To(p.lost.String())
	}
	switch {
	case p.finish != nil:
		status.Conditions = withCondition(status.Conditions, *p.finish)
	case job.DeletionTimestamp != nil:
	case job.suspended():
		status.Conditions = withCondition(status.Conditions, *newCondition(batchv1.JobSuspended, "JobSuspended", "Job suspended", now))
		status.StartTime = nil // one that does not run has not begun (KEP-5440): who queues it may send it elsewhere
	case job.condition(batchv1.JobSuspended) != nil:
		resumed := newCondition(batchv1.JobSuspended, "JobResumed", "Job resumed", now)
		resumed.Status = corev1.ConditionFalse
		status.Conditions = withCondition(status.Conditions, *resumed)
		status.StartTime = ptr.To(metav1.NewTime(now)) // also where something else than us has kept it: the deadline counts from here
	}
	return status
}

// note writes finished pods into the status; the finalizers of free may go once it is stored.
func note(job batchJob, t tally, p plan, status *batchv1.JobStatus) (free []*corev1.Pod) {
	var indexes []int
	uncounted := status.UncountedTerminatedPods
	fresh := map[types.UID]bool{}
	for _, pods := range [][]*corev1.Pod{t.succeeded, t.failed} {
		for _, pod := range pods {
			fresh[pod.UID] = true
		}
	}
	over := map[types.UID]bool{}
	for _, pod := range t.done {
		over[pod.UID] = true
		if p.held[pod] {
			continue
		}
		if len(indexes)+len(uncounted.Succeeded)+len(uncounted.Failed) >= page {
			break
		}
		free = append(free, pod)
		switch i := job.indexOf(pod); {
		case !fresh[pod.UID] || (job.indexed() && i < 0):
		case pod.Status.Phase == corev1.PodSucceeded && job.indexed():
			indexes = append(indexes, i)
		case pod.Status.Phase == corev1.PodSucceeded:
			uncounted.Succeeded = append(uncounted.Succeeded, pod.UID)
		default:
			if action, _ := matchFailure(job.Spec.PodFailurePolicy, pod); action != batchv1.PodFailurePolicyActionIgnore {
				uncounted.Failed = append(uncounted.Failed, pod.UID)
			}
		}
	}
	if job.indexed() {
		done := parseIndexes(status.CompletedIndexes, job.completions()).with(indexes...)
		status.CompletedIndexes, status.Succeeded = done.String(), int32(done.len())
	}
	if job.DeletionTimestamp != nil { // nobody will ask what becomes of the others
		for _, pod := range t.all {
			if t.tracked[pod.UID] && !over[pod.UID] {
				free = append(free, pod)
			}
		}
	}
	return free
}

// settle turns the UIDs of pods that are not tracked any more into counts.
func settle(status *batchv1.JobStatus, tracked map[types.UID]bool) {
	was := status.UncountedTerminatedPods
	stay := func(uids []types.UID, counter *int32) []types.UID {
		left := slices.DeleteFunc(slices.Clone(uids), func(uid types.UID) bool { return !tracked[uid] })
		*counter += int32(len(uids) - len(left))
		return left
	}
	status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{
		Succeeded: stay(was.Succeeded, &status.Succeeded),
		Failed:    stay(was.Failed, &status.Failed),
	}
}

// conclude ends a job that is about to end, once none of its pods runs or waits to be counted.
func conclude(status *batchv1.JobStatus, finish *batchv1.JobCondition, tracked map[types.UID]bool, now time.Time) (end *batchv1.JobCondition) {
	uncounted := status.UncountedTerminatedPods
	if finish == nil || len(tracked) > 0 || len(uncounted.Succeeded)+len(uncounted.Failed) > 0 || status.Active > 0 || ptr.Deref(status.Terminating, 0) > 0 {
		return nil
	}
	end = newCondition(batchv1.JobFailed, finish.Reason, finish.Message, now)
	if finish.Type == batchv1.JobSuccessCriteriaMet {
		end.Type = batchv1.JobComplete
		status.CompletionTime = ptr.To(metav1.NewTime(now))
	}
	status.Conditions = withCondition(status.Conditions, *end)
	status.Ready = new(int32)
	return end
}

func newCondition(kind batchv1.JobConditionType, reason, message string, now time.Time) *batchv1.JobCondition {
	at := metav1.NewTime(now)
	return &batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue, LastProbeTime: at, LastTransitionTime: at, Reason: reason, Message: message}
}

// withCondition sets a condition, and leaves one that says the same alone.
func withCondition(conditions []batchv1.JobCondition, c batchv1.JobCondition) []batchv1.JobCondition {
	at := slices.IndexFunc(conditions, func(was batchv1.JobCondition) bool { return was.Type == c.Type })
	if at < 0 {
		return append(conditions, c)
	}
	if was := &conditions[at]; was.Status != c.Status || was.Reason != c.Reason || was.Message != c.Message {
		*was = c
	}
	return conditions
}
