package replicaset

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/workloads/indexes"
	"knarr.dev/knarr/workloads/podcontrol"
	"knarr.dev/knarr/workloads/steady/steadytest"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func web(replicas int32) *appsv1.ReplicaSet {
	labels := map[string]string{"app": "web"}
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "rs", Generation: 3},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}},
		},
	}
}

func owned(n int, phase corev1.PodPhase, ready bool) []*corev1.Pod {
	var pods []*corev1.Pod
	for i := range n {
		p := podcontrol.FromTemplate(web(0), owners.Kind, &web(0).Spec.Template)
		p.Name = fmt.Sprintf("web-%s-%d", phase, i)
		p.UID = types.UID(p.Name)
		p.Status.Phase = phase
		if ready {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-5 * time.Second))}}
		}
		pods = append(pods, p)
	}
	return pods
}

func TestJudge(t *testing.T) {
	ending := owned(1, corev1.PodRunning, true)
	ending[0].DeletionTimestamp = ptr.To(metav1.NewTime(now))
	tests := map[string]struct {
		replicas int32
		pods     []*corev1.Pod
		missing  int
	}{
		"none of three":                    {replicas: 3, missing: 3},
		"three of three":                   {replicas: 3, pods: owned(3, corev1.PodPending, false), missing: 0},
		"two too many":                     {replicas: 1, pods: owned(3, corev1.PodRunning, true), missing: -2},
		"finished pods do not count":       {replicas: 1, pods: owned(2, corev1.PodFailed, false), missing: 1},
		"pods that end do not count":       {replicas: 1, pods: ending, missing: 1},
		"one pass does not do everything":  {replicas: 5000, missing: burst},
		"nor does it delete everything":    {replicas: 0, pods: owned(burst+7, corev1.PodRunning, true), missing: -burst},
		"no replicas wanted and none here": {replicas: 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got, _ := judge(web(tc.replicas), tc.pods); got != tc.missing {
				t.Errorf("judge() = %d, want %d", got, tc.missing)
			}
		})
	}
}

func TestJudgeStatus(t *testing.T) {
	rs := web(3)
	rs.Spec.MinReadySeconds = 7
	pods := append(owned(2, corev1.PodRunning, true), owned(1, corev1.PodPending, false)...)
	pods[1].Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-time.Minute))
	got, ripe := judgeStatus(rs, pods, nil, now)
	want := appsv1.ReplicaSetStatus{
		Replicas: 3, FullyLabeledReplicas: 3, ReadyReplicas: 2, AvailableReplicas: 1, ObservedGeneration: 3, TerminatingReplicas: ptr.To[int32](0),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if ripe != 2*time.Second {
		t.Errorf("next pod available in %v, want 2s", ripe)
	}
	rs.Status, _ = judgeStatus(rs, pods[:1], errors.New("quota exceeded"), now)
	if c := rs.Status.Conditions; len(c) != 1 || c[0].Reason != "FailedCreate" || c[0].Message != "quota exceeded" {
		t.Errorf("conditions %v, want ReplicaFailure", c)
	}
	if got, _ := judgeStatus(rs, pods, nil, now); len(got.Conditions) != 0 {
		t.Errorf("conditions %v, want none once it works", got.Conditions)
	}
}

func reconciler(funcs interceptor.Funcs, objects ...client.Object) *Reconciler {
	c := fake.NewClientBuilder().WithObjects(objects...).WithStatusSubresource(&appsv1.ReplicaSet{}).WithInterceptorFuncs(funcs).
		WithIndex(&corev1.Pod{}, indexes.PodController, indexes.Controller).
		WithIndex(&appsv1.ReplicaSet{}, indexes.ReplicaSetController, indexes.Controller).Build()
	clock := testclock.NewFakePassiveClock(now)
	return &Reconciler{Keeper[*appsv1.ReplicaSet]{Pods: podcontrol.New(owners, c, c, record.NewFakeRecorder(100), clock), Clock: clock}}
}

func (r *Reconciler) pass(t *testing.T) error {
	t.Helper()
	_, err := reconcile.AsReconciler(r.Pods.Client, r).Reconcile(t.Context(), request)
	return err
}

func (r *Reconciler) count(t *testing.T) int {
	t.Helper()
	var pods corev1.PodList
	if err := r.Pods.Client.List(t.Context(), &pods); err != nil {
		t.Fatal(err)
	}
	return len(pods.Items)
}

var request = ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "web"}}

