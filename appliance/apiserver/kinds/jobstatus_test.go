package kinds

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func TestJobStatus(t *testing.T) {
	begin := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	later, earlier := metav1.NewTime(begin.Add(time.Hour)), metav1.NewTime(begin.Add(-time.Hour))
	is := func(kinds ...batchv1.JobConditionType) []batchv1.JobCondition {
		var all []batchv1.JobCondition
		for _, kind := range kinds {
			all = append(all, batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue})
		}
		return all
	}
	complete, failed := is(batchv1.JobSuccessCriteriaMet, batchv1.JobComplete), is(batchv1.JobFailureTarget, batchv1.JobFailed)
	type status = batchv1.JobStatus
	tests := map[string]struct {
		spec func(*batchv1.JobSpec)
		old  status
		next status
		want string
	}{
		"a job that begins":                {next: status{StartTime: &begin, Active: 2, Ready: ptr.To[int32](1)}},
		"a job that completes":             {old: status{StartTime: &begin, Active: 1}, next: status{StartTime: &begin, CompletionTime: &later, Succeeded: 1, Conditions: complete}},
		"a job that fails":                 {old: status{StartTime: &begin, Active: 1}, next: status{StartTime: &begin, Failed: 1, Conditions: failed}},
		"fewer than none":                  {next: status{Active: -1}, want: "status.active: Invalid value: -1"},
		"more ready than there are":        {next: status{Active: 1, Ready: ptr.To[int32](2)}, want: "status.ready: Invalid value: 2: cannot set more ready pods than active"},
		"what succeeded has not succeeded": {old: status{Succeeded: 2}, next: status{Succeeded: 1}, want: "status.succeeded: Invalid value: 1: cannot decrease the succeeded counter"},
		"what failed has not failed":       {old: status{Failed: 2}, next: status{Failed: 1}, want: "status.failed: Invalid value: 1: cannot decrease the failed counter"},
		"an elastic job shrinks": {spec: func(s *batchv1.JobSpec) {
			s.CompletionMode = ptr.To(batchv1.IndexedCompletion)
			s.Completions = s.Parallelism
		}, old: status{Succeeded: 2}, next: status{Succeeded: 1}},
		"both at once":                        {next: status{StartTime: &begin, CompletionTime: &later, Conditions: append(complete, failed...)}, want: "cannot set Complete=True and Failed=true conditions"},
		"complete and about to fail":          {next: status{StartTime: &begin, CompletionTime: &later, Conditions: append(complete, failed[0])}, want: "cannot set Complete=True and FailureTarget=true conditions"},
		"failed all of a sudden":              {next: status{StartTime: &begin, Conditions: failed[1:]}, want: "cannot set Failed=True condition without the FailureTarget=true condition"},
		"complete all of a sudden":            {next: status{StartTime: &begin, CompletionTime: &later, Conditions: complete[1:]}, want: "cannot set Complete=True condition without the SuccessCriteriaMet=true condition"},
		"no longer complete":                  {old: status{StartTime: &begin, CompletionTime: &later, Conditions: complete}, next: status{StartTime: &begin, CompletionTime: &later, Conditions: complete[:1]}, want: "cannot disable the terminal Complete=True condition"},
		"complete at no time":                 {next: status{StartTime: &begin, Conditions: complete}, want: "status.completionTime: Required value"},
		"a time of completion for no reason":  {next: status{StartTime: &begin, CompletionTime: &later}, want: "cannot set completionTime when there is no Complete=True condition"},
		"over before it began":                {next: status{StartTime: &begin, CompletionTime: &earlier, Conditions: complete}, want: "completionTime cannot be set before startTime"},
		"another time of completion":          {old: status{StartTime: &begin, CompletionTime: &begin, Conditions: complete}, next: status{StartTime: &begin, CompletionTime: &later, Conditions: complete}, want: "completionTime cannot be mutated"},
		"finished and never begun":            {next: status{CompletionTime: &later, Conditions: complete}, want: "status.startTime: Required value: startTime is required for finished job"},
		"begun again":                         {old: status{StartTime: &begin}, next: status{StartTime: &later}, want: "startTime cannot be modified for unsuspended job"},
		"never begun after all":               {old: status{StartTime: &begin}, next: status{}, want: "startTime cannot be removed for unsuspended job"},
		"begun again after a pause":           {old: status{StartTime: &begin, Conditions: is(batchv1.JobSuspended)}, next: status{StartTime: &later}},
		"paused":                              {spec: func(s *batchv1.JobSpec) { s.Suspend = ptr.To(true) }, old: status{StartTime: &begin}, next: status{}},
		"finished with pods":                  {next: status{StartTime: &begin, Active: 1, Conditions: failed}, want: "active>0 is invalid for finished job"},
		"finished with pods that go":          {next: status{StartTime: &begin, Terminating: ptr.To[int32](1), Conditions: failed}, want: "terminating>0 is invalid for finished job"},
		"finished with pods nobody counted":   {next: status{StartTime: &begin, Conditions: failed, UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{Failed: []types.UID{"a"}}}, want: "uncountedTerminatedPods needs to be empty for finished job"},
		"a pod counted as both":               {next: status{UncountedTerminatedPods: &batchv1.UncountedTerminatedPods{Failed: []types.UID{"a"}, Succeeded: []types.UID{"a"}}}, want: "status.uncountedTerminatedPods.failed[0]: Duplicate value"},
		"indexes of a job that has none":      {next: status{CompletedIndexes: "0"}, want: "cannot set non-empty completedIndexes when non-indexed completion mode"},
		"indexes":                             {spec: indexed, next: status{CompletedIndexes: "0,2-4", FailedIndexes: ptr.To("1")}},
		"indexes that are none":               {spec: indexed, next: status{CompletedIndexes: "1,0"}, want: "status.completedIndexes: Invalid value"},
		"an index completed and failed":       {spec: indexed, next: status{CompletedIndexes: "0,2-4", FailedIndexes: ptr.To("3")}, want: "failedIndexes and completedIndexes overlap"},
		"a contradiction from earlier stays":  {old: status{StartTime: &begin, Conditions: failed[1:]}, next: status{StartTime: &begin, Conditions: failed[1:], Failed: 3}},
		"the same contradiction made now":     {old: status{StartTime: &begin}, next: status{StartTime: &begin, Conditions: failed[1:], Failed: 3}, want: "without the FailureTarget=true"},
		"failing indexes without their limit": {spec: func(s *batchv1.JobSpec) { indexed(s); s.BackoffLimitPerIndex = nil }, next: status{FailedIndexes: ptr.To("1")}, want: "status.failedIndexes: Invalid value"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			spec := batchv1.JobSpec{Completions: ptr.To[int32](5), Parallelism: ptr.To[int32](2)}
			if tc.spec != nil {
				tc.spec(&spec)
			}
			job, old := &batchv1.Job{Spec: spec, Status: tc.next}, &batchv1.Job{Spec: spec, Status: tc.old}
			expect(t, validateJobStatus(job, old), tc.want)
		})
	}
}

func indexed(s *batchv1.JobSpec) {
	s.CompletionMode, s.BackoffLimitPerIndex = ptr.To(batchv1.IndexedCompletion), ptr.To[int32](1)
}
