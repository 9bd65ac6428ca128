package job

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

type change func(*batchv1.Job)

// pi is a job that computes something three times, two at a time.
func pi(changes ...change) batchJob {
	labels := map[string]string{batchv1.ControllerUidLabel: "job"}
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "pi", UID: "job"},
		Spec: batchv1.JobSpec{
			Parallelism: ptr.To[int32](2), Completions: ptr.To[int32](3), BackoffLimit: ptr.To[int32](6),
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c"}}},
			},
		},
	}
	for _, c := range changes {
		c(job)
	}
	return batchJob{job}
}

func indexed(job *batchv1.Job) { job.Spec.CompletionMode = ptr.To(batchv1.IndexedCompletion) }

func perIndex(limit int32) change {
	return func(job *batchv1.Job) {
		indexed(job)
		job.Spec.BackoffLimitPerIndex = &limit
		job.Spec.BackoffLimit = ptr.To[int32](1 << 30)
		job.Status.FailedIndexes = ptr.To("")
	}
}

func suspended(job *batchv1.Job) { job.Spec.Suspend = ptr.To(true) }

func begunAgo(d time.Duration) change {
	return func(job *batchv1.Job) { job.Status.StartTime = ptr.To(metav1.NewTime(now.Add(-d))) }
}

func set[T any](field func(*batchv1.Job) *T, value T) change {
	return func(job *batchv1.Job) { *field(job) = value }
}

func parallelism(n int32) change {
	return set(func(j *batchv1.Job) **int32 { return &j.Spec.Parallelism }, &n)
}

func completions(n int32) change {
	return set(func(j *batchv1.Job) **int32 { return &j.Spec.Completions }, &n)
}

func workQueue(job *batchv1.Job) { job.Spec.Completions = nil }

func backoffLimit(n int32) change {
	return set(func(j *batchv1.Job) **int32 { return &j.Spec.BackoffLimit }, &n)
}

func failurePolicy(rules ...batchv1.PodFailurePolicyRule) change {
	return set(func(j *batchv1.Job) **batchv1.PodFailurePolicy { return &j.Spec.PodFailurePolicy }, &batchv1.PodFailurePolicy{Rules: rules})
}

func successPolicy(rules ...batchv1.SuccessPolicyRule) change {
	return set(func(j *batchv1.Job) **batchv1.SuccessPolicy { return &j.Spec.SuccessPolicy }, &batchv1.SuccessPolicy{Rules: rules})
}

type podChange func(*corev1.Pod)

var podCount int

func pod(phase corev1.PodPhase, changes ...podChange) *corev1.Pod {
	podCount++
	p := newPod(pi(), start{index: noIndex})
	p.Name = fmt.Sprintf("pi-%d", podCount)
	p.UID = types.UID(p.Name)
	p.CreationTimestamp = metav1.NewTime(now.Add(-time.Hour))
	p.Status.Phase = phase
	for _, c := range changes {
		c(p)
	}
	return p
}

func at(index int) podChange {
	return func(p *corev1.Pod) {
		p.Annotations = map[string]string{batchv1.JobCompletionIndexAnnotation: strconv.Itoa(index)}
	}
}

func after(failures int) podChange {
	return func(p *corev1.Pod) {
		p.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(failures)
	}
}

func exited(code int32, ago time.Duration) podChange {
	return func(p *corev1.Pod) {
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(now.Add(-ago))},
		}}}
	}
}

func untracked(p *corev1.Pod) { p.Finalizers = nil }

func ending(p *corev1.Pod) { p.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }

func restarted(n int32) podChange {
	return func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: n}} }
}

func onExit(action batchv1.PodFailurePolicyAction, codes ...int32) batchv1.PodFailurePolicyRule {
	return batchv1.PodFailurePolicyRule{Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: codes}}
}

