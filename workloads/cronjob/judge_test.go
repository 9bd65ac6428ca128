package cronjob

import (
	"fmt"
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

type change func(*batchv1.CronJob)

// report is a cron job of every minute, made 90 seconds ago.
func report(changes ...change) *batchv1.CronJob {
	c := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "report", UID: "cron", CreationTimestamp: metav1.NewTime(now.Add(-90 * time.Second))},
		Spec: batchv1.CronJobSpec{
			Schedule: "* * * * *", TimeZone: ptr.To("UTC"), ConcurrencyPolicy: batchv1.AllowConcurrent,
			SuccessfulJobsHistoryLimit: ptr.To[int32](3), FailedJobsHistoryLimit: ptr.To[int32](1),
		},
	}
	for _, change := range changes {
		change(c)
	}
	return c
}

func schedules(text string) change { return func(c *batchv1.CronJob) { c.Spec.Schedule = text } }

func madeAgo(d time.Duration) change {
	return func(c *batchv1.CronJob) { c.CreationTimestamp = metav1.NewTime(now.Add(-d)) }
}

func lastAt(t time.Time) change {
	return func(c *batchv1.CronJob) { c.Status.LastScheduleTime = ptr.To(metav1.NewTime(t)) }
}

func policy(p batchv1.ConcurrencyPolicy) change {
	return func(c *batchv1.CronJob) { c.Spec.ConcurrencyPolicy = p }
}

func lists(names ...string) change {
	return func(c *batchv1.CronJob) {
		for _, name := range names {
			c.Status.Active = append(c.Status.Active, corev1.ObjectReference{Name: name, UID: types.UID(name)})
		}
	}
}

// job is one that was due at a time, and has ended if end says so.
func job(name string, due time.Time, end batchv1.JobConditionType) *batchv1.Job {
	j := newJob(report(), due, time.UTC)
	j.Name, j.UID = name, types.UID(name)
	j.Status.StartTime = ptr.To(metav1.NewTime(due))
	if end != "" {
		j.Status.Conditions = []batchv1.JobCondition{{Type: end, Status: corev1.ConditionTrue}}
		j.Status.CompletionTime = ptr.To(metav1.NewTime(due.Add(time.Second)))
	}
	return j
}

func manual(j *batchv1.Job) *batchv1.Job {
	j.Annotations = nil
	return j
}

