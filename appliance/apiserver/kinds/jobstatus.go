package kinds

import (
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// validateJobStatus keeps a controller, whichever manages the job, from telling a story that can't be. A contradiction
// that is stored already stays allowed until what it is about changes.
func validateJobStatus(job, old *batchv1.Job) field.ErrorList {
	s := &job.Status
	errs := notNegative(statusPath, count{"active", s.Active}, count{"succeeded", s.Succeeded}, count{"failed", s.Failed},
		count{"ready", ptr.Deref(s.Ready, 0)}, count{"terminating", ptr.Deref(s.Terminating, 0)})
	errs = append(errs, jobCounters(job, old)...)
	errs = append(errs, jobIndexes(job, old)...)
	errs = append(errs, jobTimes(job, old)...)
	errs = append(errs, jobConditions(job, old)...)
	if !jobFinished(job) || jobFinished(old) && s.Active == old.Status.Active && ptr.Equal(s.Terminating, old.Status.Terminating) &&
		apiequality.Semantic.DeepEqual(s.UncountedTerminatedPods, old.Status.UncountedTerminatedPods) {
		return errs
	}
	if s.Active > 0 {
		errs = append(errs, field.Invalid(statusPath.Child("active"), s.Active, "active>0 is invalid for finished job"))
	}
	if n := ptr.Deref(s.Terminating, 0); n > 0 {
		errs = append(errs, field.Invalid(statusPath.Child("terminating"), n, "terminating>0 is invalid for finished job"))
	}
	if u := s.UncountedTerminatedPods; u != nil && len(u.Failed)+len(u.Succeeded) > 0 {
		errs = append(errs, field.Invalid(statusPath.Child("uncountedTerminatedPods"), u, "uncountedTerminatedPods needs to be empty for finished job"))
	}
	return errs
}

func jobCounters(job, old *batchv1.Job) field.ErrorList {
	var errs field.ErrorList
	s, was := &job.Status, &old.Status
	if s.Succeeded < was.Succeeded && ptr.Equal(job.Spec.Completions, old.Spec.Completions) && !elasticJob(job) {
		errs = append(errs, field.Invalid(statusPath.Child("succeeded"), s.Succeeded, "cannot decrease the succeeded counter"))
	}
	if s.Failed < was.Failed {
		errs = append(errs, field.Invalid(statusPath.Child("failed"), s.Failed, "cannot decrease the failed counter"))
	}
	if ready := ptr.Deref(s.Ready, 0); ready > s.Active && (s.Active != was.Active || !ptr.Equal(s.Ready, was.Ready)) {
		errs = append(errs, field.Invalid(statusPath.Child("ready"), ready, "cannot set more ready pods than active"))
	}
	if u := s.UncountedTerminatedPods; u != nil {
		at := statusPath.Child("uncountedTerminatedPods")
		seen := sets.New[string]()
		for _, list := range []struct {
			name string
			uids []string
		}{{"succeeded", uids(u.Succeeded)}, {"failed", uids(u.Failed)}} {
			for i, uid := range list.uids {
				switch here := at.Child(list.name).Index(i); {
				case uid == "":
					errs = append(errs, field.Invalid(here, uid, "must not be empty"))
				case seen.Has(uid):
					errs = append(errs, field.Duplicate(here, uid))
				}
				seen.Insert(uid)
			}
		}
	}
	return errs
}

func uids[T ~string](list []T) []string {
	all := make([]string, 0, len(list))
	for _, uid := range list {
		all = append(all, string(uid))
	}
	return all
}

// elasticJob is one whose completions may shrink together with its parallelism.
func elasticJob(job *batchv1.Job) bool {
	return indexedJob(job) && job.Spec.Completions != nil && job.Spec.Parallelism != nil && *job.Spec.Completions == *job.Spec.Parallelism
}

func indexedJob(job *batchv1.Job) bool {
	return ptr.Deref(job.Spec.CompletionMode, batchv1.NonIndexedCompletion) == batchv1.IndexedCompletion
}

func jobIndexes(job, old *batchv1.Job) field.ErrorList {
	s := &job.Status
	if s.CompletedIndexes == old.Status.CompletedIndexes && ptr.Equal(s.FailedIndexes, old.Status.FailedIndexes) {
		return nil
	}
	var errs field.ErrorList
	completed, failed := statusPath.Child("completedIndexes"), statusPath.Child("failedIndexes")
	if !indexedJob(job) && s.CompletedIndexes != "" {
		errs = append(errs, field.Invalid(completed, s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode"))
	}
	if job.Spec.BackoffLimitPerIndex == nil && ptr.Deref(s.FailedIndexes, "") != "" {
		errs = append(errs, field.Invalid(failed, *s.FailedIndexes, "cannot set non-empty failedIndexes when non-null backoffLimitPerIndex"))
	}
	if !indexedJob(job) {
		return errs
	}
	completions := ptr.Deref(job.Spec.Completions, 0)
	done, problem := parseIndexes(s.CompletedIndexes, completions)
	if problem != "" {
		errs = append(errs, field.Invalid(completed, s.CompletedIndexes, "error parsing completedIndexes: "+problem))
	}
	lost, problem := parseIndexes(ptr.Deref(s.FailedIndexes, ""), completions)
	if problem != "" {
		errs = append(errs, field.Invalid(failed, s.FailedIndexes, "error parsing failedIndexes: "+problem))
	}
	if len(errs) == 0 && overlap(done, lost) {
		errs = append(errs, field.Invalid(failed, *s.FailedIndexes, "failedIndexes and completedIndexes overlap"))
	}
	return errs
}

// overlap says whether two rows of growing ranges meet.
func overlap(a, b []indexRange) bool {
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0].last < b[0].first:
			a = a[1:]
		case b[0].last < a[0].first:
			b = b[1:]
		default:
			return true
		}
	}
	return false
}