func TestJudge(t *testing.T) {
	disrupted := batchv1.PodFailurePolicyRule{Action: batchv1.PodFailurePolicyActionIgnore, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{
		{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue},
	}}
	const running, succeeded, failed = corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed
	tests := map[string]struct {
		job     batchJob
		pods    []*corev1.Pod
		creates []int
		deletes int
		finish  string // reason
		again   time.Duration
	}{
		"a new job starts as many as may run side by side": {job: pi(), creates: []int{noIndex, noIndex}},
		"one that runs needs one beside it":                {job: pi(), pods: []*corev1.Pod{pod(running)}, creates: []int{noIndex}},
		"no more start than are left to do":                {job: pi(), pods: []*corev1.Pod{pod(succeeded), pod(succeeded)}, creates: []int{noIndex}},
		"a pod that was counted is not counted again":      {job: pi(), pods: []*corev1.Pod{pod(succeeded, untracked), pod(running)}, creates: []int{noIndex}},
		"fewer side by side stops one":                     {job: pi(parallelism(1)), pods: []*corev1.Pod{pod(running), pod(running)}, deletes: 1},
		"parallelism of nothing stops all":                 {job: pi(parallelism(0)), pods: []*corev1.Pod{pod(running), pod(running)}, deletes: 2},
		"a suspended job stops its pods":                   {job: pi(suspended), pods: []*corev1.Pod{pod(running)}, deletes: 1},
		"a suspended job starts none":                      {job: pi(suspended)},
		"enough have succeeded":                            {job: pi(), pods: []*corev1.Pod{pod(succeeded), pod(succeeded), pod(succeeded)}, finish: "CompletionsReached"},
		"a job of no completions is complete":              {job: pi(completions(0)), finish: "CompletionsReached"},
		"a job that is deleted is left alone":              {job: pi(func(j *batchv1.Job) { j.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }), pods: []*corev1.Pod{pod(running)}},
		"what was said about the end stays": {job: pi(func(j *batchv1.Job) {
			j.Status.Conditions = []batchv1.JobCondition{{Type: "FailureTarget", Status: "True", Reason: "X"}}
		}), pods: []*corev1.Pod{pod(running)}, deletes: 1, finish: "X"},
		"a work queue runs at its parallelism":            {job: pi(workQueue), pods: []*corev1.Pod{pod(running)}, creates: []int{noIndex}},
		"a work queue starts none once one has succeeded": {job: pi(workQueue), pods: []*corev1.Pod{pod(succeeded), pod(running)}},
		"a work queue is done when all have ended":        {job: pi(workQueue), pods: []*corev1.Pod{pod(succeeded), pod(succeeded)}, finish: "CompletionsReached"},
		"the first failure waits ten seconds":             {job: pi(), pods: []*corev1.Pod{pod(failed, exited(1, 4*time.Second))}, again: 6 * time.Second},
		"the second failure waits twice that":             {job: pi(), pods: []*corev1.Pod{pod(failed, exited(1, time.Minute)), pod(failed, exited(1, 4*time.Second))}, again: 16 * time.Second},
		"a success between them starts anew":              {job: pi(), pods: []*corev1.Pod{pod(failed, exited(1, time.Minute)), pod(succeeded, exited(0, 30*time.Second)), pod(failed, exited(1, 4*time.Second))}, again: 6 * time.Second},
		"a wait that is over":                             {job: pi(), pods: []*corev1.Pod{pod(failed, exited(1, 11*time.Second))}, creates: []int{noIndex, noIndex}},
		"one failure too many":                            {job: pi(backoffLimit(1)), pods: []*corev1.Pod{pod(failed), pod(failed), pod(running)}, deletes: 1, finish: "BackoffLimitExceeded"},
		"failures that were counted count":                {job: pi(backoffLimit(1), func(j *batchv1.Job) { j.Status.Failed = 2 }), finish: "BackoffLimitExceeded"},
		"restarts in place count while a pod runs":        {job: pi(backoffLimit(2), func(j *batchv1.Job) { j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure }), pods: []*corev1.Pod{pod(running, restarted(2))}, deletes: 1, finish: "BackoffLimitExceeded"},
		"time is up":                                          {job: pi(begunAgo(time.Minute), set(func(j *batchv1.Job) **int64 { return &j.Spec.ActiveDeadlineSeconds }, ptr.To[int64](60))), pods: []*corev1.Pod{pod(running)}, deletes: 1, finish: "DeadlineExceeded"},
		"time is not up yet":                                  {job: pi(begunAgo(time.Minute), set(func(j *batchv1.Job) **int64 { return &j.Spec.ActiveDeadlineSeconds }, ptr.To[int64](90))), pods: []*corev1.Pod{pod(running), pod(running)}, again: 30 * time.Second},
		"time does not pass for a suspended job":              {job: pi(suspended, begunAgo(time.Minute), set(func(j *batchv1.Job) **int64 { return &j.Spec.ActiveDeadlineSeconds }, ptr.To[int64](60)))},
		"a pod that goes is replaced at once when it may":     {job: pi(), pods: []*corev1.Pod{pod(running, ending, func(p *corev1.Pod) { p.DeletionTimestamp.Time = now.Add(-time.Minute) }), pod(running)}, creates: []int{noIndex}},
		"a pod that goes is not replaced before it has ended": {job: pi(set(func(j *batchv1.Job) **batchv1.PodReplacementPolicy { return &j.Spec.PodReplacementPolicy }, ptr.To(batchv1.Failed))), pods: []*corev1.Pod{pod(running, ending), pod(running)}},
		"a failure that ends the job":                         {job: pi(failurePolicy(onExit(batchv1.PodFailurePolicyActionFailJob, 42))), pods: []*corev1.Pod{pod(failed, exited(42, 0)), pod(running)}, deletes: 1, finish: "PodFailurePolicy"},
		"a failure that is ignored": {job: pi(backoffLimit(0), failurePolicy(disrupted)), pods: []*corev1.Pod{pod(failed, exited(137, time.Minute), func(p *corev1.Pod) {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: "True"}}
		}), pod(running)}, creates: []int{noIndex}},
		"the first indexes go first":                       {job: pi(indexed), creates: []int{0, 1}},
		"an index that has succeeded is not started again": {job: pi(indexed), pods: []*corev1.Pod{pod(succeeded, at(0)), pod(running, at(2))}, creates: []int{1}},
		"two of one index are one too many":                {job: pi(indexed), pods: []*corev1.Pod{pod(running, at(1)), pod(running, at(1))}, deletes: 1},
		"an index beyond the completions goes":             {job: pi(indexed, completions(1)), pods: []*corev1.Pod{pod(running, at(1)), pod(running, at(0))}, deletes: 1},
		"all indexes have succeeded":                       {job: pi(indexed, func(j *batchv1.Job) { j.Status.CompletedIndexes = "0,1" }), pods: []*corev1.Pod{pod(succeeded, at(2))}, finish: "CompletionsReached"},
		"success of some indexes is enough":                {job: pi(indexed, successPolicy(batchv1.SuccessPolicyRule{SucceededIndexes: ptr.To("1-2"), SucceededCount: ptr.To[int32](1)})), pods: []*corev1.Pod{pod(succeeded, at(2)), pod(running, at(0))}, deletes: 1, finish: "SuccessPolicy"},
		"success of the wrong index is not":                {job: pi(indexed, successPolicy(batchv1.SuccessPolicyRule{SucceededIndexes: ptr.To("1-2")})), pods: []*corev1.Pod{pod(succeeded, at(0)), pod(running, at(1)), pod(running, at(2))}},
		"an index waits for itself only":                   {job: pi(perIndex(3)), pods: []*corev1.Pod{pod(failed, at(0), exited(1, 4*time.Second))}, creates: []int{1, 2}, again: 6 * time.Second},
		"an index out of tries is not started again":       {job: pi(perIndex(0)), pods: []*corev1.Pod{pod(failed, at(0), exited(1, time.Hour))}, creates: []int{1, 2}},
		"failures of an index add up over its pods":        {job: pi(perIndex(1)), pods: []*corev1.Pod{pod(failed, at(0), after(1), exited(1, time.Hour)), pod(running, at(1)), pod(running, at(2))}},
		"the rest has succeeded where some indexes failed": {job: pi(perIndex(0), func(j *batchv1.Job) { j.Status.FailedIndexes, j.Status.CompletedIndexes = ptr.To("1"), "0,2" }), finish: "FailedIndexes"},
		"too many indexes failed":                          {job: pi(perIndex(0), set(func(j *batchv1.Job) **int32 { return &j.Spec.MaxFailedIndexes }, ptr.To[int32](0))), pods: []*corev1.Pod{pod(failed, at(0)), pod(running, at(1))}, deletes: 1, finish: "MaxFailedIndexesExceeded"},
		"a failure that ends its index":                    {job: pi(perIndex(9), failurePolicy(onExit(batchv1.PodFailurePolicyActionFailIndex, 42))), pods: []*corev1.Pod{pod(failed, at(0), exited(42, time.Hour))}, creates: []int{1, 2}},
		"one pass does not start everything":               {job: pi(parallelism(100000), completions(100000), indexed), creates: upTo(burst)},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			before := tc.job.DeepCopy()
			p := judge(tc.job, count(tc.job, tc.pods, nil), now)
			var creates []int
			for _, s := range p.creates {
				creates = append(creates, s.index)
			}
			if diff := cmp.Diff(tc.creates, creates); diff != "" {
				t.Errorf("creates (-want +got):\n%s", diff)
			}
			if len(p.deletes) != tc.deletes || p.again != tc.again {
				t.Errorf("deletes %d, again in %v; want %d, %v", len(p.deletes), p.again, tc.deletes, tc.again)
			}
			if finish := ptr.Deref(p.finish, batchv1.JobCondition{}).Reason; finish != tc.finish {
				t.Errorf("finish %q, want %q", finish, tc.finish)
			}
			if diff := cmp.Diff(before, tc.job.Job); diff != "" {
				t.Errorf("judge() changed a cached object (-before +after):\n%s", diff)
			}
		})
	}
}

