package scheduler

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

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

// followVolumes subscribes to what claims depend on, once a pod has one: most clusters are spared three watches.
// Until all that existed is known, pods with claims are tried again a little later.
func (s *Scheduler) followVolumes(ctx context.Context) {
	if s.volumes != unfollowed {
		return
	}
	s.volumes = following
	s.writing.Go(func() {
		var synced []cache.DoneChecker
		for _, of := range []struct {
			object      client.Object
			set, remove func(any)
		}{
			{
				&corev1.PersistentVolumeClaim{},
				func(o any) { s.changed(s.snapshot.SetClaim(o.(*corev1.PersistentVolumeClaim))) },
				func(o any) { s.snapshot.RemoveClaim(o.(*corev1.PersistentVolumeClaim)) },
			},
			{
				&corev1.PersistentVolume{},
				func(o any) { s.changed(s.snapshot.SetVolume(o.(*corev1.PersistentVolume))) },
				func(o any) { s.snapshot.RemoveVolume(o.(*corev1.PersistentVolume)) },
			},
			{
				&storagev1.StorageClass{},
				func(o any) { s.changed(s.snapshot.SetClass(o.(*storagev1.StorageClass))) },
				func(o any) { s.snapshot.RemoveClass(o.(*storagev1.StorageClass)) },
			},
		} {
			done, end, err := s.subscribe(ctx, of.object, of.set, of.remove)
			if err != nil {
				if ctx.Err() == nil {
					s.log.Warn("volumes not known, pods with claims wait", "err", err)
				}
				s.inbox.put(func() { s.volumes = unfollowed })
				return
			}
			defer end()
			synced = append(synced, done)
		}
		if cache.WaitFor(ctx, "", synced...) {
			s.inbox.put(func() { s.volumes = followed })
			<-ctx.Done()
		}
	})
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
	case pod.Spec.SchedulerName != s.name:
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
		for _, f := range s.rules.filters {
			if e.RefusedBy[f.Name()] && f.Helps(e.Pod, s.snapshot, change) {
				return true
			}
		}
		return false
	}, s.clock.Now())
}
