package cronjob

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// maxWait bounds how long a pass may be off: timers do not see a clock that is set right after a start.
const maxWait = 5 * time.Minute

// plan is what one pass does.
type plan struct {
	status batchv1.CronJobStatus
	prune  []*batchv1.Job // finished and more than are to be kept
	stop   []*batchv1.Job // to be replaced
	create *batchv1.Job
	due    time.Time // of create
	tell   []notice
	again  time.Duration
}

// notice is an Event.
type notice struct{ kind, reason, message string }

func (p *plan) note(kind, reason, format string, args ...any) {
	p.tell = append(p.tell, notice{kind, reason, fmt.Sprintf(format, args...)})
}

// judge decides about a cron job and the jobs it owns.
func judge(c *batchv1.CronJob, jobs []*batchv1.Job, now time.Time) plan {
	p := plan{status: *c.Status.DeepCopy()}
	running := p.follow(c, jobs)
	p.prune = append(surplus(jobs, batchv1.JobComplete, c.Spec.SuccessfulJobsHistoryLimit), surplus(jobs, batchv1.JobFailed, c.Spec.FailedJobsHistoryLimit)...)
	if c.DeletionTimestamp != nil || ptr.Deref(c.Spec.Suspend, false) {
		return p
	}
	if strings.Contains(c.Spec.Schedule, "TZ") { // from before the API refused it; it counts for more than timeZone
		p.note(corev1.EventTypeWarning, "UnsupportedSchedule", "CRON_TZ or TZ used in schedule %q is not officially supported, "+
			"see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", c.Spec.Schedule)
	}
	s, err := scheduleOf(c)
	switch {
	case errors.As(err, &zoneError{}):
		p.note(corev1.EventTypeWarning, "UnknownTimeZone", "invalid timeZone: %q: %s", ptr.Deref(c.Spec.TimeZone, ""), err)
		return p
	case err != nil:
		p.note(corev1.EventTypeWarning, "UnparseableSchedule", "unparseable schedule: %q : %s", c.Spec.Schedule, err)
		return p
	}
	seen := c.DeepCopy()
	seen.Status = p.status
	due, missed, next := s.latest(since(seen, now), now)
	if !next.IsZero() {
		p.again = min(next.Sub(now), maxWait)
	}
	if due.IsZero() {
		if late := s.late(seen, now); !late.IsZero() {
			p.note(corev1.EventTypeWarning, "MissSchedule", "Missed scheduled time to start a job: %s", late.UTC().Format(time.RFC1123Z))
		}
		return p
	}
	if missed > manyMissed {
		p.note(corev1.EventTypeWarning, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	if len(running) > 0 {
		switch c.Spec.ConcurrencyPolicy {
		case batchv1.ForbidConcurrent:
			p.note(corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
			return p
		case batchv1.ReplaceConcurrent:
			p.stop = running
		}
	}
	p.create, p.due = newJob(c, due, s.zone), due
	return p
}

// follow brings the list of running jobs and the times in line with the jobs there are.
func (p *plan) follow(c *batchv1.CronJob, jobs []*batchv1.Job) (running []*batchv1.Job) {
	listed := map[types.UID]bool{}
	for _, ref := range c.Status.Active {
		listed[ref.UID] = true
		if !slices.ContainsFunc(jobs, func(j *batchv1.Job) bool { return j.UID == ref.UID }) {
			p.note(corev1.EventTypeNormal, "MissingJob", "Active job went missing: %v", ref.Name)
		}
	}
	gone := map[types.UID]bool{}
	for _, job := range jobs {
		end := ended(job)
		if end == batchv1.JobComplete {
			if at := job.Status.CompletionTime; at != nil && (p.status.LastSuccessfulTime == nil || at.After(p.status.LastSuccessfulTime.Time)) {
				p.status.LastSuccessfulTime = at.DeepCopy()
			}
		}
		due, ours := dueTime(job)
		if ours && (p.status.LastScheduleTime == nil || due.After(p.status.LastScheduleTime.Time)) {
			p.status.LastScheduleTime = ptr.To(metav1.NewTime(due)) // we ended between making it and saying so
		}
		switch {
		case end != "" && listed[job.UID]:
			gone[job.UID] = true
			p.note(corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %v", job.Name, end)
		case end != "":
		case listed[job.UID]:
			running = append(running, job)
		case ours:
			running = append(running, job)
			p.status.Active = append(p.status.Active, reference(job))
		default:
			p.note(corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", job.Name)
		}
	}
	p.status.Active = slices.DeleteFunc(p.status.Active, func(ref corev1.ObjectReference) bool {
		return gone[ref.UID] || !slices.ContainsFunc(jobs, func(j *batchv1.Job) bool { return j.UID == ref.UID })
	})
	return running
}

// ended is Complete or Failed for a job that has finished, and nothing for others.
func ended(job *batchv1.Job) batchv1.JobConditionType {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.Type
		}
	}
	return ""
}

// dueTime is when a job was due; those that somebody made by hand have no such time.
func dueTime(job *batchv1.Job) (time.Time, bool) {
	due, err := time.Parse(time.RFC3339, job.Annotations[batchv1.CronJobScheduledTimestampAnnotation])
	return due, err == nil
}

// surplus are the oldest finished jobs beyond the number to keep.
func surplus(jobs []*batchv1.Job, end batchv1.JobConditionType, keep *int32) []*batchv1.Job {
	if keep == nil {
		return nil
	}
	var finished []*batchv1.Job
	for _, job := range jobs {
		if ended(job) == end && job.DeletionTimestamp == nil {
			finished = append(finished, job)
		}
	}
	begun := func(job *batchv1.Job) time.Time {
		if job.Status.StartTime != nil {
			return job.Status.StartTime.Time
		}
		return job.CreationTimestamp.Time
	}
	slices.SortFunc(finished, func(a, b *batchv1.Job) int { return begun(a).Compare(begun(b)) })
	return finished[:max(0, len(finished)-int(*keep))]
}

// newJob is the job that is due at a time. Its name is the minute, so a second attempt finds the first.
func newJob(c *batchv1.CronJob, due time.Time, zone *time.Location) *batchv1.Job {
	template := c.Spec.JobTemplate.DeepCopy()
	annotations := maps.Clone(template.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[batchv1.CronJobScheduledTimestampAnnotation] = due.In(zone).Format(time.RFC3339)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: c.Namespace, Name: fmt.Sprintf("%s-%d", c.Name, due.Unix()/60),
			Labels: template.Labels, Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(c, kind)},
		},
		Spec: template.Spec,
	}
}

func reference(job *batchv1.Job) corev1.ObjectReference {
	return corev1.ObjectReference{
		APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job",
		Namespace: job.Namespace, Name: job.Name, UID: job.UID, ResourceVersion: job.ResourceVersion,
	}
}

// forget takes a job off the list of those that run.
func (p *plan) forget(job *batchv1.Job) {
	p.status.Active = slices.DeleteFunc(p.status.Active, func(ref corev1.ObjectReference) bool { return ref.UID == job.UID })
}
