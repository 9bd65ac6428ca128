package podgc

import (
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"knarr.dev/knarr/workloads/steady/steadytest"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func pod(name, node string, ending bool, phase corev1.PodPhase) corev1.Pod {
	p := corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase}}
	if ending {
		p.DeletionTimestamp = ptr.To(metav1.NewTime(now))
		p.Finalizers = []string{"test/keep"} // the in-memory API takes ending objects with finalizers only
	}
	return p
}

func TestJudge(t *testing.T) {
	shut := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "shut"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: corev1.TaintNodeOutOfService}}}}
	ready := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "ready"}, Spec: shut.Spec, Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
	}}
	tests := map[string]struct {
		pod  corev1.Pod
		gone time.Duration // its node is, since
		want []why
	}{
		"a pod on its node":                                  {pod: pod("p", "ready", false, corev1.PodRunning)},
		"a pod whose node just went":                         {pod: pod("p", "gone", false, corev1.PodRunning), gone: 10 * time.Second},
		"a pod whose node is gone":                           {pod: pod("p", "gone", false, corev1.PodRunning), gone: quarantine, want: []why{orphaned}},
		"an ending pod on a node that is out of service":     {pod: pod("p", "shut", true, corev1.PodRunning), want: []why{outOfService}},
		"a pod that stays on a node that is out of service":  {pod: pod("p", "shut", false, corev1.PodRunning)},
		"an ending pod on a ready node, whatever its taints": {pod: pod("p", "ready", true, corev1.PodRunning)},
		"an ending pod that never had a node":                {pod: pod("p", "", true, corev1.PodPending), want: []why{unplaced}},
		"a finished pod among few":                           {pod: pod("p", "ready", false, corev1.PodSucceeded)},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			missing := map[string]time.Time{}
			if tc.gone > 0 {
				missing["gone"] = now.Add(-tc.gone)
			}
			var got []why
			for _, f := range judge([]corev1.Pod{tc.pod}, []corev1.Node{shut, ready}, missing, now) {
				got = append(got, f.why)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("findings (-want +got):\n%s", diff)
			}
		})
	}
}

func TestJudgeDropsTheOldestFinishedPods(t *testing.T) {
	var pods []corev1.Pod
	for i := range finishedLimit + 2 {
		p := pod(fmt.Sprint(i), "n", false, corev1.PodSucceeded)
		p.CreationTimestamp = metav1.NewTime(now.Add(-time.Duration(i) * time.Second))
		pods = append(pods, p)
	}
	found := judge(pods, nil, map[string]time.Time{}, now)
	if len(found) != 2 || found[0].pod.Name != fmt.Sprint(finishedLimit+1) || found[0].why != surplus {
		t.Errorf("%d findings, first %v; want the two oldest", len(found), found[0])
	}
	pods[7].Status.Phase, pods[7].Status.Reason = corev1.PodFailed, "Evicted"
	found = judge(pods, nil, map[string]time.Time{}, now)
	if len(found) != 2 || found[0].pod.Name != "7" || found[1].pod.Name != fmt.Sprint(finishedLimit+1) {
		t.Errorf("%d findings, first %s, then %s; want the evicted one and the oldest", len(found), found[0].pod.Name, found[1].pod.Name)
	}
}

func TestSweepWaitsAndAsksBeforeItDeletes(t *testing.T) {
	orphan := pod("orphan", "gone", false, corev1.PodRunning)
	late := pod("late", "late", false, corev1.PodRunning)
	cached := fake.NewClientBuilder().WithObjects(&orphan, &late).WithStatusSubresource(&corev1.Pod{}).Build()
	live := fake.NewClientBuilder().WithObjects(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "late"}}).Build() // the cache is behind
	clock := testclock.NewFakeClock(now)
	s := &Sweeper{client: cached, live: live, clock: clock, steady: clock, log: slog.New(slog.DiscardHandler)}
	left := func() int {
		if err := s.sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		var pods corev1.PodList
		if err := cached.List(t.Context(), &pods); err != nil {
			t.Fatal(err)
		}
		return len(pods.Items)
	}
	if got := left(); got != 2 {
		t.Fatalf("%d pods after the first sweep, want both", got)
	}
	clock.Step(quarantine)
	if got := left(); got != 1 {
		t.Errorf("%d pods after the quarantine, want the one whose node the API server knows", got)
	}
}

func TestAJumpOfTheClockMakesNoOrphan(t *testing.T) {
	for name, by := range steadytest.Jumps {
		t.Run(name, func(t *testing.T) {
			orphan := pod("orphan", "gone", false, corev1.PodRunning)
			c, clock := fake.NewClientBuilder().WithObjects(&orphan).WithStatusSubresource(&corev1.Pod{}).Build(), testclock.NewFakeClock(now)
			s := &Sweeper{client: c, live: c, clock: clock, steady: steadytest.Jumped(now, by), log: slog.New(slog.DiscardHandler)}
			for range 2 {
				if err := s.sweep(t.Context()); err != nil {
					t.Fatal(err)
				}
				if err := c.Get(t.Context(), client.ObjectKeyFromObject(&orphan), &orphan); err != nil {
					t.Errorf("%v after its node was missing: %v", clock.Since(now), err)
				}
				clock.Step(quarantine - time.Second)
			}
		})
	}
}
