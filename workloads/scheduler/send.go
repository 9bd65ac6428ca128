package scheduler

import (
	"cmp"
	"context"
	"errors"
	"time"

	"k8s.io/utils/clock"

	"knarr.dev/knarr/workloads/scheduler/plugins"
	"knarr.dev/knarr/workloads/scheduler/queue"
	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// patience is how long a pod waits for what was reserved for it, unless the rule says otherwise.
const patience = 10 * time.Minute

var errTooLate = errors.New("what the pod needs on its node did not become ready in time")

// journey is a pod on its way to a node where something was reserved for it.
type journey struct {
	entry    *queue.Entry
	pod      *snapshot.Pod
	node     string
	by       *profile
	taken    []*plugins.Reservation
	prepared bool // all of PreBind is done; it waits for Permit
	limit    clock.Timer
}

// send takes what a pod needs on the node decided for it, counts it there and has it bound.
func (s *Scheduler) send(ctx context.Context, e *queue.Entry, by *profile, node string) {
	j := &journey{entry: e, pod: e.Pod, node: node, by: by}
	for _, r := range by.reservers {
		reservation, err := r.Reserve(e.Pod, s.snapshot, s.snapshot.Node(node))
		if err != nil {
			s.undo(j)
			s.failed(ctx, e, e.Pod, "nothing reserved", err)
			return
		}
		if reservation != nil {
			j.taken = append(j.taken, reservation)
		}
	}
	s.settled(e.Pod.Object.UID, node)
	s.snapshot.Assume(e.Pod, node)
	if len(j.taken) == 0 {
		s.bindLater(ctx, j)
		return
	}
	s.journeys[e.Pod.Object.UID] = j
	s.writing.Go(func() {
		s.slots <- struct{}{} // here, so that decisions do not wait for it
		defer func() { <-s.slots }()
		err := s.preBind(ctx, j)
		s.inbox.put(func() { s.preBound(ctx, j, err) })
	})
}

// bindLater sends a binding on its way.
func (s *Scheduler) bindLater(ctx context.Context, j *journey) {
	s.write(func() {
		if err := s.bind(ctx, j.by, j.pod.Object, j.node); err != nil {
			s.inbox.put(func() { s.sendBack(ctx, j, err) })
			return
		}
		if len(j.taken) > 0 {
			s.inbox.put(func() { s.end(j) })
		}
	})
}

func (s *Scheduler) preBind(ctx context.Context, j *journey) error {
	for _, r := range j.taken {
		if r.PreBind == nil {
			continue
		}
		if err := r.PreBind(ctx, s.client); err != nil {
			return err
		}
	}
	return nil
}

// preBound lets a pod wait until it may be bound.
func (s *Scheduler) preBound(ctx context.Context, j *journey, err error) {
	if s.journeys[j.pod.Object.UID] != j {
		return // the pod went in the meantime
	}
	if err != nil {
		s.sendBack(ctx, j, err)
		return
	}
	j.prepared = true
	if s.permit(ctx, j) {
		return
	}
	limit := time.Duration(0)
	for _, r := range j.taken {
		if r.Permit != nil {
			limit = max(limit, cmp.Or(r.Patience, patience))
		}
	}
	j.limit = s.clock.AfterFunc(limit, func() {
		s.inbox.put(func() {
			if s.journeys[j.pod.Object.UID] == j && j.prepared {
				s.sendBack(ctx, j, errTooLate)
			}
		})
	})
}

// permit binds a pod if it may be by now; false means that it waits on.
func (s *Scheduler) permit(ctx context.Context, j *journey) bool {
	for _, r := range j.taken {
		if r.Permit == nil {
			continue
		}
		may, err := r.Permit(s.snapshot)
		if err != nil {
			s.sendBack(ctx, j, err)
			return true
		}
		if !may {
			return false
		}
	}
	j.prepared = false // once
	s.bindLater(ctx, j)
	return true
}

// permitAll asks again whether those that wait may be bound, because something changed.
func (s *Scheduler) permitAll(ctx context.Context) {
	for _, j := range s.journeys {
		if j.prepared {
			s.permit(ctx, j)
		}
	}
}

// sendBack takes a decision back that came to nothing.
func (s *Scheduler) sendBack(ctx context.Context, j *journey, err error) {
	s.undo(j)
	s.changed(s.snapshot.Forget(j.pod))
	s.failed(ctx, j.entry, j.pod, "pod not bound", err)
}

// undo gives back what was reserved for a pod.
func (s *Scheduler) undo(j *journey) {
	s.end(j)
	for _, r := range j.taken {
		if r.Undo != nil {
			s.changed(r.Undo(s.snapshot))
		}
	}
	j.taken = nil
}

// end forgets a journey.
func (s *Scheduler) end(j *journey) {
	if s.journeys[j.pod.Object.UID] == j {
		delete(s.journeys, j.pod.Object.UID)
	}
	if j.limit != nil {
		j.limit.Stop()
	}
}
