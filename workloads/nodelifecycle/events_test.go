package nodelifecycle

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// told empties a recorder.
func told(recorder *record.FakeRecorder) []string {
	var all []string
	for len(recorder.Events) > 0 {
		all = append(all, <-recorder.Events)
	}
	return all
}

func TestNodesAreTold(t *testing.T) {
	ready, silent, bad := node(corev1.ConditionTrue), node(corev1.ConditionUnknown), node(corev1.ConditionFalse)
	tests := map[string]struct {
		happens func(handler.EventHandler, queue)
		want    []string
	}{
		"a node that comes": {
			happens: func(h handler.EventHandler, q queue) { h.Create(t.Context(), event.CreateEvent{Object: ready}, q) },
			want:    []string{"Normal RegisteredNode Node n event: Registered Node n in Controller"},
		},
		"a node that goes": {
			happens: func(h handler.EventHandler, q queue) { h.Delete(t.Context(), event.DeleteEvent{Object: ready}, q) },
			want:    []string{"Normal RemovingNode Node n event: Removing Node n from Controller"},
		},
		"a node that falls silent": {
			happens: func(h handler.EventHandler, q queue) {
				h.Update(t.Context(), event.UpdateEvent{ObjectOld: ready, ObjectNew: silent}, q)
			},
			want: []string{"Normal NodeNotReady Node n status is now: NodeNotReady"},
		},
		"a node that says it is not ready": {
			happens: func(h handler.EventHandler, q queue) {
				h.Update(t.Context(), event.UpdateEvent{ObjectOld: ready, ObjectNew: bad}, q)
			},
			want: []string{"Normal NodeNotReady Node n status is now: NodeNotReady"},
		},
		"a node that is lost from bad to worse was told before": {
			happens: func(h handler.EventHandler, q queue) {
				h.Update(t.Context(), event.UpdateEvent{ObjectOld: bad, ObjectNew: silent}, q)
			},
		},
		"a node that is well again tells itself": {
			happens: func(h handler.EventHandler, q queue) {
				h.Update(t.Context(), event.UpdateEvent{ObjectOld: silent, ObjectNew: ready}, q)
			},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			clock, recorder := testclock.NewFakePassiveClock(now), record.NewFakeRecorder(10)
			q := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
			defer q.ShutDown()
			tc.happens(New(fake.NewClientBuilder().Build(), recorder, clock, clock).followHealth(), q)
			if diff := cmp.Diff(tc.want, told(recorder)); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAPodThatIsSparedIsTold(t *testing.T) {
	added := metav1.NewTime(now)
	tainted := node(corev1.ConditionUnknown, corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute, TimeAdded: &added})
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u"}, Spec: corev1.PodSpec{
		NodeName: "n", Tolerations: []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, TolerationSeconds: ptr.To[int64](300)}},
	}}
	c, recorder := fake.NewClientBuilder().WithObjects(tainted, pod).Build(), record.NewFakeRecorder(10)
	r := &Evictor{client: c, events: recorder, clock: testclock.NewFakePassiveClock(now)}
	pass := func(again time.Duration, want ...string) {
		t.Helper()
		result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(pod)})
		if err != nil || result.RequeueAfter != again {
			t.Errorf("Reconcile() = %v, %v, want %v", result.RequeueAfter, err, again)
		}
		if diff := cmp.Diff(want, told(recorder)); diff != "" {
			t.Errorf("events (-want +got):\n%s", diff)
		}
	}
	pass(5 * time.Minute)
	pass(5 * time.Minute)
	tainted.Spec.Taints = nil
	if err := c.Update(t.Context(), tainted); err != nil {
		t.Fatal(err)
	}
	pass(0, "Normal TaintManagerEviction Cancelling deletion of Pod shop/web")
	pass(0)
}
