package disruption

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"knarr.dev/knarr/workloads/podcontrol"
	"knarr.dev/knarr/workloads/steady/steadytest"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func atLeast(v intstr.IntOrString) *policyv1.PodDisruptionBudget {
	b := budget()
	b.Spec.MinAvailable = &v
	return b
}

func atMost(v intstr.IntOrString) *policyv1.PodDisruptionBudget {
	b := budget()
	b.Spec.MaxUnavailable = &v
	return b
}

func budget() *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "pdb", Generation: 4},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
	}
}

func going(b *policyv1.PodDisruptionBudget, pod string, ago time.Duration) *policyv1.PodDisruptionBudget {
	b.Status.DisruptedPods = map[string]metav1.Time{pod: metav1.NewTime(now.Add(-ago))}
	return b
}

// web makes ready pods and pods that are not, p0 first.
func web(ready, unready int) []*corev1.Pod {
	var pods []*corev1.Pod
	for i := range ready + unready {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: fmt.Sprint("p", i), Labels: map[string]string{"app": "web"}}}
		if i < ready {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		pods = append(pods, p)
	}
	return pods
}

func ending(pods []*corev1.Pod) []*corev1.Pod {
	pods[0].DeletionTimestamp = ptr.To(metav1.NewTime(now))
	return pods
}

func TestJudge(t *testing.T) {
	tests := map[string]struct {
		budget                    *policyv1.PodDisruptionBudget
		pods                      []*corev1.Pod
		expected                  int32
		desired, healthy, allowed int32
		going                     int
		unconfirmed               int
		again                     time.Duration
	}{
		"one more than needed":                            {budget: atLeast(intstr.FromInt32(2)), pods: web(3, 0), expected: 3, desired: 2, healthy: 3, allowed: 1},
		"just as many as needed":                          {budget: atLeast(intstr.FromInt32(2)), pods: web(2, 1), expected: 3, desired: 2, healthy: 2},
		"fewer than needed":                               {budget: atLeast(intstr.FromInt32(2)), pods: web(1, 2), expected: 3, desired: 2, healthy: 1},
		"a share is rounded up":                           {budget: atLeast(intstr.FromString("50%")), pods: web(3, 0), expected: 3, desired: 2, healthy: 3, allowed: 1},
		"one may be missing":                              {budget: atMost(intstr.FromInt32(1)), pods: web(3, 0), expected: 3, desired: 2, healthy: 3, allowed: 1},
		"one is missing already":                          {budget: atMost(intstr.FromInt32(1)), pods: web(2, 0), expected: 3, desired: 2, healthy: 2},
		"a share that may be missing is rounded up":       {budget: atMost(intstr.FromString("34%")), pods: web(3, 0), expected: 3, desired: 1, healthy: 3, allowed: 2},
		"more may be missing than there are":              {budget: atMost(intstr.FromInt32(5)), pods: web(1, 0), expected: 1, healthy: 1, allowed: 1},
		"nothing is expected":                             {budget: atMost(intstr.FromInt32(1))},
		"neither bound needs none":                        {budget: budget(), pods: web(1, 0), expected: 1, healthy: 1, allowed: 1},
		"a pod that ends is not healthy":                  {budget: atLeast(intstr.FromInt32(1)), pods: ending(web(2, 0)), expected: 2, desired: 1, healthy: 1},
		"an allowed eviction counts before it is seen":    {budget: going(atLeast(intstr.FromInt32(1)), "p0", 30*time.Second), pods: web(2, 0), expected: 2, desired: 1, healthy: 1, going: 1, again: 90 * time.Second},
		"it is forgotten when the pod goes":               {budget: going(atLeast(intstr.FromInt32(1)), "p0", 30*time.Second), pods: ending(web(2, 0)), expected: 2, desired: 1, healthy: 1},
		"it is forgotten when the pod is gone":            {budget: going(atLeast(intstr.FromInt32(1)), "x", 30*time.Second), pods: web(2, 0), expected: 2, desired: 1, healthy: 2, allowed: 1},
		"an eviction that never came is taken for undone": {budget: going(atLeast(intstr.FromInt32(1)), "p0", 3*time.Minute), pods: web(2, 0), expected: 2, desired: 1, healthy: 2, allowed: 1, unconfirmed: 1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			before := tc.budget.DeepCopy()
			got, unconfirmed, again, err := judge(tc.budget, tc.pods, tc.expected, now)
			if err != nil {
				t.Fatal(err)
			}
			if got.DesiredHealthy != tc.desired || got.CurrentHealthy != tc.healthy || got.DisruptionsAllowed != tc.allowed || got.ExpectedPods != tc.expected {
				t.Errorf("desired %d, healthy %d, allowed %d; want %d, %d, %d", got.DesiredHealthy, got.CurrentHealthy, got.DisruptionsAllowed, tc.desired, tc.healthy, tc.allowed)
			}
			if len(got.DisruptedPods) != tc.going || len(unconfirmed) != tc.unconfirmed || again != tc.again {
				t.Errorf("going %v, unconfirmed %d, again in %v; want %d, %d, %v", got.DisruptedPods, len(unconfirmed), again, tc.going, tc.unconfirmed, tc.again)
			}
			if allowed := meta.IsStatusConditionTrue(got.Conditions, policyv1.DisruptionAllowedCondition); allowed != (tc.allowed > 0) || got.ObservedGeneration != 4 {
				t.Errorf("conditions %v, generation %d", got.Conditions, got.ObservedGeneration)
			}
			if diff := cmp.Diff(before, tc.budget); diff != "" {
				t.Errorf("judge() changed a cached object (-before +after):\n%s", diff)
			}
		})
	}
}

