// Package scheduler gives every pod a node.
//
// In:       unplaced pods that name default-scheduler, and what decisions depend on; from the shared cache.
// Out:      bindings; why a pod has no node, as condition and Event; deletions of less important pods in the way.
// Promise:  a node's room is never promised twice; a pod that waits is tried again when a change may help it.
// Not here: the rules (scheduler/plugins), the cluster's picture (scheduler/snapshot), the order (scheduler/queue).
package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"knarr.dev/knarr/workloads/events"
	"knarr.dev/knarr/workloads/scheduler/plugins"
	"knarr.dev/knarr/workloads/scheduler/queue"
	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// writers bounds how many bindings and conditions are on their way at once.
const writers = 64

// informers is the part of the shared cache the scheduler listens to.
type informers interface {
	GetInformer(ctx context.Context, object client.Object, options ...cache.InformerGetOption) (cache.Informer, error)
}

// Scheduler decides on one goroutine, which owns everything below the inbox; bindings are sent by others.
type Scheduler struct {
	name   string
	cache  informers
	client client.Client
	events record.EventRecorder
	clock  clock.Clock
	rules  rules
	log    *slog.Logger

	inbox    *inbox
	queue    *queue.Queue
	snapshot *snapshot.Snapshot
	volumes  knowledge
	leaving  map[types.UID]bool // pods being sent away, which the cache may not show yet
	start    int                // the node the next decision starts at
	slots    chan struct{}
	writing  sync.WaitGroup
}

// knowledge is how far what claims depend on is known.
type knowledge int

const (
	unfollowed knowledge = iota // no pod has asked for it
	following
	followed
)

// Register adds the scheduler to a manager.
func Register(mgr manager.Manager, log *slog.Logger) error {
	s := New(mgr.GetCache(), mgr.GetClient(), events.Recorder(mgr, corev1.DefaultSchedulerName), clock.RealClock{}, log)
	if err := mgr.Add(s); err != nil {
		return fmt.Errorf("register the scheduler: %w", err)
	}
	return nil
}

// New returns a scheduler for the pods that name default-scheduler.
func New(c informers, writer client.Client, recorder record.EventRecorder, cl clock.Clock, log *slog.Logger) *Scheduler {
	return &Scheduler{
		name:     corev1.DefaultSchedulerName,
		cache:    c,
		client:   writer,
		events:   recorder,
		clock:    cl,
		rules:    rules{plugins.Filters(), plugins.Scorers()},
		log:      log.With("component", "scheduler"),
		inbox:    newInbox(),
		queue:    queue.New(),
		snapshot: snapshot.New(),
		leaving:  map[types.UID]bool{},
		slots:    make(chan struct{}, writers),
	}
}

// Start decides until ctx ends. It implements the manager's Runnable.
func (s *Scheduler) Start(ctx context.Context) error {
	synced, stop, err := s.follow(ctx)
	if err != nil {
		return err
	}
	defer s.writing.Wait()
	defer stop()
	if !toolscache.WaitFor(ctx, "", synced...) {
		return nil // stopped while waiting
	}
	timer := s.clock.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		s.inbox.empty()
		if entry := s.queue.Pop(s.clock.Now()); entry != nil {
			s.place(ctx, entry)
			continue
		}
		wait := time.Hour
		if at, ok := s.queue.Next(); ok {
			wait = max(at.Sub(s.clock.Now()), 0)
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
		case <-s.inbox.full:
		case <-timer.C():
		}
	}
	return nil
}

// place decides about one pod and sends the decision on its way.
func (s *Scheduler) place(ctx context.Context, e *queue.Entry) {
	if len(e.Pod.Claims) > 0 && s.volumes != followed {
		s.followVolumes(ctx)
		s.queue.Retry(e, s.clock.Now())
		return
	}
	d := decide(e.Pod, s.snapshot, s.rules, s.start, rand.IntN)
	if d.total > 0 {
		s.start = (s.start + d.looked) % d.total
	}
	if d.node == "" {
		s.keep(ctx, e, &d)
		return
	}
	s.settled(e.Pod.Object.UID, d.node)
	s.snapshot.Assume(e.Pod, d.node)
	pod := e.Pod
	s.write(func() {
		if err := s.bind(ctx, pod.Object, d.node); err != nil {
			s.inbox.put(func() { s.refused(ctx, e, pod, err) })
		}
	})
}

// keep lets a pod wait that no node would take, and sends less important ones away for it where that helps.
func (s *Scheduler) keep(ctx context.Context, e *queue.Entry, d *decision) {
	pod, why := e.Pod, d.explain()
	var room *clearing
	if d.total > 0 {
		var note string
		if room, note = s.seekRoom(ctx, pod, d); note != "" {
			why += " preemption: " + note
		}
	}
	s.queue.Park(e, d.refusedBy(), s.clock.Now())
	nomination := s.snapshot.Nomination(pod.Object.UID)
	s.write(func() {
		s.report(ctx, pod.Object, corev1.PodReasonUnschedulable, why, nomination)
		if room != nil {
			s.clear(ctx, pod.Object, room)
		}
	})
}

// refused takes a decision back that the API server did not accept.
func (s *Scheduler) refused(ctx context.Context, e *queue.Entry, pod *snapshot.Pod, err error) {
	s.changed(s.snapshot.Forget(pod))
	s.queue.Retry(e, s.clock.Now())
	if gone(err) || ctx.Err() != nil {
		return
	}
	s.log.Warn("binding refused", "pod", client.ObjectKeyFromObject(pod.Object), "err", err)
	s.write(func() {
		s.report(ctx, pod.Object, corev1.PodReasonSchedulerError, err.Error(), pod.Object.Status.NominatedNodeName)
	})
}

// write runs a write on a goroutine of its own. That it may wait for a free slot is intended: deciding much faster
// than the API server takes decisions in would only pile them up.
func (s *Scheduler) write(act func()) {
	s.slots <- struct{}{}
	s.writing.Go(func() {
		defer func() { <-s.slots }()
		act()
	})
}
