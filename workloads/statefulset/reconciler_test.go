package statefulset

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
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
	"knarr.dev/knarr/workloads/steady/steadytest"
)

// world is a set's reconciler over an in-memory API, in which pods become ready when told to.
type world struct {
	*Reconciler
	t *testing.T
}

func newWorld(t *testing.T, objects ...client.Object) *world {
	c := fake.NewClientBuilder().WithObjects(objects...).WithStatusSubresource(&appsv1.StatefulSet{}, &corev1.Pod{}).
		WithIndex(&corev1.Pod{}, indexes.PodController, func(o client.Object) []string {
			if owner := metav1.GetControllerOf(o); owner != nil {
				return []string{string(owner.UID)}
			}
			return []string{""}
		}).Build()
	clock := testclock.NewFakePassiveClock(now)
	return &world{newReconciler(c, c, record.NewFakeRecorder(100), clock), t}
}

// pass reconciles as if the cache had shown everything.
func (w *world) pass() error {
	w.Reconciler.pods.Expected.Forget("set")
	_, err := reconcile.AsReconciler(w.client, w.Reconciler).Reconcile(w.t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "db"}})
	return err
}

func (w *world) pods() []corev1.Pod {
	w.t.Helper()
	var list corev1.PodList
	if err := w.client.List(w.t.Context(), &list); err != nil {
		w.t.Fatal(err)
	}
	return list.Items
}

func (w *world) set() *appsv1.StatefulSet {
	w.t.Helper()
	var set appsv1.StatefulSet
	if err := w.client.Get(w.t.Context(), types.NamespacedName{Namespace: "shop", Name: "db"}, &set); err != nil {
		w.t.Fatal(err)
	}
	return &set
}

func (w *world) update(change func(*appsv1.StatefulSet)) {
	w.t.Helper()
	set := w.set()
	change(set)
	if err := w.client.Update(w.t.Context(), set); err != nil {
		w.t.Fatal(err)
	}
}

// rollOut passes until nothing changes, with every pod ready at once.
func (w *world) rollOut() {
	w.t.Helper()
	for range 12 {
		if err := w.pass(); err != nil {
			w.t.Fatal(err)
		}
		for _, pod := range w.pods() {
			pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
			if err := w.client.Status().Update(w.t.Context(), &pod); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

func TestReconcileStartsInOrderAndTells(t *testing.T) {
	w := newWorld(t, db(3))
	for range 3 {
		if err := w.pass(); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.pods(); len(got) != 1 {
		t.Fatalf("%d pods while the first is not ready, want 1", len(got))
	}
	w.rollOut()
	set := w.set()
	if s := set.Status; len(w.pods()) != 3 || s.ReadyReplicas != 3 || s.CurrentReplicas != 3 || s.CurrentRevision == "" || s.CurrentRevision != s.UpdateRevision {
		t.Errorf("%d pods, status %+v", len(w.pods()), s)
	}
	if event := <-w.Reconciler.pods.Events.(*record.FakeRecorder).Events; event != "Normal SuccessfulCreate create Pod db-0 in StatefulSet db successful" {
		t.Errorf("event %q", event)
	}
}

func TestReconcileRollsForthAndBack(t *testing.T) {
	image := func(name string) func(*appsv1.StatefulSet) {
		return func(s *appsv1.StatefulSet) {
			s.Spec.Template.Spec.Containers = []corev1.Container{{Name: "db", Image: name}}
		}
	}
	first := db(2)
	image("v1")(first)
	first.Spec.RevisionHistoryLimit = ptr.To[int32](1)
	w := newWorld(t, first)
	w.rollOut()
	v1 := w.set().Status.CurrentRevision
	for _, version := range []string{"v2", "v3", "v2"} {
		w.update(image(version))
		w.rollOut()
		for _, pod := range w.pods() {
			if pod.Spec.Containers[0].Image != version {
				t.Fatalf("pod %s runs %s, want %s", pod.Name, pod.Spec.Containers[0].Image, version)
			}
		}
	}
	var revisions appsv1.ControllerRevisionList
	if err := w.client.List(t.Context(), &revisions); err != nil {
		t.Fatal(err)
	}
	numbers := map[string]int64{}
	for _, r := range revisions.Items {
		numbers[r.Name] = r.Revision
	}
	if len(numbers) != 2 || numbers[v1] != 0 || numbers[w.set().Status.CurrentRevision] != 4 {
		t.Errorf("revisions %v; want v3 as 3, v2 again as 4, and v1 dropped", numbers)
	}
}

func TestReconcileTellsOfARefusal(t *testing.T) {
	w := newWorld(t, db(1))
	w.client = interceptor.NewClient(w.client.(client.WithWatch), interceptor.Funcs{
		Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
			return errors.New("exceeded quota")
		},
	})
	if err := w.pass(); err == nil || !strings.Contains(err.Error(), "quota") {
		t.Fatalf("Reconcile() = %v, want the refusal", err)
	}
	if event := <-w.Reconciler.pods.Events.(*record.FakeRecorder).Events; event != "Warning FailedCreate create Pod db-0 in StatefulSet db failed error: exceeded quota" {
		t.Errorf("event %q", event)
	}
	if met, _ := w.Reconciler.pods.Expected.Met("set"); !met {
		t.Error("a refused creation is still expected")
	}
}

func TestReconcileAdoptsByName(t *testing.T) {
	orphan := func(name string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Labels: map[string]string{"app": "db"}}}
	}
	w := newWorld(t, db(1), orphan("db-0"), orphan("other-0"))
	if err := w.pass(); err != nil {
		t.Fatal(err)
	}
	pods := w.pods()
	mine := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Name == "db-0" })
	if !metav1.IsControlledBy(&pods[mine], w.set()) || pods[mine].Labels[appsv1.PodIndexLabel] != "0" {
		t.Errorf("pod %+v is not adopted", pods[mine].ObjectMeta)
	}
	if other := pods[1-mine]; len(other.OwnerReferences) != 0 {
		t.Errorf("pod %s is adopted, whatever it is called", other.Name)
	}
}

func TestAJumpOfTheClockStartsNoPodOutOfTurn(t *testing.T) {
	for name, by := range steadytest.Jumps {
		t.Run(name, func(t *testing.T) {
			set := db(2)
			set.Spec.MinReadySeconds = 3600
			w := newWorld(t, set)
			if err := w.pass(); err != nil {
				t.Fatal(err)
			}
			pod := w.pods()[0]
			pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
				{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Minute))},
			}}
			if err := w.client.Status().Update(t.Context(), &pod); err != nil {
				t.Fatal(err)
			}
			w.Reconciler.clock = steadytest.Jumped(now, by)
			if err := w.pass(); err != nil {
				t.Fatal(err)
			}
			if got := w.pods(); len(got) != 1 {
				t.Errorf("%d pods while the first is not available, want 1", len(got))
			}
		})
	}
}