func TestJudge(t *testing.T) {
	minute := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	before := minute.Add(-time.Minute)
	tests := map[string]struct {
		cron   *batchv1.CronJob
		jobs   []*batchv1.Job
		due    time.Time
		stop   []string
		prune  []string
		active []string
		tell   []string
		again  time.Duration
	}{
		"a minute began since it was made":         {cron: report(), due: minute, again: 55 * time.Second},
		"none began yet":                           {cron: report(madeAgo(3 * time.Second)), again: 55 * time.Second},
		"this minute's job was made":               {cron: report(lastAt(minute)), again: 55 * time.Second},
		"several were missed and the last is made": {cron: report(madeAgo(time.Hour)), due: minute, again: 55 * time.Second},
		"too many were missed":                     {cron: report(madeAgo(3 * time.Hour)), due: minute, tell: []string{"TooManyMissedTimes"}, again: 55 * time.Second},
		"a year was missed":                        {cron: report(madeAgo(365 * 24 * time.Hour)), due: minute, tell: []string{"TooManyMissedTimes"}, again: 55 * time.Second},
		"a deadline makes many into few":           {cron: report(madeAgo(time.Hour*3), func(c *batchv1.CronJob) { c.Spec.StartingDeadlineSeconds = ptr.To[int64](200) }), due: minute, again: 55 * time.Second},
		"the deadline is over":                     {cron: report(madeAgo(time.Hour*3), func(c *batchv1.CronJob) { c.Spec.StartingDeadlineSeconds = ptr.To[int64](3) }), tell: []string{"MissSchedule"}, again: 55 * time.Second},
		"a clock that went back makes nothing":     {cron: report(lastAt(now.Add(time.Hour))), again: maxWait},
		"suspended":                                {cron: report(func(c *batchv1.CronJob) { c.Spec.Suspend = ptr.To(true) })},
		"on its way out":                           {cron: report(func(c *batchv1.CronJob) { c.DeletionTimestamp = ptr.To(metav1.NewTime(now)) })},
		"a schedule nobody can read":               {cron: report(schedules("now and then")), tell: []string{"UnparseableSchedule"}},
		"a zone nobody knows":                      {cron: report(func(c *batchv1.CronJob) { c.Spec.TimeZone = ptr.To("Atlantis/Center") }), tell: []string{"UnknownTimeZone"}},
		"noon somewhere else":                      {cron: report(madeAgo(24*time.Hour), schedules("4 12 * * *"), func(c *batchv1.CronJob) { c.Spec.TimeZone = ptr.To("Asia/Tokyo") }), due: minute, again: maxWait},
		"noon where the schedule itself says": {
			cron: report(madeAgo(24*time.Hour), schedules("TZ=Asia/Tokyo 4 12 * * *"), func(c *batchv1.CronJob) { c.Spec.TimeZone = ptr.To("UTC") }),
			due:  minute, tell: []string{"UnsupportedSchedule"}, again: maxWait,
		},
		"every so often counts from the last":      {cron: report(schedules("@every 1h"), lastAt(now.Add(-150*time.Minute))), due: now.Add(-30 * time.Minute), again: maxWait},
		"every second for a year":                  {cron: report(schedules("@every 1s"), madeAgo(365*24*time.Hour)), due: now, tell: []string{"TooManyMissedTimes"}, again: time.Second},
		"never":                                    {cron: report(schedules("0 0 31 2 *"))},
		"jobs side by side":                        {cron: report(lists("a"), lastAt(before)), jobs: []*batchv1.Job{job("a", before, "")}, due: minute, active: []string{"a"}, again: 55 * time.Second},
		"one at a time waits":                      {cron: report(lists("a"), lastAt(before), policy(batchv1.ForbidConcurrent)), jobs: []*batchv1.Job{job("a", before, "")}, active: []string{"a"}, tell: []string{"JobAlreadyActive"}, again: 55 * time.Second},
		"one at a time goes on when it has ended":  {cron: report(lists("a"), lastAt(before), policy(batchv1.ForbidConcurrent)), jobs: []*batchv1.Job{job("a", before, batchv1.JobFailed)}, due: minute, tell: []string{"SawCompletedJob"}, again: 55 * time.Second},
		"the newest replaces the others":           {cron: report(lists("a"), lastAt(before), policy(batchv1.ReplaceConcurrent)), jobs: []*batchv1.Job{job("a", before, "")}, due: minute, stop: []string{"a"}, active: []string{"a"}, again: 55 * time.Second},
		"a job made just before a crash is found":  {cron: report(policy(batchv1.ReplaceConcurrent)), jobs: []*batchv1.Job{job("a", minute, "")}, active: []string{"a"}, again: 55 * time.Second},
		"a job made by hand is nobody's hindrance": {cron: report(lastAt(before), policy(batchv1.ForbidConcurrent)), jobs: []*batchv1.Job{manual(job("a", before, ""))}, due: minute, tell: []string{"UnexpectedJob"}, again: 55 * time.Second},
		"a running job that is gone is struck off": {cron: report(lists("a"), lastAt(minute)), tell: []string{"MissingJob"}, again: 55 * time.Second},
		"the oldest of what has finished goes":     {cron: report(lastAt(minute)), jobs: []*batchv1.Job{job("f2", before, batchv1.JobFailed), job("f1", before.Add(-time.Hour), batchv1.JobFailed), job("s", before, batchv1.JobComplete)}, prune: []string{"f1"}, again: 55 * time.Second},
		"history is kept tidy while it is suspended": {cron: report(lastAt(minute), func(c *batchv1.CronJob) {
			c.Spec.Suspend = ptr.To(true)
			c.Spec.FailedJobsHistoryLimit = ptr.To[int32](0)
		}), jobs: []*batchv1.Job{job("f", before, batchv1.JobFailed)}, prune: []string{"f"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			untouched := tc.cron.DeepCopy()
			p := judge(tc.cron, tc.jobs, now)
			if !p.due.Equal(tc.due) || p.again != tc.again {
				t.Errorf("due %v, again in %v; want %v, %v", p.due, p.again, tc.due, tc.again)
			}
			var active, told []string
			for _, ref := range p.status.Active {
				active = append(active, ref.Name)
			}
			for _, n := range p.tell {
				told = append(told, n.reason)
			}
			for what, pair := range map[string][2][]string{
				"stop": {tc.stop, names(p.stop)}, "prune": {tc.prune, names(p.prune)}, "active": {tc.active, active}, "events": {tc.tell, told},
			} {
				if diff := cmp.Diff(pair[0], pair[1]); diff != "" {
					t.Errorf("%s (-want +got):\n%s", what, diff)
				}
			}
			if diff := cmp.Diff(untouched, tc.cron); diff != "" {
				t.Errorf("judge() changed a cached object (-before +after):\n%s", diff)
			}
		})
	}
}

func names(jobs []*batchv1.Job) (list []string) {
	for _, j := range jobs {
		list = append(list, j.Name)
	}
	return list
}

func TestNewJobIsNamedAfterItsMinute(t *testing.T) {
	due := time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC)
	zone := time.FixedZone("", 3600)
	j := newJob(report(func(c *batchv1.CronJob) { c.Spec.JobTemplate.Labels = map[string]string{"app": "report"} }), due, zone)
	if want := fmt.Sprintf("report-%d", due.Unix()/60); j.Name != want || j.Labels["app"] != "report" {
		t.Errorf("name %s, labels %v; want %s", j.Name, j.Labels, want)
	}
	if got := j.Annotations[batchv1.CronJobScheduledTimestampAnnotation]; got != "2026-01-02T04:04:00+01:00" {
		t.Errorf("scheduled at %q", got)
	}
	if ref := metav1.GetControllerOf(j); ref == nil || ref.UID != "cron" || ref.Kind != "CronJob" {
		t.Errorf("owner %v", ref)
	}
}

func TestLatestAgreesWithWalking(t *testing.T) {
	for _, text := range []string{"*/7 3-5 * * *", "0 0 1 * *", "30 2 * * 0", "@hourly", "15 14 29 2 *"} {
		c := report(schedules(text), madeAgo(3*365*24*time.Hour))
		s, err := scheduleOf(c)
		if err != nil {
			t.Fatal(err)
		}
		var want time.Time
		next := s.Next(c.CreationTimestamp.Time)
		for ; !next.After(now); next = s.Next(next) {
			want = next
		}
		due, _, after := s.latest(c.CreationTimestamp.Time, now)
		if !due.Equal(want) || !after.Equal(next) {
			t.Errorf("%s: due %v, then %v; want %v, then %v", text, due, after, want, next)
		}
	}
}
