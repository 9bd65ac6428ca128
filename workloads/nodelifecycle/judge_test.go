package nodelifecycle

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"knarr.dev/knarr/workloads/indexes"
	"knarr.dev/knarr/workloads/podcontrol"
	"knarr.dev/knarr/workloads/steady/steadytest"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func node(ready corev1.ConditionStatus, taints ...corev1.Taint) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Spec: corev1.NodeSpec{Taints: taints}}
	if ready != "" {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}}
	}
	return n
}

func TestJudgeConditions(t *testing.T) {
	tests := map[string]struct {
		node  *corev1.Node
		heard time.Duration // ago
		want  map[corev1.NodeConditionType]string
		again time.Duration
	}{
		"a node heard of lately is left alone until it could fall silent": {node: node(corev1.ConditionTrue), heard: 10 * time.Second, again: 30 * time.Second},
		"a silent node is unknown in all it said": {
			node: node(corev1.ConditionTrue), heard: 41 * time.Second,
			want: map[corev1.NodeConditionType]string{
				"Ready": "NodeStatusUnknown", "MemoryPressure": "NodeStatusNeverUpdated", "DiskPressure": "NodeStatusNeverUpdated", "PIDPressure": "NodeStatusNeverUpdated",
			},
		},
		"a node that has not spoken yet is given time to start": {node: node(""), heard: 50 * time.Second, again: 10 * time.Second},
		"a node that never spoke": {
			node: node(""), heard: time.Minute,
			want: map[corev1.NodeConditionType]string{
				"Ready": "NodeStatusNeverUpdated", "MemoryPressure": "NodeStatusNeverUpdated", "DiskPressure": "NodeStatusNeverUpdated", "PIDPressure": "NodeStatusNeverUpdated",
			},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			before := tc.node.DeepCopy()
			next, again := judgeConditions(tc.node, tc.heard, now)
			var got map[corev1.NodeConditionType]string
			for _, c := range next {
				if got == nil {
					got = map[corev1.NodeConditionType]string{}
				}
				if got[c.Type] = c.Reason; c.Status != corev1.ConditionUnknown {
					t.Errorf("%s is %s, want Unknown", c.Type, c.Status)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" || again != tc.again {
				t.Errorf("again in %v, want %v; reasons (-want +got):\n%s", again, tc.again, diff)
			}
			if diff := cmp.Diff(before, tc.node); diff != "" {
				t.Errorf("judgeConditions() changed a cached object:\n%s", diff)
			}
			if next != nil {
				tc.node.Status.Conditions = next
				if more, _ := judgeConditions(tc.node, tc.heard, now); more != nil {
					t.Error("a second pass changes the conditions again")
				}
			}
		})
	}
}

func TestJudgeTaints(t *testing.T) {
	added := metav1.NewTime(now.Add(-time.Minute))
	drives := corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute, TimeAdded: &added}
	refuses := corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoSchedule}
	tests := map[string]struct {
		node  *corev1.Node
		evict bool
		want  []string // nil: as they are
	}{
		"a ready node without taints":                   {node: node(corev1.ConditionTrue), evict: true},
		"a ready node loses its taints":                 {node: node(corev1.ConditionTrue, refuses, drives), evict: true, want: []string{}},
		"a ready node keeps what others set":            {node: node(corev1.ConditionTrue, corev1.Taint{Key: "own", Effect: "NoSchedule"}), evict: true},
		"a node that says no refuses pods and drives":   {node: node(corev1.ConditionFalse), evict: true, want: []string{"node.kubernetes.io/not-ready:NoExecute", "node.kubernetes.io/not-ready:NoSchedule"}},
		"a silent node refuses pods and drives them":    {node: node(corev1.ConditionUnknown), evict: true, want: []string{"node.kubernetes.io/unreachable:NoExecute", "node.kubernetes.io/unreachable:NoSchedule"}},
		"without a healthy node nobody is driven":       {node: node(corev1.ConditionUnknown, refuses, drives), want: []string{"node.kubernetes.io/unreachable:NoSchedule"}},
		"a taint that stays keeps its time":             {node: node(corev1.ConditionUnknown, refuses, drives), evict: true},
		"a node that said nothing yet only refuses":     {node: node("", corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: "NoSchedule"})},
		"a cordoned node":                               {node: cordoned(), evict: true, want: []string{"node.kubernetes.io/unschedulable:NoSchedule"}},
		"not ready turns unreachable when silence sets": {node: node(corev1.ConditionUnknown, corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: "NoSchedule"}), want: []string{"node.kubernetes.io/unreachable:NoSchedule"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, taint := range judgeTaints(tc.node, tc.evict, now) {
				got = append(got, taint.Key+":"+string(taint.Effect))
			}
			if judged := judgeTaints(tc.node, tc.evict, now); judged != nil && got == nil {
				got = []string{}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("taints (-want +got):\n%s", diff)
			}
		})
	}
}

func cordoned() *corev1.Node {
	n := node(corev1.ConditionTrue)
	n.Spec.Unschedulable = true
	return n
}

