package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// bind tells the API server where a pod goes, or an extender that does.
func (s *Scheduler) bind(ctx context.Context, by *profile, pod *corev1.Pod, node string) error {
	if e := by.concerned(pod, func(e *extender) string { return e.BindVerb }); len(e) > 0 {
		if err := e[0].bind(ctx, pod, node); err != nil {
			return err
		}
		s.bound(pod, node)
		return nil
	}
	binding := &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}, // not a later pod of its name
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}
	named := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}}
	if err := s.client.SubResource("binding").Create(ctx, named, binding); err != nil {
		return fmt.Errorf("bind pod %s/%s to node %s: %w", pod.Namespace, pod.Name, node, err)
	}
	s.bound(pod, node)
	return nil
}

// bound has users told where a pod goes.
func (s *Scheduler) bound(pod *corev1.Pod, node string) {
	s.herald.add(news{
		namespace: pod.Namespace, pod: pod.Name, uid: pod.UID, version: pod.ResourceVersion, node: node, by: pod.Spec.SchedulerName, at: s.clock.Now(),
	})
}

// recorder writes Events about a pod in the name of its scheduler.
func (s *Scheduler) recorder(pod *corev1.Pod) record.EventRecorder {
	return s.events[pod.Spec.SchedulerName]
}

// gone says whether a write came too late: the pod was deleted, is placed, or another one has its name by now.
func gone(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsConflict(err) || another(err)
}

// another is the API server's answer to a patch that names the UID of an object whose name is another's by now: it takes
// the UID for a change of the one that is there.
func another(err error) bool {
	var answer apierrors.APIStatus
	if !apierrors.IsInvalid(err) || !errors.As(err, &answer) || answer.Status().Details == nil {
		return false
	}
	return slices.ContainsFunc(answer.Status().Details.Causes, func(c metav1.StatusCause) bool { return c.Field == "metadata.uid" })
}

// report tells users why a pod has no node and which one it waits for: an Event each time, the status when it says
// something new.
func (s *Scheduler) report(ctx context.Context, pod *corev1.Pod, reason, message, nomination string) {
	s.recorder(pod).Event(pod, corev1.EventTypeWarning, "FailedScheduling", message)
	news := map[string]any{}
	if next := s.condition(pod, corev1.PodScheduled, corev1.ConditionFalse, reason, message); next != nil {
		news["conditions"] = []corev1.PodCondition{*next}
	}
	if nomination != pod.Status.NominatedNodeName {
		news["nominatedNodeName"] = nomination
	}
	if len(news) == 0 {
		return
	}
	if err := s.patchStatus(ctx, pod, news); err != nil && !gone(err) && ctx.Err() == nil {
		s.log.Warn("pod status not written", "pod", client.ObjectKeyFromObject(pod), "err", err)
	}
}

// condition is a pod's condition as it should be now; nil if it says so already.
func (s *Scheduler) condition(pod *corev1.Pod, of corev1.PodConditionType, status corev1.ConditionStatus, reason, message string) *corev1.PodCondition {
	next := corev1.PodCondition{
		Type: of, Status: status, Reason: reason, Message: message,
		ObservedGeneration: pod.Generation, LastTransitionTime: metav1.NewTime(s.clock.Now()),
	}
	for _, c := range pod.Status.Conditions {
		if c.Type != of || c.Status != status {
			continue
		}
		if c.Reason == reason && c.Message == message {
			return nil
		}
		next.LastTransitionTime = c.LastTransitionTime
	}
	return &next
}

// patchStatus merges news into a pod's status, unless another pod has its name by now.
func (s *Scheduler) patchStatus(ctx context.Context, pod *corev1.Pod, news map[string]any) error {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": news})
	if err != nil {
		return fmt.Errorf("encode a pod status: %w", err)
	}
	named := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}}
	return s.client.Status().Patch(ctx, named, client.RawPatch(types.StrategicMergePatchType, body))
}
