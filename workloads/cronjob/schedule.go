package cronjob

import (
	"fmt"
	"time"
	_ "time/tzdata" // a small machine may have no zones of its own

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/utils/ptr"
)

// manyMissed is how many missed times make us think that a clock is wrong.
const manyMissed = 100

// schedule says when jobs are due.
type schedule struct {
	cron.Schedule
	zone *time.Location
}

type zoneError struct{ error }

func scheduleOf(c *batchv1.CronJob) (schedule, error) {
	zone := time.Local
	if c.Spec.TimeZone != nil {
		var err error
		if zone, err = time.LoadLocation(*c.Spec.TimeZone); err != nil {
			return schedule{}, zoneError{err}
		}
	}
	parsed, err := cron.ParseStandard(c.Spec.Schedule)
	if err != nil {
		return schedule{}, fmt.Errorf("read schedule %q: %w", c.Spec.Schedule, err)
	}
	return schedule{parsed, zone}, nil
}

// Next is the first due time after t, zero if there is none.
func (s schedule) Next(t time.Time) time.Time { return s.Schedule.Next(t.In(s.zone)) }

// latest is the last due time after since and not after now, zero if there is none, how many there are (counted to
// manyMissed+1) and the first one after now.
func (s schedule) latest(since, now time.Time) (due time.Time, missed int, next time.Time) {
	for t := s.Next(since); !t.IsZero() && missed <= manyMissed; t = s.Next(t) {
		if t.After(now) {
			return due, missed, t
		}
		due = t
		missed++
	}
	if missed <= manyMissed {
		return due, missed, time.Time{}
	}
	if every, ok := s.Schedule.(cron.ConstantDelaySchedule); ok {
		due = due.Add(now.Sub(due) / every.Delay * every.Delay)
		return due, missed, due.Add(every.Delay)
	}
	// Years may have passed: look backwards in growing steps instead of walking through them.
	for back := time.Minute; ; back *= 2 {
		if t := s.Next(now.Add(-back)); !t.After(now) {
			for ; !t.IsZero() && !t.After(now); t = s.Next(t) {
				due = t
			}
			return due, missed, t
		}
	}
}

// late is the last due time whose deadline has passed just now, zero if there is none. What passed longer ago was told.
func (s schedule) late(c *batchv1.CronJob, now time.Time) time.Time {
	seconds := c.Spec.StartingDeadlineSeconds
	if seconds == nil {
		return time.Time{}
	}
	ended := now.Add(-time.Duration(*seconds) * time.Second)
	unbounded := c.DeepCopy()
	unbounded.Spec.StartingDeadlineSeconds = nil
	from := since(unbounded, now)
	if told := ended.Add(-maxWait); told.After(from) {
		from = told
	}
	due, _, _ := s.latest(from, ended)
	return due
}

// since is the time from which on due times count.
func since(c *batchv1.CronJob, now time.Time) time.Time {
	from := c.CreationTimestamp.Time
	if last := c.Status.LastScheduleTime; last != nil {
		from = last.Time
	}
	if seconds := c.Spec.StartingDeadlineSeconds; seconds != nil {
		if earliest := now.Add(-time.Duration(ptr.Deref(seconds, 0)) * time.Second); earliest.After(from) {
			from = earliest
		}
	}
	return from
}
