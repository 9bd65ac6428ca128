package replicationcontroller

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	testclock "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/workloads/indexes"
	"knarr.dev/knarr/workloads/steady/steadytest"
)

var (
	now     = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	request = ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "web"}}
)

func web(replicas int32) *corev1.ReplicationController {
	labels := map[string]string{"app": "web"}
	return &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "rc", Generation: 3},
		Spec: corev1.ReplicationControllerSpec{
			Replicas: &replicas, Selector: labels, Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}},
		},
	}
}

func reconciler(funcs interceptor.Funcs, objects ...client.Object) *Reconciler {
	c := fake.NewClientBuilder().WithObjects(objects...).WithStatusSubresource(&corev1.ReplicationController{}).WithInterceptorFuncs(funcs).
		WithIndex(&corev1.Pod{}, indexes.PodController, func(o client.Object) []string {
			if owner := metav1.GetControllerOf(o); owner != nil {
				return []string{string(owner.UID)}
			}
			return []string{""}
		}).Build()
	return newReconciler(c, c, record.NewFakeRecorder(100), testclock.NewFakePassiveClock(now))
}

// pass reconciles as if the cache had shown everything.
func (r *Reconciler) pass(t *testing.T) error {
	t.Helper()
	r.Pods.Expected.Forget("rc")
	_, err := reconcile.AsReconciler(r.Pods.Client, r).Reconcile(t.Context(), request)
	return err
}

func (r *Reconciler) get(t *testing.T) *corev1.ReplicationController {
	t.Helper()
	var rc corev1.ReplicationController
	if err := r.Pods.Client.Get(t.Context(), request.NamespacedName, &rc); err != nil {
		t.Fatal(err)
	}
	return &rc
}

func (r *Reconciler) owned(t *testing.T) []string {
	t.Helper()
	var list corev1.PodList
	if err := r.Pods.Client.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, pod := range list.Items {
		if metav1.IsControlledBy(&pod, web(0)) {
			names = append(names, pod.Name)
		}
	}
	return names
}

func TestReconcileCreatesAndDeletes(t *testing.T) {
	r := reconciler(interceptor.Funcs{}, web(2))
	for _, replicas := range []int32{2, 5, 1, 0} {
		rc := r.get(t)
		rc.Spec.Replicas = &replicas
		if err := r.Pods.Client.Update(t.Context(), rc); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := r.pass(t); err != nil {
				t.Fatal(err)
			}
		}
		if got := r.owned(t); len(got) != int(replicas) {
			t.Fatalf("pods %v, want %d", got, replicas)
		}
		want := corev1.ReplicationControllerStatus{Replicas: replicas, FullyLabeledReplicas: replicas, ObservedGeneration: 3}
		if diff := cmp.Diff(want, r.get(t).Status); diff != "" {
			t.Errorf("status (-want +got):\n%s", diff)
		}
	}
}

func TestReconcileAdoptsAndReleases(t *testing.T) {
	orphan := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "orphan", Labels: map[string]string{"app": "web"}}}
	r := reconciler(interceptor.Funcs{}, web(1), orphan)
	if err := r.pass(t); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"orphan"}, r.owned(t)); diff != "" {
		t.Fatalf("pods after adopting (-want +got):\n%s", diff)
	}
	if err := r.Pods.Client.Get(t.Context(), client.ObjectKeyFromObject(orphan), orphan); err != nil {
		t.Fatal(err)
	}
	orphan.Labels["app"] = "other"
	if err := r.Pods.Client.Update(t.Context(), orphan); err != nil {
		t.Fatal(err)
	}
	if err := r.pass(t); err != nil {
		t.Fatal(err)
	}
	if got := r.owned(t); len(got) != 1 || got[0] == "orphan" {
		t.Errorf("pods %v, want one of its own in place of the released", got)
	}
}

func TestReconcileReportsARefusalUntilItIsOver(t *testing.T) {
	full := true
	r := reconciler(interceptor.Funcs{Create: func(ctx context.Context, c client.WithWatch, o client.Object, options ...client.CreateOption) error {
		if full {
			return errors.New("exceeded quota")
		}
		return c.Create(ctx, o, options...)
	}}, web(3))
	if err := r.pass(t); err == nil {
		t.Fatal("Reconcile() = nil, want the refusal")
	}
	if c := r.get(t).Status.Conditions; len(c) != 1 || c[0].Type != corev1.ReplicationControllerReplicaFailure || c[0].Reason != "FailedCreate" {
		t.Errorf("conditions %v, want ReplicaFailure", c)
	}
	full = false
	for range 2 {
		if err := r.pass(t); err != nil {
			t.Fatal(err)
		}
	}
	if c := r.get(t).Status.Conditions; len(c) != 0 {
		t.Errorf("conditions %v, want none once it works", c)
	}
}

func TestAJumpOfTheClockMakesNoPodAvailable(t *testing.T) {
	for name, by := range steadytest.Jumps {
		t.Run(name, func(t *testing.T) {
			rc := web(2)
			rc.Spec.MinReadySeconds = 3600
			readyFor := func(name string, long time.Duration) *corev1.Pod {
				return &corev1.Pod{
					ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: rc.Spec.Selector, OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(rc, owners.Kind)}},
					Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
						{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-long))},
					}},
				}
			}
			r := reconciler(interceptor.Funcs{}, rc, readyFor("young", time.Minute), readyFor("old", 2*time.Hour))
			r.Clock = steadytest.Jumped(now, by)
			if err := r.pass(t); err != nil {
				t.Fatal(err)
			}
			if got := r.get(t).Status; got.ReadyReplicas != 2 || got.AvailableReplicas != 1 {
				t.Errorf("%d pods ready, %d available; want 2 and the one that has been ready for hours", got.ReadyReplicas, got.AvailableReplicas)
			}
		})
	}
}
