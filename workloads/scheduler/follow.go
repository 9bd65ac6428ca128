package scheduler

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/workloads/scheduler/plugins"
	"knarr.dev/knarr/workloads/scheduler/queue"
	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// follow subscribes to what decisions depend on. The handlers only hand over; the returned checkers are done when
// all that existed has been handed over.
func (s *Scheduler) follow(ctx context.Context) (synced []cache.DoneChecker, stop func(), err error) {
	var undo []func()
	stop = func() {
		for _, f := range undo {
			f()
		}
	}
	subscribe := func(object client.Object, set func(any), remove func(any)) error {
		done, end, err := s.subscribe(ctx, object, set, remove)
		if err == nil {
			synced, undo = append(synced, done), append(undo, end)
		}
		return err
	}
	err = subscribe(&corev1.Namespace{},
		func(o any) { s.changed(s.snapshot.SetNamespace(o.(*corev1.Namespace))) },
		func(o any) { s.snapshot.RemoveNamespace(o.(*corev1.Namespace).Name) })
	if err == nil {
		err = subscribe(&corev1.Service{},
			func(o any) { s.snapshot.SetService(o.(*corev1.Service)) },
			func(o any) { s.snapshot.RemoveService(o.(*corev1.Service)) })
	}
	if err == nil {
		err = subscribe(&corev1.Node{},
			func(o any) { s.changed(s.snapshot.SetNode(o.(*corev1.Node))) },
			func(o any) { s.changed(s.snapshot.RemoveNode(o.(*corev1.Node).Name)) })
	}
	if err == nil {
		err = subscribe(&corev1.Pod{},
			func(o any) { s.podSeen(o.(*corev1.Pod)) },
			func(o any) { s.podGone(o.(*corev1.Pod)) })
	}
	if err != nil {
		stop()
	}
	return synced, stop, err
}

// knowledge is how far objects of a kind are known.
type knowledge int

const (
	unfollowed knowledge = iota // no pod has asked for it
	following
	followed
)

// knows says whether all is known that the rules need for a pod. What is not is followed from now on: most clusters are
// spared those watches.
func (s *Scheduler) knows(ctx context.Context, pod *snapshot.Pod, by *profile) bool {
	all := true
	for _, f := range by.followers {
		for _, source := range f.Needs(pod, s.snapshot) {
			kind := fmt.Sprintf("%T", source.Object)
			if s.sources[kind] == unfollowed {
				s.followSource(ctx, kind, source)
			}
			all = all && s.sources[kind] == followed
		}
	}
	return all
}

// followSource subscribes to a kind. What the pods that wait for it need is decided when they are tried again.
func (s *Scheduler) followSource(ctx context.Context, kind string, source plugins.Source) {
	s.sources[kind] = following
	s.writing.Go(func() {
		done, end, err := s.subscribe(ctx, source.Object,
			func(o any) { s.moved(ctx, source.Set(s.snapshot, o.(client.Object))) },
			func(o any) { s.moved(ctx, source.Remove(s.snapshot, o.(client.Object))) })
		if err != nil {
			if ctx.Err() == nil {
				s.log.Warn("a kind is not known, pods that need it wait", "kind", kind, "err", err)
			}
			s.inbox.put(func() { s.sources[kind] = unfollowed })
			return
		}
		defer end()
		if cache.WaitFor(ctx, "", done) {
			s.inbox.put(func() { s.sources[kind] = followed })
			<-ctx.Done()
		}
	})
}

// moved is a change pods on their way to a node may have waited for as well.
func (s *Scheduler) moved(ctx context.Context, change snapshot.Change) {
	s.changed(change)
	s.permitAll(ctx)
}

// subscribe hands over what the cache tells about a kind until it is ended; done when all that existed is handed over.
func (s *Scheduler) subscribe(ctx context.Context, object client.Object, set, remove func(any)) (done cache.DoneChecker, end func(), err error) {
	informer, err := s.cache.GetInformer(ctx, object)
	if err != nil {
		return nil, nil, fmt.Errorf("watch %T: %w", object, err)
	}
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(o any) { s.inbox.put(func() { set(o) }) },
		UpdateFunc: func(_, o any) { s.inbox.put(func() { set(o) }) },
		DeleteFunc: func(o any) {
			if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = last.Obj
			}
			s.inbox.put(func() { remove(o) })
		},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("watch %T: %w", object, err)
	}
	end = func() { _ = informer.RemoveEventHandler(registration) } // the informer may be gone first
	return registration.HasSyncedChecker(), end, nil
}

// podSeen sorts a pod to where it belongs: on its node, in the queue, or nowhere.
func (s *Scheduler) podSeen(pod *corev1.Pod) {
	switch {
	case pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed:
		s.podGone(pod)
	case pod.Spec.NodeName != "":
		s.queue.Remove(pod.UID)
		s.settled(pod.UID, pod.Spec.NodeName)
		s.changed(s.snapshot.SetPod(pod))
	case pod.DeletionTimestamp != nil:
		s.podGone(pod)
	case s.profiles[pod.Spec.SchedulerName] == nil:
		// another scheduler's
	case !s.snapshot.Placed(pod.UID): // decided; the cache shows older news of it
		s.unplacedSeen(pod)
	}
}

// unplacedSeen queues a pod. The node it waits for is taken from its status when that says something new: we may have
// been restarted, or another program chose it.
func (s *Scheduler) unplacedSeen(pod *corev1.Pod) {
	said := ""
	if e := s.queue.Find(pod.UID); e != nil {
		said = e.Pod.Object.Status.NominatedNodeName
	}
	s.queue.Add(pod, s.clock.Now())
	switch says := pod.Status.NominatedNodeName; {
	case says == said:
	case says == "":
		s.changed(s.snapshot.Denominate(pod.UID))
	default:
		s.snapshot.Nominate(s.queue.Find(pod.UID).Pod, says)
	}
}

// settled gives up the room kept for a pod that has a node now.
func (s *Scheduler) settled(uid types.UID, node string) {
	waited := s.snapshot.Nomination(uid)
	if change := s.snapshot.Denominate(uid); waited != node {
		s.changed(change)
	}
}

func (s *Scheduler) podGone(pod *corev1.Pod) {
	s.queue.Remove(pod.UID)
	if j := s.journeys[pod.UID]; j != nil {
		s.undo(j)
	}
	delete(s.leaving, pod.UID)
	s.changed(s.snapshot.Denominate(pod.UID))
	s.changed(s.snapshot.RemovePod(pod))
}

// changed wakes the pods a change may help.
func (s *Scheduler) changed(change snapshot.Change) {
	if change.Kind == snapshot.Nothing {
		return
	}
	s.queue.Wake(func(e *queue.Entry) bool {
		if len(e.RefusedBy) == 0 {
			return change.Kind == snapshot.NodeAdded // there was no node at all
		}
		if e.RefusedBy[byExtender] {
			return true
		}
		for _, f := range s.profiles[e.Pod.Object.Spec.SchedulerName].filters {
			if e.RefusedBy[f.Name()] && f.Helps(e.Pod, s.snapshot, change) {
				return true
			}
		}
		return false
	}, s.clock.Now())
}
