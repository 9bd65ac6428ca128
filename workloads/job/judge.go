package job

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/workloads/podcontrol"
)

// burst bounds what one pass creates or deletes, so that one huge job does not starve the others.
const burst = 500

// noIndex stands for the index of a pod whose job has none.
const noIndex = -1

// plan is what one pass does about a job's pods.
type plan struct {
	finish  *batchv1.JobCondition // FailureTarget or SuccessCriteriaMet, once either is certain
	creates []start
	deletes []*corev1.Pod
	track   []*corev1.Pod // what began to withdraw them did not come to an end; they may stay
	// withdrawn: the deleted are not needed any more, which is no failure of theirs.
	withdrawn bool
	// held are failed pods whose record their replacement continues; they stay tracked until it is there.
	held  map[*corev1.Pod]bool
	done  indexSet // indexes that have succeeded, with what the status does not show yet
	lost  indexSet // indexes that have failed for good
	again time.Duration
}

// start is a pod to create, with the failures of its index so far.
type start struct {
	index             int
	failures, ignored int
}

// judge decides about a job that has not finished.
func judge(job batchJob, t tally, now time.Time) plan {
	p := plan{}
	if job.indexed() {
		p.done = parseIndexes(job.Status.CompletedIndexes, job.completions()).with(indexesOf(job, t.succeeded)...)
	}
	var records map[int]history
	if job.perIndex() {
		records = newestFailures(job, t, now)
		p.lost = parseIndexes(ptr.Deref(job.Status.FailedIndexes, ""), job.completions())
		for i, r := range records {
			if r.final && !p.done.has(i) {
				p.lost = p.lost.with(i)
			}
		}
	}
	var deadline time.Duration
	p.finish, deadline = verdict(job, t, p.done, p.lost, now)
	if p.finish != nil || job.DeletionTimestamp != nil {
		if job.DeletionTimestamp == nil {
			p.deletes = first(t.active, burst)
		}
		return p
	}
	p.again = deadline
	p.held = heldBack(t.all, records, p.done, p.lost)

	if p.deletes = surplus(job, t, p, now); len(p.deletes) > 0 {
		p.withdrawn = true
		return p // one thing at a time: what a deletion leaves room for, the next pass fills
	}
	p.track = t.bare
	var wait time.Duration
	p.creates, wait = missing(job, t, p, records, now)
	p.again = podcontrol.Sooner(p.again, wait)
	return p
}

// wanted is how many pods should run.
func wanted(job batchJob, t tally, p plan) int {
	parallelism := int(ptr.Deref(job.Spec.Parallelism, 1))
	switch {
	case job.suspended():
		return 0
	case job.Spec.Completions == nil && succeeded(job, t, p.done) > 0:
		return min(len(t.active), parallelism) // the work is done; those that still run may finish
	case job.Spec.Completions == nil:
		return parallelism
	}
	return max(0, min(parallelism, job.completions()-succeeded(job, t, p.done)-p.lost.len()))
}

// succeeded counts all pods or indexes that have, whether the status shows it or not.
func succeeded(job batchJob, t tally, done indexSet) int {
	if job.indexed() {
		return done.len()
	}
	n := int(job.Status.Succeeded) + len(t.succeeded)
	if noted := job.Status.UncountedTerminatedPods; noted != nil {
		n += len(noted.Succeeded)
	}
	return n
}

// surplus are the pods too many, and in an indexed job those without an index of their own.
func surplus(job batchJob, t tally, p plan, now time.Time) []*corev1.Pod {
	var misfits []*corev1.Pod
	taken := map[int]bool{}
	rest := slices.Clone(podcontrol.DeletionOrder(t.active, nil, now))
	if job.indexed() {
		slices.Reverse(rest) // of two with one index the one stays whose loss would cost more
		rest = slices.DeleteFunc(rest, func(pod *corev1.Pod) bool {
			i := job.indexOf(pod)
			if i >= 0 && !taken[i] {
				taken[i] = true
				return false
			}
			misfits = append(misfits, pod)
			return true
		})
		slices.Reverse(rest)
	}
	over := max(0, len(rest)-wanted(job, t, p))
	return first(append(misfits, rest[:over]...), burst)
}

// missing are the pods too few; wait is when to come again for those that have to wait after a failure.
func missing(job batchJob, t tally, p plan, records map[int]history, now time.Time) (starts []start, wait time.Duration) {
	n := wanted(job, t, p) - len(t.active)
	if job.waitsForEnd() {
		n -= int(t.ending)
	}
	if n <= 0 {
		return nil, 0
	}
	n = min(n, burst)
	if !job.perIndex() {
		if wait = restDelay(job, t.all, now); wait > 0 {
			return nil, wait
		}
	}
	if !job.indexed() {
		return slices.Repeat([]start{{index: noIndex}}, n), 0
	}
	taken := map[int]bool{}
	for _, pod := range t.all {
		if podcontrol.Active(pod) || (job.waitsForEnd() && !podcontrol.Terminal(pod)) {
			taken[job.indexOf(pod)] = true
		}
	}
	for i := 0; i < job.completions() && len(starts) < n; i++ {
		if taken[i] || p.done.has(i) || p.lost.has(i) {
			continue
		}
		r, before := records[i]
		if before {
			if left := r.at.Add(delayAfter(r.failures + r.ignored)).Sub(now); left > 0 {
				wait = podcontrol.Sooner(wait, left)
				continue
			}
		}
		starts = append(starts, start{index: i, failures: r.failures, ignored: r.ignored})
	}
	return starts, wait
}