// played is a world in which every owner wants as many pods, or nobody can say.
type played struct {
	replicas int32
	err      error
}

func (p played) of(_ context.Context, o owner) (scale, bool, error) {
	return scale{o.UID, p.replicas}, true, p.err
}

func TestReconcile(t *testing.T) {
	tests := map[string]struct {
		budget           *policyv1.PodDisruptionBudget
		owners           played
		unmanaged        bool
		expected, allows int32
		reason           string
		event            string
		fails            bool
	}{
		"owners say how many there should be": {budget: atMost(intstr.FromInt32(2)), owners: played{replicas: 4}, expected: 4, allows: 1, reason: policyv1.SufficientPodsReason},
		"a number needs no owners":            {budget: atLeast(intstr.FromInt32(1)), unmanaged: true, expected: 3, allows: 2, reason: policyv1.SufficientPodsReason},
		"pods without an owner are no share":  {budget: atMost(intstr.FromInt32(1)), unmanaged: true, reason: policyv1.InsufficientPodsReason, event: "UnmanagedPods"},
		"nobody can say": {
			budget: atMost(intstr.FromInt32(1)), owners: played{err: errors.New("no scale")}, reason: policyv1.SyncFailedReason, event: "CalculateExpectedPodCountFailed", fails: true,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			builder := fake.NewClientBuilder().WithObjects(tc.budget).WithStatusSubresource(tc.budget)
			for _, p := range web(3, 0) {
				if !tc.unmanaged {
					p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web", UID: "rs", Controller: ptr.To(true)}}
				}
				builder.WithObjects(p)
			}
			events := record.NewFakeRecorder(10)
			r := &Reconciler{client: builder.Build(), scales: tc.owners, events: events, clock: testclock.NewFakePassiveClock(now)}
			for range 2 {
				if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(tc.budget)}); (err != nil) != tc.fails {
					t.Fatalf("Reconcile() = %v", err)
				}
			}
			var got policyv1.PodDisruptionBudget
			if err := r.client.Get(t.Context(), client.ObjectKeyFromObject(tc.budget), &got); err != nil {
				t.Fatal(err)
			}
			c := meta.FindStatusCondition(got.Status.Conditions, policyv1.DisruptionAllowedCondition)
			if got.Status.ExpectedPods != tc.expected || got.Status.DisruptionsAllowed != tc.allows || c == nil || c.Reason != tc.reason {
				t.Errorf("status %+v", got.Status)
			}
			close(events.Events)
			told := ""
			for e := range events.Events {
				told += e + "\n"
			}
			if tc.event == "" && told != "" || !strings.Contains(told, tc.event) {
				t.Errorf("events %q, want %q", told, tc.event)
			}
		})
	}
}

