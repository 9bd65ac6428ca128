package queue

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func pod(name string, priority int32) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Generation: 1}, Spec: corev1.PodSpec{Priority: ptr.To(priority)}}
}

func names(q *Queue, now time.Time) string {
	got := ""
	for e := q.Pop(now); e != nil; e = q.Pop(now) {
		got += e.Pod.Object.Name
	}
	return got
}

func TestPopTakesTheMostImportantThenTheFirst(t *testing.T) {
	q := New(0, 0)
	for _, p := range []*corev1.Pod{pod("a", 0), pod("b", 5), pod("c", 0), pod("d", 9)} {
		q.Add(p, start)
	}
	if got := names(q, start); got != "dbac" {
		t.Errorf("order %q, want dbac", got)
	}
}

func TestAParkedPodWaitsForWhatHelps(t *testing.T) {
	q := New(0, 0)
	q.Add(pod("a", 0), start)
	e := q.Pop(start)
	q.Park(e, map[string]bool{"NodePorts": true}, start)
	later := start.Add(time.Minute)
	if got := names(q, later); got != "" {
		t.Fatalf("popped %q, want nothing", got)
	}
	q.Wake(func(e *Entry) bool { return e.RefusedBy["Other"] }, later)
	if got := names(q, later); got != "" {
		t.Fatalf("popped %q, want nothing", got)
	}
	q.Wake(func(e *Entry) bool { return e.RefusedBy["NodePorts"] }, later)
	if got := names(q, later); got != "a" {
		t.Errorf("popped %q, want a", got)
	}
}

func TestAPodThatJustFailedRestsFirst(t *testing.T) {
	q := New(0, 0)
	q.Add(pod("a", 0), start)
	q.Park(q.Pop(start), nil, start)
	q.Wake(func(*Entry) bool { return true }, start)
	if got := names(q, start); got != "" {
		t.Fatalf("popped %q at once", got)
	}
	at, ok := q.Next()
	if !ok || at != start.Add(shortRest) {
		t.Errorf("Next() = %v, %v; want the end of the rest", at, ok)
	}
	if got := names(q, at); got != "a" {
		t.Errorf("popped %q, want a", got)
	}
}

func TestAPodThatGetsWhatItAwaitsDoesNotRest(t *testing.T) {
	q := New(0, 0)
	q.Add(pod("a", 0), start)
	e := q.Pop(start)
	e.Awaited = true
	q.Park(e, nil, start)
	q.Wake(func(*Entry) bool { return true }, start)
	if got := names(q, start); got != "a" {
		t.Errorf("popped %q, want a", got)
	}
}

func TestRestsGrowUpToALimit(t *testing.T) {
	for attempts, want := range map[int]time.Duration{1: 100 * time.Millisecond, 2: 200 * time.Millisecond, 5: 1600 * time.Millisecond, 50: longRest} {
		if got := New(0, 0).rest(attempts); got != want {
			t.Errorf("rest(%d) = %v, want %v", attempts, got, want)
		}
	}
}

func TestAParkedPodIsNotForgotten(t *testing.T) {
	q := New(0, 0)
	q.Add(pod("a", 0), start)
	q.Park(q.Pop(start), nil, start)
	if got := names(q, start.Add(parkLimit)); got != "a" {
		t.Errorf("popped %q, want a", got)
	}
}

func TestNewsOfAPodWakesItUnlessTheyAreOurs(t *testing.T) {
	q := New(0, 0)
	first := pod("a", 0)
	q.Add(first, start)
	q.Park(q.Pop(start), nil, start)
	condition := first.DeepCopy()
	condition.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled}}
	q.Add(condition, start)
	if got := names(q, start); got != "" {
		t.Fatalf("its condition woke %q", got)
	}
	changed := first.DeepCopy()
	changed.Labels = map[string]string{"app": "x"}
	q.Add(changed, start)
	if got := names(q, start); got != "a" {
		t.Errorf("popped %q, want a", got)
	}
}

func TestAPodThatLearnsOfItsClaimWakes(t *testing.T) {
	q := New(0, 0)
	first := pod("a", 0)
	q.Add(first, start)
	q.Park(q.Pop(start), map[string]bool{"DynamicResources": true}, start)
	made := first.DeepCopy()
	made.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "gpu", ResourceClaimName: ptr.To("a-gpu")}}
	q.Add(made, start)
	if got := names(q, start); got != "a" {
		t.Errorf("popped %q, want a", got)
	}
}

func TestARemovedPodStaysAway(t *testing.T) {
	q := New(0, 0)
	q.Add(pod("a", 0), start)
	e := q.Pop(start)
	q.Remove("a")
	q.Retry(e, start) // its binding failed after it was deleted
	q.Park(e, nil, start)
	if q.Len() != 0 {
		t.Errorf("%d pods wait, want none", q.Len())
	}
}

func TestAPopWhosePlacementIsOnTheWayIsNotTakenTwice(t *testing.T) {
	q := New(0, 0)
	first := pod("a", 0)
	q.Add(first, start)
	e := q.Pop(start)
	changed := first.DeepCopy()
	changed.Labels = map[string]string{"app": "x"}
	q.Add(changed, start)
	if got := names(q, start); got != "" {
		t.Fatalf("popped %q again", got)
	}
	q.Retry(e, start)
	if got := names(q, start.Add(time.Second)); got != "a" {
		t.Errorf("popped %q after the refusal, want a", got)
	}
}