func upTo(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

func TestAFailedPodStaysTrackedUntilItsIndexIsCarriedOn(t *testing.T) {
	job := pi(perIndex(3))
	failed := pod(corev1.PodFailed, at(0), after(1), exited(1, time.Hour))
	tests := map[string]struct {
		others []*corev1.Pod
		held   bool
	}{
		"no other pod":                 {held: true},
		"its predecessor":              {others: []*corev1.Pod{pod(corev1.PodFailed, at(0), untracked)}, held: true},
		"its replacement":              {others: []*corev1.Pod{pod(corev1.PodPending, at(0), after(2))}},
		"a pod that failed after it":   {others: []*corev1.Pod{pod(corev1.PodFailed, at(0), after(2))}},
		"a success that came too late": {others: []*corev1.Pod{pod(corev1.PodSucceeded, at(0))}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tally := count(job, append([]*corev1.Pod{failed}, tc.others...), nil)
			if got := judge(job, tally, now).held[failed]; got != tc.held {
				t.Errorf("held %v, want %v", got, tc.held)
			}
		})
	}
	p := judge(job, count(job, []*corev1.Pod{failed}, nil), now)
	if diff := cmp.Diff([]start{{index: 0, failures: 2}, {index: 1}}, p.creates, cmp.AllowUnexported(start{})); diff != "" {
		t.Errorf("creates (-want +got):\n%s", diff)
	}
}