func TestScaleFollowsOwners(t *testing.T) {
	d := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "d"}, Spec: appsv1.DeploymentSpec{Replicas: ptr.To[int32](7)}}
	set := func(name types.UID, above bool) *appsv1.ReplicaSet {
		s := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: string(name), UID: name}, Spec: appsv1.ReplicaSetSpec{Replicas: ptr.To[int32](2)}}
		if above {
			s.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))}
		}
		return s
	}
	s := &scales{cache: fake.NewClientBuilder().WithObjects(d, set("free", false), set("owned", true)).Build()}
	tests := map[string]struct {
		owner metav1.OwnerReference
		want  scale
		found bool
	}{
		"a replica set of a deployment": {owner: metav1.OwnerReference{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "owned", UID: "owned"}, want: scale{"d", 7}, found: true},
		"a replica set of nobody":       {owner: metav1.OwnerReference{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "free", UID: "free"}, want: scale{"free", 2}, found: true},
		"one that is gone":              {owner: metav1.OwnerReference{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "gone", UID: "gone"}},
		"another of the same name":      {owner: metav1.OwnerReference{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "free", UID: "before"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, found, err := s.of(t.Context(), owner{tc.owner, "shop"})
			if err != nil || found != tc.found || (found && got != tc.want) {
				t.Errorf("of() = %v, %v, %v; want %v, %v", got, found, err, tc.want, tc.found)
			}
		})
	}
}

func TestADisruptionThatNeverCameIsTakenBack(t *testing.T) {
	tests := map[string]struct {
		since time.Duration
		want  corev1.ConditionStatus
		again time.Duration
	}{
		"it may still come": {since: time.Minute, want: corev1.ConditionTrue, again: time.Minute},
		"it never came":     {since: 3 * time.Minute, want: corev1.ConditionFalse},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := web(1, 0)[0]
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-tc.since)),
			})
			c := fake.NewClientBuilder().WithObjects(p).WithStatusSubresource(p).Build()
			s := &stale{client: c, clock: testclock.NewFakePassiveClock(now)}
			result, err := s.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(p)})
			if err != nil || result.RequeueAfter != tc.again {
				t.Errorf("Reconcile() = %v, %v; want %v", result.RequeueAfter, err, tc.again)
			}
			var got corev1.Pod
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(p), &got); err != nil {
				t.Fatal(err)
			}
			if c := podcontrol.Condition(&got, corev1.DisruptionTarget); c == nil || c.Status != tc.want || !podcontrol.Ready(&got) {
				t.Errorf("conditions %v", got.Status.Conditions)
			}
		})
	}
}

func TestAJumpOfTheClockTakesNoDisruptionBack(t *testing.T) {
	for name, by := range steadytest.Jumps {
		t.Run(name, func(t *testing.T) {
			clock := steadytest.Jumped(now, by)
			b := going(atLeast(intstr.FromInt32(1)), "p0", time.Minute)
			status, unconfirmed, again, err := judge(b, web(3, 0), 3, clock.Now())
			if err != nil || len(unconfirmed) != 0 || again != time.Minute || len(status.DisruptedPods) != 1 {
				t.Errorf("judge() = %+v, %v, %v, %v; want the eviction still expected", status, unconfirmed, again, err)
			}
			p := web(1, 0)[0]
			p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
				Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Minute)),
			})
			s := &stale{client: fake.NewClientBuilder().WithObjects(p).WithStatusSubresource(p).Build(), clock: clock}
			result, err := s.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(p)})
			if err != nil || result.RequeueAfter != time.Minute {
				t.Errorf("Reconcile() = %v, %v; want to come back in a minute", result.RequeueAfter, err)
			}
		})
	}
}