func TestJudgeEviction(t *testing.T) {
	added := metav1.NewTime(now.Add(-time.Minute))
	unreachable := []corev1.Taint{{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute, TimeAdded: &added}}
	tolerates := func(seconds *int64) corev1.PodSpec {
		return corev1.PodSpec{Tolerations: []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, TolerationSeconds: seconds}}}
	}
	tests := map[string]struct {
		pod    corev1.Pod
		taints []corev1.Taint
		evict  bool
		again  time.Duration
	}{
		"no taint":                            {},
		"a taint that only refuses":           {taints: []corev1.Taint{{Key: "own", Effect: corev1.TaintEffectNoSchedule}}},
		"not tolerated":                       {taints: unreachable, evict: true},
		"tolerated for ever":                  {taints: unreachable, pod: corev1.Pod{Spec: tolerates(nil)}},
		"tolerated for a while longer":        {taints: unreachable, pod: corev1.Pod{Spec: tolerates(ptr.To[int64](300))}, again: 4 * time.Minute},
		"tolerated for long enough":           {taints: unreachable, pod: corev1.Pod{Spec: tolerates(ptr.To[int64](30))}, evict: true},
		"a pod that came later stays longer":  {taints: unreachable, pod: corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(-10 * time.Second))}, Spec: tolerates(ptr.To[int64](30))}, again: 20 * time.Second},
		"a pod that ends is left to its end":  {taints: unreachable, pod: corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &added}}},
		"a finished pod is left to its owner": {taints: unreachable, pod: corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodSucceeded}}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if evict, again := judgeEviction(&tc.pod, tc.taints, now); evict != tc.evict || again != tc.again {
				t.Errorf("judgeEviction() = %v, %v; want %v, %v", evict, again, tc.evict, tc.again)
			}
		})
	}
}

// TestASilentNodeLosesItsPods follows a node from its last word to the marking of its pods.
func TestASilentNodeLosesItsPods(t *testing.T) {
	silent, other := node(corev1.ConditionTrue), node(corev1.ConditionTrue)
	other.Name = "other"
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: corev1.PodSpec{NodeName: "n"}, Status: corev1.PodStatus{
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}},
	}}
	c := fake.NewClientBuilder().WithObjects(silent, other, pod).WithStatusSubresource(&corev1.Node{}, &corev1.Pod{}).
		WithIndex(&corev1.Pod{}, indexes.PodNode, func(o client.Object) []string { return []string{o.(*corev1.Pod).Spec.NodeName} }).Build()
	clock := testclock.NewFakePassiveClock(now)
	r := New(c, record.NewFakeRecorder(10), clock, clock)
	pass := func() ctrl.Result {
		t.Helper()
		result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Name: "n"}})
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	if got := pass(); got.RequeueAfter != grace {
		t.Fatalf("comes again in %v, want %v", got.RequeueAfter, grace)
	}
	clock.SetTime(now.Add(grace))
	pass() // conditions
	pass() // taints, pods
	var n corev1.Node
	if err := c.Get(t.Context(), client.ObjectKey{Name: "n"}, &n); err != nil {
		t.Fatal(err)
	}
	if healthy(&n) || len(n.Spec.Taints) != 2 {
		t.Errorf("conditions %v, taints %v", n.Status.Conditions, n.Spec.Taints)
	}
	var p corev1.Pod
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(pod), &p); err != nil {
		t.Fatal(err)
	}
	if podcontrol.Ready(&p) {
		t.Error("its pod is still ready")
	}
}

func TestAJumpOfTheClockEvictsNobody(t *testing.T) {
	for name, by := range steadytest.Jumps {
		t.Run(name, func(t *testing.T) {
			added := metav1.NewTime(now.Add(-time.Minute))
			tainted := node(corev1.ConditionUnknown, corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute, TimeAdded: &added})
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: corev1.PodSpec{
				NodeName: "n", Tolerations: []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, TolerationSeconds: ptr.To[int64](300)}},
			}}
			c := fake.NewClientBuilder().WithObjects(tainted, pod).Build()
			r := &Evictor{client: c, events: record.NewFakeRecorder(10), clock: steadytest.Jumped(now, by)}
			result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(pod)})
			if err != nil || result.RequeueAfter != 4*time.Minute {
				t.Errorf("Reconcile() = %v, %v", result.RequeueAfter, err)
			}
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAJumpOfTheClockSilencesNoNode(t *testing.T) {
	for name, by := range steadytest.Jumps {
		t.Run(name, func(t *testing.T) {
			well := node(corev1.ConditionTrue)
			well.Status.Conditions[0].LastHeartbeatTime = metav1.NewTime(now.Add(by)) // its own clock may be anything
			c := fake.NewClientBuilder().WithObjects(well).WithStatusSubresource(&corev1.Node{}).Build()
			clock := testclock.NewFakePassiveClock(now)
			r := New(c, record.NewFakeRecorder(10), clock, steadytest.Jumped(now, by))
			for _, want := range []time.Duration{grace, time.Second} {
				result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(well)})
				if err != nil || result.RequeueAfter != want {
					t.Errorf("Reconcile() = %v, %v; want another look in %v", result.RequeueAfter, err, want)
				}
				clock.SetTime(now.Add(grace - time.Second))
			}
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(well), well); err != nil || !healthy(well) || len(well.Spec.Taints) > 0 {
				t.Errorf("the node is %+v, taints %v, %v", well.Status.Conditions, well.Spec.Taints, err)
			}
		})
	}
}