func jobTimes(job, old *batchv1.Job) field.ErrorList {
	var errs field.ErrorList
	s, was := &job.Status, &old.Status
	start, end := statusPath.Child("startTime"), statusPath.Child("completionTime")
	if was.StartTime != nil && !ptr.Deref(job.Spec.Suspend, false) && !ptr.Deref(old.Spec.Suspend, false) && !jobHas(old, batchv1.JobSuspended) {
		switch {
		case s.StartTime == nil:
			errs = append(errs, field.Required(start, "startTime cannot be removed for unsuspended job"))
		case !s.StartTime.Equal(was.StartTime):
			errs = append(errs, field.Required(start, "startTime cannot be modified for unsuspended job"))
		}
	}
	timesChanged := !s.StartTime.Equal(was.StartTime) || !s.CompletionTime.Equal(was.CompletionTime)
	conditionsChanged := !apiequality.Semantic.DeepEqual(s.Conditions, was.Conditions)
	if timesChanged || conditionsChanged {
		if jobFinished(job) && s.StartTime == nil {
			errs = append(errs, field.Required(start, "startTime is required for finished job"))
		}
		if s.StartTime != nil && s.CompletionTime != nil && s.CompletionTime.Before(s.StartTime) {
			errs = append(errs, field.Invalid(end, s.CompletionTime, "completionTime cannot be set before startTime"))
		}
		switch complete := jobHas(job, batchv1.JobComplete); {
		case complete && s.CompletionTime == nil:
			errs = append(errs, field.Required(end, "completionTime is required for Complete jobs"))
		case !complete && s.CompletionTime != nil:
			errs = append(errs, field.Invalid(end, s.CompletionTime, "cannot set completionTime when there is no Complete=True condition"))
		}
	}
	if was.CompletionTime != nil && !s.CompletionTime.Equal(was.CompletionTime) {
		errs = append(errs, field.Invalid(end, s.CompletionTime, "completionTime cannot be mutated"))
	}
	return errs
}

func jobConditions(job, old *batchv1.Job) field.ErrorList {
	if apiequality.Semantic.DeepEqual(job.Status.Conditions, old.Status.Conditions) {
		return nil
	}
	var errs field.ErrorList
	wrong := func(detail string) {
		errs = append(errs, field.Invalid(statusPath.Child("conditions"), field.OmitValueType{}, detail))
	}
	for _, final := range []batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		if jobHas(old, final) && !jobHas(job, final) {
			wrong("cannot disable the terminal " + string(final) + "=True condition")
		}
	}
	complete, failed := jobHas(job, batchv1.JobComplete), jobHas(job, batchv1.JobFailed)
	failing, succeeding := jobHas(job, batchv1.JobFailureTarget), jobHas(job, batchv1.JobSuccessCriteriaMet)
	if complete && failed {
		wrong("cannot set Complete=True and Failed=true conditions")
	}
	if complete && failing {
		wrong("cannot set Complete=True and FailureTarget=true conditions")
	}
	if failed && !failing {
		wrong("cannot set Failed=True condition without the FailureTarget=true condition")
	}
	if complete && !succeeding {
		wrong("cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
	}
	if succeeding && failed {
		wrong("cannot set SuccessCriteriaMet=True and Failed=True conditions")
	}
	if succeeding && failing {
		wrong("cannot set SuccessCriteriaMet=True and FailureTarget=True conditions")
	}
	seen := sets.New[batchv1.JobConditionType]()
	for i, c := range job.Status.Conditions {
		at := statusPath.Child("conditions").Index(i)
		if seen.Has(c.Type) {
			errs = append(errs, field.Duplicate(at.Child("type"), c.Type))
		}
		seen.Insert(c.Type)
	}
	return errs
}

func jobFinished(job *batchv1.Job) bool {
	return jobHas(job, batchv1.JobComplete) || jobHas(job, batchv1.JobFailed)
}

func jobHas(job *batchv1.Job, kind batchv1.JobConditionType) bool {
	return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
		return c.Type == kind && c.Status == corev1.ConditionTrue
	})
}

// parseIndexes is readIndexes for a status, where there may be none yet.
func parseIndexes(text string, completions int32) ([]indexRange, string) {
	if strings.TrimSpace(text) == "" {
		return nil, ""
	}
	return readIndexes(text, completions)
}
