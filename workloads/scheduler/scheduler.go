// Package scheduler gives every pod a node.
//
// In:       unplaced pods that name one of its profiles, and what decisions depend on; from the shared cache.
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
	cache    informers
	client   client.Client
	events   map[string]record.EventRecorder // by the name of the profile
	clock    clock.WithDelayedExecution
	profiles map[string]*profile // by the name pods call it
	log      *slog.Logger

	inbox    *inbox
	queue    *queue.Queue
	snapshot *snapshot.Snapshot
	sources  map[string]knowledge   // by kind of object
	journeys map[types.UID]*journey // pods on their way to a node where something was reserved for them
	leaving  map[types.UID]bool     // pods being sent away, which the cache may not show yet
	start    int                    // the node the next decision starts at
	slots    chan struct{}
	writing  sync.WaitGroup
	herald   *herald
}

// Register adds the scheduler to a manager.
func Register(mgr manager.Manager, config *Config, log *slog.Logger) error {
	s := New(config, mgr.GetCache(), mgr.GetClient(), func(name string) record.EventRecorder { return events.Recorder(mgr, name) }, clock.RealClock{}, log)
	if err := mgr.Add(s); err != nil {
		return fmt.Errorf("register the scheduler: %w", err)
	}
	return nil
}

// New returns a scheduler for the pods that name a profile of the configuration. Each profile has its own recorder.
func New(config *Config, c informers, writer client.Client, recorder func(name string) record.EventRecorder, cl clock.WithDelayedExecution, log *slog.Logger) *Scheduler {
	s := &Scheduler{
		cache:    c,
		client:   writer,
		clock:    cl,
		profiles: map[string]*profile{},
		events:   map[string]record.EventRecorder{},
		log:      log.With("component", "scheduler"),
		inbox:    newInbox(),
		queue:    queue.New(config.firstRest, config.longRest),
		snapshot: snapshot.New(),
		sources:  map[string]knowledge{},
		journeys: map[types.UID]*journey{},
		leaving:  map[types.UID]bool{},
		slots:    make(chan struct{}, writers),
		herald:   newHerald(),
	}
	for _, p := range config.profiles {
		s.profiles[p.name] = p
		s.events[p.name] = recorder(p.name)
	}
	return s
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
	s.writing.Go(func() { s.tell(ctx) })
	timer := s.clock.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		s.inbox.empty()
		if entry := s.queue.Pop(s.clock.Now()); entry != nil {
			s.herald.decides(true)
			s.place(ctx, entry)
			continue
		}
		s.herald.decides(false)
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
	by := s.profiles[e.Pod.Object.Spec.SchedulerName]
	if !s.knows(ctx, e.Pod, by) {
		s.queue.Retry(e, s.clock.Now())
		return
	}
	d := decide(ctx, e.Pod, s.snapshot, by, s.start, rand.IntN)
	if d.total > 0 {
		s.start = (s.start + d.looked) % d.total
	}
	switch {
	case d.err != nil:
		s.failed(ctx, e, e.Pod, "no decision", d.err)
	case d.node == "":
		s.keep(ctx, e, by, &d)
	default:
		s.send(ctx, e, by, d.node)
	}
}

// keep lets a pod wait that no node would take, and sends less important ones away for it where that helps.
func (s *Scheduler) keep(ctx context.Context, e *queue.Entry, by *profile, d *decision) {
	pod, why := e.Pod, d.explain()
	act := s.postFilter(pod, by)
	var room *clearing
	if d.total > 0 && act == nil && by.preempts {
		var note string
		if room, note = s.seekRoom(ctx, pod, by, d); note != "" {
			why += " preemption: " + note
		}
	}
	e.Awaited = room != nil // once: should it not do, others came first
	s.queue.Park(e, d.refusedBy(), s.clock.Now())
	nomination := s.snapshot.Nomination(pod.Object.UID)
	s.write(func() {
		s.report(ctx, pod.Object, corev1.PodReasonUnschedulable, why, nomination)
		if act != nil {
			if err := act(ctx, s.client); err != nil && ctx.Err() == nil {
				s.log.Warn("nothing could be done for a pod", "pod", client.ObjectKeyFromObject(pod.Object), "err", err)
			}
		}
		if room != nil {
			s.clear(ctx, pod.Object, room)
		}
	})
}

// postFilter is what a rule knows to do for a pod no node will take, nil if none does.
func (s *Scheduler) postFilter(pod *snapshot.Pod, by *profile) func(context.Context, client.Client) error {
	for _, p := range by.postFilters {
		if act := p.PostFilter(pod, s.snapshot); act != nil {
			return act
		}
	}
	return nil
}

// failed lets a pod rest whose placement failed for reasons that are not the cluster's.
func (s *Scheduler) failed(ctx context.Context, e *queue.Entry, pod *snapshot.Pod, what string, err error) {
	s.queue.Retry(e, s.clock.Now())
	if gone(err) || ctx.Err() != nil {
		return
	}
	s.log.Warn(what, "pod", client.ObjectKeyFromObject(pod.Object), "err", err)
	s.write(func() {
		s.report(ctx, pod.Object, corev1.PodReasonSchedulerError, err.Error(), pod.Object.Status.NominatedNodeName)
	})
}

// write runs a write on a goroutine of its own. That it may wait for a free slot is intended: deciding much faster
// than the API server takes decisions in would only pile them up.
func (s *Scheduler) write(act func()) {
	s.slots <- struct{}{}
	s.herald.writes(1)
	s.writing.Go(func() {
		defer func() { <-s.slots; s.herald.writes(-1) }()
		act()
	})
}
