package nodelifecycle

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	testclock "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"knarr.dev/knarr/workloads/indexes"
)

func TestZoneStates(t *testing.T) {
	tests := map[string]struct {
		zone  zone
		state state
		every time.Duration
	}{
		"all is well":                           {zone{nodes: 10}, normal, evictEvery},
		"one of two is lost":                    {zone{nodes: 2, lost: 1}, normal, evictEvery},
		"two of three are too few to tell":      {zone{nodes: 3, lost: 2}, normal, evictEvery},
		"half of ten are lost":                  {zone{nodes: 10, lost: 5}, normal, evictEvery},
		"more than half of a small zone":        {zone{nodes: 10, lost: 6}, partial, 0},
		"more than half of the largest small":   {zone{nodes: 50, lost: 30}, partial, 0},
		"more than half of a large zone":        {zone{nodes: 51, lost: 30}, partial, evictEverySeldom},
		"a zone of one, lost":                   {zone{nodes: 1, lost: 1}, full, evictEvery},
		"a large zone, lost while others stand": {zone{nodes: 100, lost: 100}, full, evictEvery},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if s, every := tc.zone.state(), tc.zone.every(); s != tc.state || every != tc.every {
				t.Errorf("state %s, a node every %v; want %s, %v", s, every, tc.state, tc.every)
			}
		})
	}
}

func TestJudgeDrive(t *testing.T) {
	const never = 365 * 24 * time.Hour
	other := zone{nodes: 3}
	tests := map[string]struct {
		zones  map[string]zone
		taints []corev1.Taint
		last   time.Duration
		evict  bool
		again  time.Duration
	}{
		"the first of a zone goes at once":               {zones: map[string]zone{"": {nodes: 3, lost: 1}}, last: never, evict: true},
		"the next waits its turn":                        {zones: map[string]zone{"": {nodes: 9, lost: 2}}, last: 4 * time.Second, again: 6 * time.Second},
		"and has it":                                     {zones: map[string]zone{"": {nodes: 9, lost: 2}}, last: 10 * time.Second, evict: true},
		"none from a disrupted zone":                     {zones: map[string]zone{"": {nodes: 9, lost: 6}}, last: never},
		"seldom from a large one":                        {zones: map[string]zone{"": {nodes: 90, lost: 60}}, last: 10 * time.Second, again: 90 * time.Second},
		"none when all zones are lost":                   {zones: map[string]zone{"": {nodes: 3, lost: 3}}, last: never},
		"nor then from one that was driven":              {zones: map[string]zone{"": {nodes: 3, lost: 3}}, taints: []corev1.Taint{{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}}, last: never},
		"all from a zone that is lost, others not":       {zones: map[string]zone{"": {nodes: 3, lost: 3}, "b": other}, last: never, evict: true},
		"one that is driven stays so in a disrupted one": {zones: map[string]zone{"": {nodes: 9, lost: 6}}, taints: []corev1.Taint{{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute}}, last: 0, evict: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if evict, again := judgeDrive(node(corev1.ConditionUnknown, tc.taints...), tc.zones, tc.last); evict != tc.evict || again != tc.again {
				t.Errorf("judgeDrive() = %v, %v; want %v, %v", evict, again, tc.evict, tc.again)
			}
		})
	}
}

// TestNodesAreDrivenOneByOne follows four silent nodes of ten through the rate of their zone.
func TestNodesAreDrivenOneByOne(t *testing.T) {
	b := fake.NewClientBuilder().WithStatusSubresource(&corev1.Node{}).
		WithIndex(&corev1.Pod{}, indexes.PodNode, func(o client.Object) []string { return []string{o.(*corev1.Pod).Spec.NodeName} })
	for i := range 10 {
		ready := corev1.ConditionTrue
		if i < 4 {
			ready = corev1.ConditionUnknown
		}
		n := node(ready)
		n.Name = fmt.Sprint(i)
		b.WithObjects(n)
	}
	c, clock := b.Build(), testclock.NewFakePassiveClock(now)
	r := New(c, record.NewFakeRecorder(10), clock, clock)
	driven := func() (count int) {
		t.Helper()
		for range 2 { // a second pass changes nothing
			for i := range 4 {
				if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Name: fmt.Sprint(i)}}); err != nil {
					t.Fatal(err)
				}
			}
		}
		var all corev1.NodeList
		if err := c.List(t.Context(), &all); err != nil {
			t.Fatal(err)
		}
		for i := range all.Items {
			if drives(&all.Items[i]) {
				count++
			}
		}
		return count
	}
	for want := 1; want <= 4; want++ {
		if got := driven(); got != want {
			t.Errorf("after %v pods are driven from %d nodes, want %d", clock.Now().Sub(now), got, want)
		}
		clock.SetTime(clock.Now().Add(evictEvery))
	}
}

func TestANodeThatNeverWasReadyLosesNothing(t *testing.T) {
	c := fake.NewClientBuilder().WithObjects(node("")).WithStatusSubresource(&corev1.Node{}).
		WithIndex(&corev1.Pod{}, indexes.PodNode, func(o client.Object) []string { return []string{o.(*corev1.Pod).Spec.NodeName} }).Build()
	clock, recorder := testclock.NewFakePassiveClock(now), record.NewFakeRecorder(10)
	r := New(c, recorder, clock, clock)
	for range 2 {
		if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Name: "n"}}); err != nil {
			t.Fatal(err)
		}
		clock.SetTime(clock.Now().Add(startGrace))
	}
	var n corev1.Node
	if err := c.Get(t.Context(), client.ObjectKey{Name: "n"}, &n); err != nil {
		t.Fatal(err)
	}
	if condition(&n, corev1.NodeReady) != corev1.ConditionUnknown || len(recorder.Events) != 0 {
		t.Errorf("ready is %q, %d events", condition(&n, corev1.NodeReady), len(recorder.Events))
	}
}
