package workloads_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// standIn plays the agents of all nodes: placed pods run and are ready at once, ending pods end at once. An image
// named broken never gets ready; one named succeeds or fails has ended as soon as it runs.
type standIn struct {
	client client.WithWatch
	count  int
}

// Start implements the manager's Runnable.
func (s *standIn) Start(ctx context.Context) error {
	for ctx.Err() == nil {
		w, err := s.client.Watch(ctx, &corev1.PodList{})
		if err != nil {
			return nil // stopped
		}
		for e := range w.ResultChan() {
			if pod, ok := e.Object.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
				s.serve(ctx, pod)
			}
		}
	}
	return nil
}

func (s *standIn) serve(ctx context.Context, pod *corev1.Pod) {
	if pod.DeletionTimestamp != nil {
		_ = s.client.Delete(ctx, pod, client.GracePeriodSeconds(0), client.Preconditions{UID: &pod.UID})
		return
	}
	image := pod.Spec.Containers[0].Image
	if pod.Status.Phase != corev1.PodPending || image == "broken" {
		return
	}
	if phase, ends := map[string]corev1.PodPhase{"succeeds": corev1.PodSucceeded, "fails": corev1.PodFailed}[image]; ends {
		next := pod.DeepCopy()
		next.Status.Phase = phase
		_ = s.client.Status().Patch(ctx, next, client.StrategicMergeFrom(pod, client.MergeFromWithOptimisticLock{}))
		return
	}
	s.count++
	next := pod.DeepCopy()
	now := metav1.Now()
	next.Status.Phase = corev1.PodRunning
	next.Status.StartTime = &now
	next.Status.PodIP = fmt.Sprintf("10.42.%d.%d", s.count/250, s.count%250+2)
	next.Status.PodIPs = []corev1.PodIP{{IP: next.Status.PodIP}}
	next.Status.Conditions = append(next.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: now})
	// Of this version alone: a pod that was ended meanwhile must not run again. A conflict brings another event.
	_ = s.client.Status().Patch(ctx, next, client.StrategicMergeFrom(pod, client.MergeFromWithOptimisticLock{}))
}

// TestTheStandInRunsNothingThatHasEnded: it would be two pods where an owner, who saw the end, may have one.
func TestTheStandInRunsNothingThatHasEnded(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: newNamespace(t, "stand-in"), Name: "late"},
		Spec:       corev1.PodSpec{NodeSelector: map[string]string{"story": "of-nobody"}, Containers: []corev1.Container{{Name: "c", Image: "app:1"}}},
	}
	create(t, pod)
	seen := pod.DeepCopy()
	pod.Status.Phase = corev1.PodFailed
	if err := api.Status().Patch(t.Context(), pod, client.MergeFrom(seen)); err != nil {
		t.Fatal(err)
	}
	(&standIn{client: api}).serve(t.Context(), seen)
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil || pod.Status.Phase != corev1.PodFailed {
		t.Errorf("a pod that failed is %s now, %v", pod.Status.Phase, err)
	}
}

// addNode registers a ready node, and takes it away after the story.
func addNode(t *testing.T, name string) {
	t.Helper()
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, "story": strings.ReplaceAll(t.Name(), "/", ".")}},
		Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}}},
	}
	if err := api.Create(t.Context(), node); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = api.Delete(context.Background(), node) })
	before := node.DeepCopy()
	now := metav1.Now()
	capacity := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("16Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	node.Status.Capacity, node.Status.Allocatable = capacity, capacity
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: now, LastTransitionTime: now}}
	if err := api.Status().Patch(t.Context(), node, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
}

// newNamespace makes a namespace named after the story that pods may be made in, and takes it away afterwards.
func newNamespace(t *testing.T, name string) string {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := api.Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = api.Delete(context.Background(), namespace) })
	// Pods are refused without it.
	eventually(t, &corev1.ServiceAccount{}, name, "default", "there", func(*corev1.ServiceAccount) bool { return true })
	return name
}

// eventually looks at an object until it is as wanted; a nil object is one that is gone.
func eventually[T client.Object](t *testing.T, o T, namespace, name, what string, want func(T) bool) T {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := api.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, o)
		if err == nil && want(o) {
			return o
		}
		if err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		select {
		case <-deadline:
			t.Fatalf("%T %s/%s: not %s in time: %+v", o, namespace, name, what, o)
		case <-tick.C:
		}
	}
}

// eventuallyGone waits until an object is no more.
func eventuallyGone(t *testing.T, o client.Object, namespace, name string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := api.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: name}, o)
		if apierrors.IsNotFound(err) {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("%T %s/%s: still there: %+v, %v", o, namespace, name, o, err)
		case <-tick.C:
		}
	}
}
