package scheduler

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// bind tells the API server where a pod goes.
func (s *Scheduler) bind(ctx context.Context, pod *corev1.Pod, node string) error {
	binding := &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}, // not a later pod of its name
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}
	named := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}}
	if err := s.client.SubResource("binding").Create(ctx, named, binding); err != nil {
		return fmt.Errorf("bind pod %s/%s to node %s: %w", pod.Namespace, pod.Name, node, err)
	}
	s.events.Eventf(pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, node)
	return nil
}

// gone says whether a binding failed because there is nothing left to bind: the pod was deleted, or is placed.
func gone(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsConflict(err) }

// report tells users why a pod has no node: an Event each time, the condition when it says something new.
func (s *Scheduler) report(ctx context.Context, pod *corev1.Pod, reason, message string) {
	s.events.Event(pod, corev1.EventTypeWarning, "FailedScheduling", message)
	now := metav1.NewTime(s.clock.Now())
	next := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: message,
		ObservedGeneration: pod.Generation, LastTransitionTime: now,
	}
	for _, c := range pod.Status.Conditions {
		if c.Type != corev1.PodScheduled || c.Status != next.Status {
			continue
		}
		if c.Reason == reason && c.Message == message {
			return
		}
		next.LastTransitionTime = c.LastTransitionTime
	}
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status":   map[string]any{"conditions": []corev1.PodCondition{next}},
	})
	if err != nil {
		s.log.Error("encode a pod condition", "err", err)
		return
	}
	named := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}}
	err = s.client.Status().Patch(ctx, named, client.RawPatch(types.StrategicMergePatchType, body))
	if err != nil && !gone(err) && ctx.Err() == nil {
		s.log.Warn("pod condition not written", "pod", client.ObjectKeyFromObject(pod), "err", err)
	}
}