func TestReconcileDoesNotActTwiceOnAStaleCache(t *testing.T) {
	r := reconciler(interceptor.Funcs{
		List: func(context.Context, client.WithWatch, client.ObjectList, ...client.ListOption) error { return nil }, // shows nothing yet
	}, web(3))
	for range 3 {
		if err := r.pass(t); err != nil {
			t.Fatal(err)
		}
	}
	created := len(r.Pods.Events.(*record.FakeRecorder).Events)
	if created != 3 {
		t.Errorf("%d pods created, want 3", created)
	}
}

func TestReconcileHearsANewSizeWhenItSeesWhatItDidBefore(t *testing.T) {
	r := reconciler(interceptor.Funcs{}, web(3))
	if err := r.pass(t); err != nil {
		t.Fatal(err)
	}
	heard := func() int64 {
		t.Helper()
		var rs appsv1.ReplicaSet
		if err := r.Pods.Client.Get(t.Context(), request.NamespacedName, &rs); err != nil {
			t.Fatal(err)
		}
		return rs.Status.ObservedGeneration
	}
	before := heard()
	var rs appsv1.ReplicaSet
	if err := r.Pods.Client.Get(t.Context(), request.NamespacedName, &rs); err != nil {
		t.Fatal(err)
	}
	rs.Generation, rs.Spec.Replicas = before+1, ptr.To[int32](0)
	if err := r.Pods.Client.Update(t.Context(), &rs); err != nil {
		t.Fatal(err)
	}
	if err := r.pass(t); err != nil {
		t.Fatal(err)
	}
	if got := heard(); got != before {
		t.Errorf("generation %d is heard while pods of %d are still to come in view", got, before)
	}
	r.Pods.Expected.Forget("rs") // as if the cache had shown everything
	if err := r.pass(t); err != nil {
		t.Fatal(err)
	}
	if got := heard(); got != before+1 {
		t.Errorf("generation %d is heard, want %d", got, before+1)
	}
}

func TestReconcileCreatesAndDeletes(t *testing.T) {
	r := reconciler(interceptor.Funcs{}, web(2))
	for _, replicas := range []int32{2, 5, 1, 0} {
		var rs appsv1.ReplicaSet
		if err := r.Pods.Client.Get(t.Context(), request.NamespacedName, &rs); err != nil {
			t.Fatal(err)
		}
		rs.Spec.Replicas = &replicas
		if err := r.Pods.Client.Update(t.Context(), &rs); err != nil {
			t.Fatal(err)
		}
		r.Pods.Expected.Forget("rs") // as if the cache had shown everything
		if err := r.pass(t); err != nil {
			t.Fatal(err)
		}
		if got := r.count(t); got != int(replicas) {
			t.Fatalf("%d pods, want %d", got, replicas)
		}
	}
}

func TestReconcileReportsARefusal(t *testing.T) {
	r := reconciler(interceptor.Funcs{
		Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
			return apierrors.NewForbidden(corev1.Resource("pods"), "", errors.New("quota exceeded"))
		},
	}, web(50))
	if err := r.pass(t); err == nil {
		t.Fatal("Reconcile() = nil, want the refusal")
	}
	var rs appsv1.ReplicaSet
	if err := r.Pods.Client.Get(t.Context(), request.NamespacedName, &rs); err != nil {
		t.Fatal(err)
	}
	if c := rs.Status.Conditions; len(c) != 1 || c[0].Type != appsv1.ReplicaSetReplicaFailure {
		t.Errorf("conditions %v, want ReplicaFailure", c)
	}
	if met, _ := r.Pods.Expected.Met("rs"); !met {
		t.Error("a refused creation is still expected")
	}
}

func TestAJumpOfTheClockMakesNoPodAvailable(t *testing.T) {
	for name, by := range steadytest.Jumps {
		t.Run(name, func(t *testing.T) {
			rs, pods := web(2), owned(2, corev1.PodRunning, true)
			rs.Spec.MinReadySeconds = 3600
			pods[0].Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-time.Minute))
			pods[1].Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-2 * time.Hour))
			r := reconciler(interceptor.Funcs{}, rs, pods[0], pods[1])
			r.Clock = steadytest.Jumped(now, by)
			if err := r.pass(t); err != nil {
				t.Fatal(err)
			}
			var got appsv1.ReplicaSet
			if err := r.Pods.Client.Get(t.Context(), request.NamespacedName, &got); err != nil {
				t.Fatal(err)
			}
			if got.Status.ReadyReplicas != 2 || got.Status.AvailableReplicas != 1 {
				t.Errorf("%d pods ready, %d available; want 2 and the one that has been ready for hours", got.Status.ReadyReplicas, got.Status.AvailableReplicas)
			}
		})
	}
}
