package scheduler

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/workloads/scheduler/queue"
	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// seekRoom decides who leaves which node for a pod nobody has room for, and keeps that room for it. Without a node it
// says why.
func (s *Scheduler) seekRoom(ctx context.Context, pod *snapshot.Pod, by *profile, d *decision) (*clearing, string) {
	if may, why := mayPreempt(pod, s.snapshot, d, s.going); !may {
		return nil, why
	}
	open, against := clearable(pod, s.snapshot, d, s.start)
	var room *clearing
	if len(open) > 0 {
		budgets, err := s.budgets(ctx)
		if err != nil {
			s.log.Warn("nobody is sent away for a pod", "pod", client.ObjectKeyFromObject(pod.Object), "err", err)
			return nil, err.Error()
		}
		if rules, refused := by.rulesFor(pod, s.snapshot); refused == nil {
			found := clearings(rules.trying(pod, s.snapshot, budgets), open, against, by.candidates)
			if found, err = by.agreed(ctx, pod, found); err != nil {
				s.log.Warn("nobody is sent away for a pod", "pod", client.ObjectKeyFromObject(pod.Object), "err", err)
				return nil, err.Error()
			}
			room = leastHarm(found)
		}
	}
	if room == nil {
		return nil, tally(d.total, against)
	}
	for _, other := range outranked(pod, room.node, s.snapshot) {
		s.lookElsewhere(ctx, other.Object)
	}
	s.snapshot.Nominate(pod, room.node)
	s.start = 1 + slices.IndexFunc(s.snapshot.Nodes(), func(n *snapshot.Node) bool { return n.Name == room.node }) // nobody else finds room there
	for _, victim := range room.victims {
		s.leaving[victim.Object.UID] = true
	}
	return room, ""
}

// going says whether a pod is being sent away by us already.
func (s *Scheduler) going(pod *snapshot.Pod) bool {
	if s.leaving[pod.Object.UID] {
		return true
	}
	if pod.Object.DeletionTimestamp == nil {
		return false
	}
	for _, c := range pod.Object.Status.Conditions {
		if c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler {
			return true
		}
	}
	return false
}

// budgets reads the disruption budgets. The first call makes the shared cache follow them, which an ordinary cluster
// never needs for our sake.
func (s *Scheduler) budgets(ctx context.Context) ([]budget, error) {
	var list policyv1.PodDisruptionBudgetList
	if err := s.client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list disruption budgets: %w", err)
	}
	budgets := make([]budget, len(list.Items))
	for i := range list.Items {
		budgets[i] = newBudget(&list.Items[i])
	}
	return budgets, nil
}

// lookElsewhere takes from a pod the room that was kept for it.
func (s *Scheduler) lookElsewhere(ctx context.Context, pod *corev1.Pod) {
	s.snapshot.Denominate(pod.UID)
	s.wake(pod.UID)
	s.write(func() {
		if err := s.patchStatus(ctx, pod, map[string]any{"nominatedNodeName": ""}); err != nil && !gone(err) && ctx.Err() == nil {
			s.log.Warn("nomination not taken back", "pod", client.ObjectKeyFromObject(pod), "err", err)
		}
	})
}

// wake has a pod tried again after a rest: what it waited for does not come.
func (s *Scheduler) wake(uid types.UID) {
	if e := s.queue.Find(uid); e != nil {
		e.Awaited = false
	}
	s.queue.Wake(func(e *queue.Entry) bool { return e.Pod.Object.UID == uid }, s.clock.Now())
}

// clear sends the victims away. What fails is decided about anew.
func (s *Scheduler) clear(ctx context.Context, pod *corev1.Pod, room *clearing) {
	for _, v := range room.victims {
		victim := v.Object
		if victim.DeletionTimestamp != nil {
			continue // it goes for reasons of its own
		}
		err := s.sendAway(ctx, victim, pod.Spec.SchedulerName)
		switch {
		case err == nil:
			s.recorder(pod).Eventf(victim, corev1.EventTypeNormal, "Preempted", "Preempted by pod %s on node %s", pod.UID, room.node)
			continue
		case gone(err) || ctx.Err() != nil:
			continue
		}
		s.log.Warn("pod not sent away", "pod", client.ObjectKeyFromObject(victim), "for", client.ObjectKeyFromObject(pod), "err", err)
		s.inbox.put(func() {
			delete(s.leaving, victim.UID)
			s.wake(pod.UID)
		})
	}
}

// sendAway says on a pod why it goes, and by which scheduler's word, and deletes it; it has its grace period.
func (s *Scheduler) sendAway(ctx context.Context, pod *corev1.Pod, by string) error {
	const why = "preempting to accommodate a higher priority pod"
	next := s.condition(pod, corev1.DisruptionTarget, corev1.ConditionTrue, corev1.PodReasonPreemptionByScheduler, by+": "+why)
	if next != nil {
		if err := s.patchStatus(ctx, pod, map[string]any{"conditions": []corev1.PodCondition{*next}}); err != nil {
			return fmt.Errorf("mark pod %s/%s as preempted: %w", pod.Namespace, pod.Name, err)
		}
	}
	if err := s.client.Delete(ctx, pod.DeepCopy(), client.Preconditions{UID: &pod.UID}); err != nil {
		return fmt.Errorf("delete preempted pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}