func TestMatchFailure(t *testing.T) {
	rules := pi(failurePolicy(
		onExit(batchv1.PodFailurePolicyActionIgnore, 3),
		batchv1.PodFailurePolicyRule{Action: batchv1.PodFailurePolicyActionFailJob, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{
			ContainerName: ptr.To("c"), Operator: batchv1.PodFailurePolicyOnExitCodesOpNotIn, Values: []int32{1, 2},
		}},
		batchv1.PodFailurePolicyRule{Action: "FromTheFuture", OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{1}}},
	)).Spec.PodFailurePolicy
	tests := map[string]struct {
		code   int32
		action batchv1.PodFailurePolicyAction
		why    string
	}{
		"the first rule that matches decides":  {code: 3, action: batchv1.PodFailurePolicyActionIgnore, why: "Container c for pod shop/x failed with exit code 3 matching Ignore rule at index 0"},
		"a code that is not in the list":       {code: 7, action: batchv1.PodFailurePolicyActionFailJob, why: "Container c for pod shop/x failed with exit code 7 matching FailJob rule at index 1"},
		"an action nobody knows yet is passed": {code: 1, action: batchv1.PodFailurePolicyActionCount},
		"success of a container matches none":  {code: 0, action: batchv1.PodFailurePolicyActionCount},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := pod(corev1.PodFailed, exited(tc.code, 0))
			p.Name = "x"
			if action, why := matchFailure(rules, p); action != tc.action || why != tc.why {
				t.Errorf("matchFailure() = %s, %q; want %s, %q", action, why, tc.action, tc.why)
			}
		})
	}
}

func TestIndexes(t *testing.T) {
	tests := map[string]struct {
		text  string
		add   []int
		limit int
		want  string
		n     int
	}{
		"nothing":                             {limit: 10},
		"the example of the API":              {text: "1,3-5,7", limit: 10, want: "1,3-5,7", n: 5},
		"two neighbours are no range":         {add: []int{4, 3}, limit: 10, want: "3,4", n: 2},
		"a third closes the gap":              {text: "1,3", add: []int{2}, limit: 10, want: "1-3", n: 3},
		"what is beyond the limit is dropped": {text: "1,3-9,12", limit: 5, want: "1,3,4", n: 3},
		"twice is once":                       {text: "1-3", add: []int{2, 2}, limit: 5, want: "1-3", n: 3},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := parseIndexes(tc.text, tc.limit).with(tc.add...)
			if got.String() != tc.want || got.len() != tc.n {
				t.Errorf("%q of %d, want %q of %d", got, got.len(), tc.want, tc.n)
			}
			for _, i := range tc.add {
				if !got.has(i) {
					t.Errorf("%d is missing", i)
				}
			}
		})
	}
}

func TestDelayAfter(t *testing.T) {
	for failures, want := range map[int]time.Duration{
		0: 0, 1: 10 * time.Second, 2: 20 * time.Second, 3: 40 * time.Second, 6: 320 * time.Second, 7: 6 * time.Minute, 1000: 6 * time.Minute,
	} {
		if got := delayAfter(failures); got != want {
			t.Errorf("delayAfter(%d) = %v, want %v", failures, got, want)
		}
	}
}
