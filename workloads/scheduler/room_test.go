package scheduler

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var errNotToday = errors.New("not today")

// lingering keeps a deleted pod until release.
func lingering(p *corev1.Pod) { p.Finalizers = []string{"shop.example/wait"} }

func (c *cluster) release(name string) {
	c.t.Helper()
	var pod corev1.Pod
	if err := c.client.Get(c.t.Context(), client.ObjectKey{Namespace: "shop", Name: name}, &pod); err != nil {
		c.t.Fatal(err)
	}
	pod.Finalizers = nil
	if err := c.client.Update(c.t.Context(), &pod); err != nil {
		c.t.Fatal(err)
	}
}

func conditionOf(p *corev1.Pod, of corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == of {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

func waitsFor(node string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool { return p.Status.NominatedNodeName == node }
}

func leaves(p *corev1.Pod) bool { return p.DeletionTimestamp != nil }

func TestSchedulerSendsALessImportantPodAway(t *testing.T) {
	c := start(t, node("a", "1"), like("low", "1", placed("a"), lingering))
	if err := c.client.Create(t.Context(), like("high", "1", priority(10))); err != nil {
		t.Fatal(err)
	}
	low := c.await("low", leaves)
	condition := conditionOf(low, corev1.DisruptionTarget)
	if condition == nil || condition.Status != corev1.ConditionTrue || condition.Reason != "PreemptionByScheduler" ||
		condition.Message != "default-scheduler: preempting to accommodate a higher priority pod" {
		t.Errorf("the victim's condition is %v", condition)
	}
	high := c.await("high", waitsFor("a"))
	if condition := conditionOf(high, corev1.PodScheduled); condition == nil || condition.Message != "0/1 nodes are available: 1 Insufficient cpu." {
		t.Errorf("the preemptor's condition is %v", condition)
	}
	if got, want := <-c.events.Events, "Warning FailedScheduling 0/1 nodes are available: 1 Insufficient cpu."; got != want {
		t.Errorf("event %q, want %q", got, want)
	}
	if got, want := <-c.events.Events, "Normal Preempted Preempted by pod high on node a"; got != want {
		t.Errorf("event %q, want %q", got, want)
	}
	if err := c.client.Create(t.Context(), like("late", "1")); err != nil {
		t.Fatal(err)
	}
	c.await("late", refusedFor("Insufficient cpu"))
	c.release("low")
	c.await("high", on("a"))
}

func TestSchedulerSaysWhyNobodyIsSentAway(t *testing.T) {
	c := start(t, node("a", "1"), like("there", "1", placed("a")), like("equal", "1"), like("polite", "1", priority(10), never))
	c.await("equal", refusedFor("0/1 nodes are available: 1 Insufficient cpu. "+
		"preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."))
	c.await("polite", refusedFor("0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."))
	if there := c.await("there", on("a")); there.DeletionTimestamp != nil {
		t.Error("a pod was sent away for nothing")
	}
}

func TestSchedulerLetsAMoreImportantPodPassOneThatWaits(t *testing.T) {
	c := start(t, node("a", "1"), like("low", "1", placed("a"), lingering), like("middle", "1", priority(5)))
	c.await("middle", waitsFor("a"))
	if err := c.client.Create(t.Context(), like("high", "1", priority(10))); err != nil {
		t.Fatal(err)
	}
	c.await("high", waitsFor("a"))
	c.await("middle", waitsFor(""))
	c.release("low")
	c.await("high", on("a"))
}

func TestSchedulerKnowsAfterARestartWhoWaitsWhere(t *testing.T) {
	c := start(t, node("a", "1"), like("low", "1", placed("a"), lingering), like("high", "1", priority(10), nominatedFor("a")))
	c.await("low", leaves)
	if err := c.client.Create(t.Context(), like("late", "1", priority(5))); err != nil {
		t.Fatal(err)
	}
	c.await("late", refusedFor("Insufficient cpu"))
	c.release("low")
	c.await("high", on("a"))
}

func TestSchedulerKeepsRoomOnANodeThatIsToCome(t *testing.T) {
	c := start(t, node("a", "1"), like("there", "1", placed("a")), like("told", "1", nominatedFor("b")), like("other", "1"))
	c.await("other", refusedFor("Insufficient cpu"))
	if told := c.await("told", refusedFor("Insufficient cpu")); told.Status.NominatedNodeName != "b" {
		t.Errorf("the pod is meant for %q after a failed attempt", told.Status.NominatedNodeName)
	}
	if err := c.client.Create(t.Context(), node("b", "1")); err != nil {
		t.Fatal(err)
	}
	c.await("told", on("b"))
	if other := c.await("other", refusedFor("0/2 nodes are available: 2 Insufficient cpu")); other.Spec.NodeName != "" {
		t.Errorf("another pod went to %s", other.Spec.NodeName)
	}
}

func TestSchedulerTriesAFailedDeletionAgain(t *testing.T) {
	c := start(t, node("a", "1"), like("low", "1", placed("a")))
	c.refuseDelete.Store(2)
	if err := c.client.Create(t.Context(), like("high", "1", priority(10))); err != nil {
		t.Fatal(err)
	}
	c.await("high", on("a"))
	var low corev1.Pod
	if err := c.client.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "low"}, &low); !apierrors.IsNotFound(err) {
		t.Errorf("the victim is still there (%v)", err)
	}
}
