package scheduler

import (
	"cmp"
	"context"
	"errors"
	"time"

	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

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
	expected bool // there is something to write first, and its status says where it goes
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
			j.expected = j.expected || reservation.PreBind != nil
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
		if j.expected {
			s.expect(ctx, j)
		}
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

// expect says on a pod where it is going, because that takes a while (KEP-5278): who takes idle nodes away then leaves it that
// one, and our successor, should we end, goes on where we were. The API server takes it off the pod that is bound.
func (s *Scheduler) expect(ctx context.Context, j *journey) {
	pod := j.pod.Object
	if pod.Status.NominatedNodeName == j.node {
		return
	}
	if err := s.patchStatus(ctx, pod, map[string]any{"nominatedNodeName": j.node}); err != nil && !gone(err) && ctx.Err() == nil {
		s.log.Warn("nobody was told where a pod goes", "pod", client.ObjectKeyFromObject(pod), "node", j.node, "err", err)
	}
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
				s.giveUp(ctx, j, errTooLate)
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
			s.giveUp(ctx, j, err)
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

// giveUp sends a pod back that waited for what will not come.
func (s *Scheduler) giveUp(ctx context.Context, j *journey, err error) {
	taken := j.taken
	s.sendBack(ctx, j, err)
	for _, r := range taken {
		if r.GiveBack == nil {
			continue
		}
		if act := r.GiveBack(s.snapshot); act != nil {
			s.write(func() {
				if err := act(ctx, s.client); err != nil && ctx.Err() == nil {
					s.log.Warn("what was reserved for a pod is not given back", "pod", client.ObjectKeyFromObject(j.pod.Object), "err", err)
				}
			})
		}
	}
}

// sendBack takes a decision back that came to nothing. A node the pod's status speaks of stays the first to be asked.
func (s *Scheduler) sendBack(ctx context.Context, j *journey, err error) {
	s.undo(j)
	change := s.snapshot.Forget(j.pod)
	if j.expected && s.queue.Find(j.pod.Object.UID) == j.entry {
		s.snapshot.Nominate(j.pod, j.node)
	}
	s.changed(change)
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
