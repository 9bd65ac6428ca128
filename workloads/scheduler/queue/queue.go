// Package queue holds the pods that wait for a node.
//
// In:       unplaced pods, what refused them, and changes of the cluster.
// Out:      the next pod to decide about, most important first.
// Promise:  a pod is active (next), resting (until a time) or parked (until a change helps), never two of them.
// Not here: locks. The scheduler's one goroutine owns a Queue.
package queue

import (
	"cmp"
	"container/heap"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

const (
	// A pod wakes only for a change its refusals say may help, so its first rest can be short; it doubles.
	shortRest = 100 * time.Millisecond
	longRest  = 10 * time.Second
	// parkLimit is the net under changes that should have woken a pod and did not.
	parkLimit = 5 * time.Minute
	// gateLimit is never: only a pod's own news can open its gates.
	gateLimit = 100 * 365 * 24 * time.Hour
)

// Entry is a pod that waits.
type Entry struct {
	Pod       *snapshot.Pod
	Attempts  int
	RefusedBy map[string]bool // plugins, at the last attempt
	Awaited   bool            // what it waits for is on its way, so that once it is there it need not rest

	since  time.Time // it waits since
	due    time.Time // it rests, or is parked, until
	queued int64     // tells equals apart: first come, first served
	place  place
	index  int // in its heap
}

type place int

const (
	away place = iota // popped
	active
	resting
	parked
)

// Queue is the three places.
type Queue struct {
	entries map[types.UID]*Entry
	active  entries
	resting entries
	parked  entries
	count   int64

	first, longest time.Duration // rests
}

// New returns an empty Queue. A pod's first rest doubles with each attempt up to the longest; 0 is as it is best.
func New(first, longest time.Duration) *Queue {
	first = cmp.Or(first, shortRest)
	return &Queue{
		first:   first,
		longest: max(cmp.Or(longest, longRest), first),
		entries: map[types.UID]*Entry{},
		active:  entries{before: moreImportant},
		resting: entries{before: earlier},
		parked:  entries{before: earlier},
	}
}

// Add queues a pod, or takes in its news; news of a pod that waits may be what it waited for.
func (q *Queue) Add(pod *corev1.Pod, now time.Time) {
	e, known := q.entries[pod.UID]
	if !known {
		e = &Entry{since: now}
		q.entries[pod.UID] = e
	} else if !concerns(e.Pod.Object, pod) {
		fresh := *e.Pod // the old one may be in use by a write that is on its way
		fresh.Object = pod
		e.Pod = &fresh
		return
	}
	e.Pod = snapshot.NewPod(pod)
	switch {
	case known && (e.place == away || e.place == resting):
		// Its placement is on the way, or it is tried again soon anyhow.
	case gated(pod):
		q.move(e, parked, now.Add(gateLimit))
	default:
		q.move(e, active, now)
	}
}

// Find is a pod that waits or whose placement is on its way, or nil.
func (q *Queue) Find(uid types.UID) *Entry { return q.entries[uid] }

// Remove forgets a pod.
func (q *Queue) Remove(uid types.UID) {
	e := q.entries[uid]
	if e == nil {
		return
	}
	q.leave(e)
	delete(q.entries, uid)
}

// Pop takes the most important active pod; nil if none is.
func (q *Queue) Pop(now time.Time) *Entry {
	for q.resting.Len() > 0 && !q.resting.list[0].due.After(now) {
		q.move(q.resting.list[0], active, now)
	}
	for q.parked.Len() > 0 && !q.parked.list[0].due.After(now) {
		q.move(q.parked.list[0], active, now)
	}
	if q.active.Len() == 0 {
		return nil
	}
	e := q.active.list[0]
	q.leave(e)
	e.Attempts++
	return e
}

// Park keeps a popped pod that no node would take until something helps.
func (q *Queue) Park(e *Entry, refusedBy map[string]bool, now time.Time) {
	if q.entries[e.Pod.Object.UID] != e {
		return
	}
	e.RefusedBy = refusedBy
	e.since = now
	q.move(e, parked, now.Add(parkLimit))
}

// Retry rests a popped pod whose placement failed for reasons of its own.
func (q *Queue) Retry(e *Entry, now time.Time) {
	if q.entries[e.Pod.Object.UID] != e || e.place != away {
		return
	}
	e.since = now
	q.move(e, resting, now.Add(q.rest(e.Attempts)))
}

// Wake moves the parked pods that helps says a change may help, after the rest their attempts have earned unless it was awaited.
func (q *Queue) Wake(helps func(*Entry) bool, now time.Time) {
	var woken []*Entry
	for _, e := range q.parked.list {
		if !gated(e.Pod.Object) && helps(e) {
			woken = append(woken, e)
		}
	}
	for _, e := range woken {
		if due := e.since.Add(q.rest(e.Attempts)); due.After(now) && !e.Awaited {
			q.move(e, resting, due)
		} else {
			q.move(e, active, now)
		}
	}
}

// Next is when Pop has something to give without anything else happening; ok is false for never.
func (q *Queue) Next() (at time.Time, ok bool) {
	if q.active.Len() > 0 {
		return time.Time{}, true
	}
	for _, h := range []*entries{&q.resting, &q.parked} {
		if h.Len() > 0 && (!ok || h.list[0].due.Before(at)) {
			at, ok = h.list[0].due, true
		}
	}
	return at, ok
}

// Len is how many pods wait.
func (q *Queue) Len() int { return q.active.Len() + q.resting.Len() + q.parked.Len() }

func (q *Queue) move(e *Entry, to place, due time.Time) {
	q.leave(e)
	q.count++
	e.due, e.queued, e.place = due, q.count, to
	heap.Push(q.in(to), e)
}

func (q *Queue) leave(e *Entry) {
	if h := q.in(e.place); h != nil {
		heap.Remove(h, e.index)
	}
	e.place = away
}

func (q *Queue) in(p place) *entries {
	switch p {
	case active:
		return &q.active
	case resting:
		return &q.resting
	case parked:
		return &q.parked
	}
	return nil
}

func (q *Queue) rest(attempts int) time.Duration {
	d := q.first
	for range attempts - 1 {
		if d *= 2; d >= q.longest {
			return q.longest
		}
	}
	return d
}