// history is what the newest failed pod of an index tells about the index.
type history struct {
	pod               *corev1.Pod
	failures, ignored int // with this one
	final             bool
	at                time.Time
}

// newestFailures reads the records of the failed pods that are still tracked. Each pod carries the count of its
// predecessors in an annotation, so no more than the newest has to stay.
func newestFailures(job batchJob, t tally, now time.Time) map[int]history {
	newest := map[int]history{}
	for _, pod := range t.done {
		i := job.indexOf(pod)
		if i < 0 || pod.Status.Phase == corev1.PodSucceeded {
			continue
		}
		r := history{pod: pod, failures: failuresNoted(pod), ignored: ignoredNoted(pod), at: endOf(pod, now)}
		switch action, _ := matchFailure(job.Spec.PodFailurePolicy, pod); action {
		case batchv1.PodFailurePolicyActionIgnore:
			r.ignored++
		case batchv1.PodFailurePolicyActionFailIndex:
			r.failures++
			r.final = true
		default:
			r.failures++
		}
		r.final = r.final || r.failures > int(*job.Spec.BackoffLimitPerIndex)
		if was, found := newest[i]; !found || r.failures+r.ignored > was.failures+was.ignored {
			newest[i] = r
		}
	}
	return newest
}

func failuresNoted(pod *corev1.Pod) int { return noted(pod, batchv1.JobIndexFailureCountAnnotation) }

func ignoredNoted(pod *corev1.Pod) int {
	return noted(pod, batchv1.JobIndexIgnoredFailureCountAnnotation)
}

func noted(pod *corev1.Pod, annotation string) int {
	n, err := strconv.Atoi(pod.Annotations[annotation])
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// heldBack are the pods of records that no replacement carries on yet.
func heldBack(pods []*corev1.Pod, records map[int]history, done, lost indexSet) map[*corev1.Pod]bool {
	held := map[*corev1.Pod]bool{}
	newest := map[string]int{} // failures before the newest pod of an index, which is 0 for the first one
	for _, pod := range pods {
		i := pod.Annotations[batchv1.JobCompletionIndexAnnotation]
		newest[i] = max(newest[i], failuresNoted(pod)+ignoredNoted(pod))
	}
	for i, r := range records {
		if !done.has(i) && !lost.has(i) && newest[strconv.Itoa(i)] < r.failures+r.ignored {
			held[r.pod] = true
		}
	}
	return held
}

func indexesOf(job batchJob, pods []*corev1.Pod) []int {
	var indexes []int
	for _, pod := range pods {
		if i := job.indexOf(pod); i >= 0 {
			indexes = append(indexes, i)
		}
	}
	return indexes
}

// verdict says whether and why a job is about to end; deadline is when its time will be up if it is not.
func verdict(job batchJob, t tally, done, lost indexSet, now time.Time) (finish *batchv1.JobCondition, deadline time.Duration) {
	for _, kind := range []batchv1.JobConditionType{batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		if c := job.condition(kind); c != nil {
			return c, 0 // said is said
		}
	}
	fail := func(reason, message string) (*batchv1.JobCondition, time.Duration) {
		return newCondition(batchv1.JobFailureTarget, reason, message, now), 0
	}
	failures := int(job.Status.Failed)
	if noted := job.Status.UncountedTerminatedPods; noted != nil {
		failures += len(noted.Failed)
	}
	for _, pod := range t.failed {
		action, why := matchFailure(job.Spec.PodFailurePolicy, pod)
		if action == batchv1.PodFailurePolicyActionFailJob {
			return fail(batchv1.JobReasonPodFailurePolicy, why)
		}
		if action != batchv1.PodFailurePolicyActionIgnore {
			failures++
		}
	}
	if limit := int(ptr.Deref(job.Spec.BackoffLimit, 6)); failures > limit || restartedTooOften(job, t.active, limit) {
		return fail(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	}
	if seconds := job.Spec.ActiveDeadlineSeconds; seconds != nil && !job.suspended() {
		begun := now
		if job.Status.StartTime != nil {
			begun = job.Status.StartTime.Time
		}
		deadline = begun.Add(time.Duration(*seconds) * time.Second).Sub(now)
		if deadline <= 0 {
			return fail(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
		}
	}
	if limit := job.Spec.MaxFailedIndexes; job.perIndex() && limit != nil && lost.len() > int(*limit) {
		return fail(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
	}
	if job.indexed() {
		if rule := matchSuccess(job.Spec.SuccessPolicy, done); rule >= 0 {
			return newCondition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy, fmt.Sprintf("Matched rules at index %d", rule), now), 0
		}
	}
	n := succeeded(job, t, done)
	switch {
	case job.Spec.Completions == nil && (n == 0 || len(t.active) > 0):
		return nil, deadline
	case job.Spec.Completions != nil && n+lost.len() < job.completions():
		return nil, deadline
	case lost.len() > 0:
		return fail(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
	}
	return newCondition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods", now), 0
}

// restartedTooOften counts the failures of pods that restart their containers in place.
func restartedTooOften(job batchJob, active []*corev1.Pod, limit int) bool {
	if job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	restarts := 0
	for _, pod := range active {
		for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
			for i := range statuses {
				restarts += int(statuses[i].RestartCount)
			}
		}
	}
	return restarts > 0 && restarts >= limit
}

func first(pods []*corev1.Pod, n int) []*corev1.Pod { return pods[:min(n, len(pods))] }
