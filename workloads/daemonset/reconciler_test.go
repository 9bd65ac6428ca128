package daemonset

import (
	"context"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	testclock "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/workloads/indexes"
	"knarr.dev/knarr/workloads/steady/steadytest"
)

var request = ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "agent"}}

func reconciler(funcs interceptor.Funcs, objects ...client.Object) (*Reconciler, *testclock.FakeClock) {
	c := fake.NewClientBuilder().WithObjects(objects...).WithStatusSubresource(&appsv1.DaemonSet{}, &corev1.Pod{}).WithInterceptorFuncs(funcs).
		WithIndex(&corev1.Pod{}, indexes.PodController, func(o client.Object) []string {
			if owner := metav1.GetControllerOf(o); owner != nil {
				return []string{string(owner.UID)}
			}
			return []string{""}
		}).Build()
	clock := testclock.NewFakeClock(now)
	return newReconciler(c, c, record.NewFakeRecorder(100), clock, clock), clock
}

// pass reconciles as if the cache had shown everything, and returns the pods there are then.
func (r *Reconciler) pass(t *testing.T) ([]corev1.Pod, time.Duration) {
	t.Helper()
	r.pods.Expected.Forget("ds")
	result, err := reconcile.AsReconciler(r.client, r).Reconcile(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	var list corev1.PodList
	if err := r.client.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	return list.Items, result.RequeueAfter
}

func TestReconcileMakesAPodForEachNode(t *testing.T) {
	r, _ := reconciler(interceptor.Funcs{}, agent(), nodes("a b")[0], nodes("a b")[1])
	r.pass(t)
	pods, _ := r.pass(t)
	if len(pods) != 2 || nodeOf(&pods[0]) == nodeOf(&pods[1]) {
		t.Fatalf("%d pods, want one for each of 2 nodes", len(pods))
	}
	var revisions appsv1.ControllerRevisionList
	if err := r.client.List(t.Context(), &revisions); err != nil {
		t.Fatal(err)
	}
	hash := pods[0].Labels[appsv1.DefaultDaemonSetUniqueLabelKey]
	if len(revisions.Items) != 1 || revisions.Items[0].Name != "agent-"+hash || revisions.Items[0].Labels[appsv1.DefaultDaemonSetUniqueLabelKey] != hash {
		t.Errorf("revisions %v for pods of %q", revisions.Items, hash)
	}
	var ds appsv1.DaemonSet
	if err := r.client.Get(t.Context(), request.NamespacedName, &ds); err != nil {
		t.Fatal(err)
	}
	if ds.Status.DesiredNumberScheduled != 2 || ds.Status.UpdatedNumberScheduled != 2 {
		t.Errorf("status %+v", ds.Status)
	}
}

func TestReconcileDoesNotActTwiceOnAStaleCache(t *testing.T) {
	r, _ := reconciler(interceptor.Funcs{List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, options ...client.ListOption) error {
		if _, ok := list.(*corev1.PodList); ok {
			return nil // shows none yet
		}
		return c.List(ctx, list, options...)
	}}, agent(), nodes("a")[0])
	for range 3 {
		if _, err := reconcile.AsReconciler(r.client, r).Reconcile(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	if created := len(r.pods.Events.(*record.FakeRecorder).Events); created != 1 {
		t.Errorf("%d pods created, want 1", created)
	}
}

func TestReconcileReplacesFailuresEverMoreSlowly(t *testing.T) {
	r, clock := reconciler(interceptor.Funcs{}, agent(), nodes("a")[0])
	fail := func(pod corev1.Pod) {
		pod.Status.Phase = corev1.PodFailed
		if err := r.client.Status().Update(t.Context(), &pod); err != nil {
			t.Fatal(err)
		}
	}
	pods, _ := r.pass(t)
	fail(pods[0])
	if pods, _ = r.pass(t); len(pods) != 0 {
		t.Fatal("the first failure is not replaced at once")
	}
	pods, _ = r.pass(t)
	fail(pods[0])
	pods, again := r.pass(t)
	if len(pods) != 1 || again != time.Second {
		t.Fatalf("%d pods, again in %v; want the second failure to wait 1s", len(pods), again)
	}
	clock.Step(again)
	if pods, _ = r.pass(t); len(pods) != 0 {
		t.Fatal("the second failure is not replaced after its wait")
	}
	pods, _ = r.pass(t)
	fail(pods[0])
	if _, again = r.pass(t); again != 2*time.Second {
		t.Errorf("the third failure waits %v, want 2s", again)
	}
}

func TestNodesQueueWhomTheyConcern(t *testing.T) {
	r, _ := reconciler(interceptor.Funcs{}, agent(on("zone=1")))
	plain, zoned := nodes("a")[0], nodes("a")[0]
	zoned.Labels = map[string]string{"zone": "1"}
	beating := zoned.DeepCopy()
	beating.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady}}
	handler := r.followNodes()
	tests := map[string]struct {
		send func(queue)
		want int
	}{
		"a node that matches comes": {send: func(q queue) { handler.Create(t.Context(), event.CreateEvent{Object: zoned}, q) }, want: 1},
		"a node that does not":      {send: func(q queue) { handler.Create(t.Context(), event.CreateEvent{Object: plain}, q) }},
		"a node gets its label":     {send: func(q queue) { handler.Update(t.Context(), event.UpdateEvent{ObjectOld: plain, ObjectNew: zoned}, q) }, want: 1},
		"a node's heart beats":      {send: func(q queue) { handler.Update(t.Context(), event.UpdateEvent{ObjectOld: zoned, ObjectNew: beating}, q) }},
		"a node goes":               {send: func(q queue) { handler.Delete(t.Context(), event.DeleteEvent{Object: zoned}, q) }, want: 1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			q := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
			defer q.ShutDown()
			tc.send(q)
			if got := q.Len(); got != tc.want {
				t.Errorf("%d queued, want %d", got, tc.want)
			}
		})
	}
}

func TestAJumpOfTheClockRollsNothing(t *testing.T) {
	for name, by := range steadytest.Jumps {
		t.Run(name, func(t *testing.T) {
			ds := agent()
			ds.Spec.MinReadySeconds = 3600
			r, _ := reconciler(interceptor.Funcs{}, ds, nodes("a")[0], nodes("b")[0])
			r.pass(t)
			made, _ := r.pass(t)
			for i := range made { // a is new, b has been there for long
				since := now.Add(-time.Minute)
				if nodeOf(&made[i]) == "b" {
					since = now.Add(-2 * time.Hour)
					made[i].Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = "old"
				}
				if err := r.client.Update(t.Context(), &made[i]); err != nil {
					t.Fatal(err)
				}
				made[i].Status.Phase = corev1.PodRunning
				made[i].Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(since)}}
				if err := r.client.Status().Update(t.Context(), &made[i]); err != nil {
					t.Fatal(err)
				}
			}
			r.steady = steadytest.Jumped(now, by)
			r.pass(t)
			if left, _ := r.pass(t); len(left) != 2 || left[0].UID != made[0].UID || left[1].UID != made[1].UID {
				t.Errorf("an update went on to the next node before the first was available: %v", left)
			}
		})
	}
}
