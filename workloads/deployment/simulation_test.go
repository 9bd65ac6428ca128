package deployment

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// world carries plans out the way the API server and the ReplicaSet controller do, with pods that become available
// a few at a time.
type world struct {
	t      *testing.T
	d      *appsv1.Deployment
	sets   []*appsv1.ReplicaSet
	now    time.Time
	events []string
	random *rand.Rand
	broken map[string]bool // images whose pods never get ready
}

func newWorld(t *testing.T, seed uint64, d *appsv1.Deployment) *world {
	return &world{
		t: t, d: d, now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), random: rand.New(rand.NewPCG(seed, 1)), broken: map[string]bool{},
	}
}

// pass is one reconciliation; it says whether anything changed.
func (w *world) pass() bool {
	w.t.Helper()
	before := []any{w.d.DeepCopy(), clone(w.sets)}
	oldPods := false
	for _, rs := range w.sets {
		if rs.Spec.Template.Spec.Containers[0].Image != w.d.Spec.Template.Spec.Containers[0].Image {
			oldPods = oldPods || rs.Status.Replicas > 0
		}
	}
	plan := judge(w.d, w.sets, oldPods, w.now)
	if diff := cmp.Diff(before, []any{w.d, w.sets}); diff != "" {
		w.t.Fatalf("judge() changed what it was given:\n%s", diff)
	}
	changed := plan.Create != nil || len(plan.Updates) > 0 || len(plan.Deletes) > 0
	if plan.Create != nil {
		rs := plan.Create
		rs.UID = types.UID(rs.Name)
		rs.CreationTimestamp = metav1.NewTime(w.now)
		rs.Generation = 1
		w.sets = append(w.sets, rs)
		w.events = append(w.events, fmt.Sprintf("%s 0->%d", rs.Spec.Template.Spec.Containers[0].Image, size(rs)))
	}
	for _, change := range plan.Updates {
		at := slices.IndexFunc(w.sets, func(rs *appsv1.ReplicaSet) bool { return rs.UID == change.Set.UID })
		w.sets[at] = change.Set
		w.sets[at].Generation++
		if size(change.Set) != change.From {
			w.events = append(w.events, fmt.Sprintf("%s %d->%d", change.Set.Spec.Template.Spec.Containers[0].Image, change.From, size(change.Set)))
		}
	}
	for _, rs := range plan.Deletes {
		w.sets = slices.DeleteFunc(w.sets, func(o *appsv1.ReplicaSet) bool { return o.UID == rs.UID })
	}
	if plan.Revision != "" && w.d.Annotations[revisionAnnotation] != plan.Revision {
		metav1.SetMetaDataAnnotation(&w.d.ObjectMeta, revisionAnnotation, plan.Revision)
		changed = true
	}
	changed = changed || !cmp.Equal(w.d.Status, plan.Status)
	w.d.Status = plan.Status
	return changed
}

// live lets every ReplicaSet reach its size and some pods of it become available. One that is to shrink may take its time.
func (w *world) live() bool {
	changed := false
	for _, rs := range w.sets {
		before := rs.Status
		if before.Replicas > size(rs) && w.random.IntN(2) == 0 {
			changed = true
			continue
		}
		rs.Status.ObservedGeneration = rs.Generation
		rs.Status.Replicas = size(rs)
		rs.Status.AvailableReplicas = min(rs.Status.AvailableReplicas, size(rs))
		if !w.broken[rs.Spec.Template.Spec.Containers[0].Image] {
			if lacking := size(rs) - rs.Status.AvailableReplicas; lacking > 0 {
				rs.Status.AvailableReplicas += 1 + w.random.Int32N(lacking)
			}
		}
		rs.Status.ReadyReplicas = rs.Status.AvailableReplicas
		changed = changed || !cmp.Equal(before, rs.Status)
	}
	w.now = w.now.Add(time.Second)
	return changed
}

// settle goes on until nothing moves, checking the bounds of a rolling update all along.
func (w *world) settle() {
	w.t.Helper()
	for range 1000 {
		acted := w.pass()
		if w.d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
			w.checkBounds()
		}
		if moved := w.live(); !acted && !moved {
			return
		}
	}
	w.t.Fatalf("never came to rest; last steps %v", w.events[max(len(w.events)-10, 0):])
}

func (w *world) checkBounds() {
	w.t.Helper()
	surge, unavailable := bounds(w.d)
	if pods := total(w.sets, size); pods > desired(w.d)+surge {
		w.t.Fatalf("%d pods wanted for %d replicas and a surge of %d; steps %v", pods, desired(w.d), surge, w.events)
	}
	if pods := total(w.sets, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.Replicas }); pods > desired(w.d)+surge {
		w.t.Fatalf("%d pods for %d replicas and a surge of %d; steps %v", pods, desired(w.d), surge, w.events)
	}
	// Once enough are available, enough of them have to be kept.
	needed := desired(w.d) - unavailable
	kept := total(w.sets, func(rs *appsv1.ReplicaSet) int32 { return min(size(rs), rs.Status.AvailableReplicas) })
	if w.d.Status.AvailableReplicas >= needed && kept < needed {
		w.t.Fatalf("%d available pods kept, at least %d needed; steps %v", kept, needed, w.events)
	}
}

func (w *world) sizes() map[string]int32 {
	sizes := map[string]int32{}
	for _, rs := range w.sets {
		sizes[rs.Spec.Template.Spec.Containers[0].Image] = size(rs)
	}
	return sizes
}

func clone(sets []*appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	var copies []*appsv1.ReplicaSet
	for _, rs := range sets {
		copies = append(copies, rs.DeepCopy())
	}
	return copies
}

func web(replicas int32, surge, unavailable intstr.IntOrString) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "d", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas:                ptr.To(replicas),
			Selector:                &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}},
			RevisionHistoryLimit:    ptr.To[int32](10),
			ProgressDeadlineSeconds: ptr.To[int32](600),
			Strategy: appsv1.DeploymentStrategy{
				Type:          appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable},
			},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "1"}}},
			},
		},
	}
}

func (w *world) roll(image string) {
	w.d.Spec.Template.Spec.Containers[0].Image = image
	w.d.Generation++
}

func TestRollingUpdatesReachTheirEndWithinBounds(t *testing.T) {
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 2))
		replicas := random.Int32N(20)
		surge, unavailable := intstr.FromInt32(random.Int32N(4)), intstr.FromInt32(random.Int32N(4))
		if random.IntN(2) == 0 {
			surge, unavailable = intstr.FromString("25%"), intstr.FromString("25%")
		}
		w := newWorld(t, seed, web(replicas, surge, unavailable))
		for image := range 4 {
			w.roll(fmt.Sprint(image))
			if image == 2 {
				for range random.IntN(6) { // the next one rolls over this one
					w.pass()
					w.live()
				}
				continue
			}
			w.settle()
		}
		if got := w.sizes()["3"]; got != replicas || total(w.sets, size) != replicas {
			t.Fatalf("seed %d: sizes %v, want %d of the last image only; steps %v", seed, w.sizes(), replicas, w.events)
		}
		if c := condition(w.d.Status.Conditions, appsv1.DeploymentProgressing); c == nil || c.Reason != reasonAvailable {
			t.Fatalf("seed %d: progressing condition %v, want %s", seed, c, reasonAvailable)
		}
	}
}

func TestARolloutTakesTheseSteps(t *testing.T) {
	w := newWorld(t, 1, web(3, intstr.FromInt32(1), intstr.FromInt32(0)))
	w.settle()
	w.events = nil
	w.roll("2")
	w.settle()
	want := []string{"2 0->1", "1 3->2", "2 1->2", "1 2->1", "2 2->3", "1 1->0"}
	if diff := cmp.Diff(want, w.events); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

func TestRecreateStopsEverythingFirst(t *testing.T) {
	d := web(3, intstr.FromInt32(0), intstr.FromInt32(0))
	d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	w := newWorld(t, 1, d)
	w.settle()
	w.events = nil
	w.roll("2")
	w.settle()
	if diff := cmp.Diff([]string{"1 3->0", "2 0->3"}, w.events); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

func TestUndoUsesTheOldReplicaSetAgain(t *testing.T) {
	w := newWorld(t, 1, web(2, intstr.FromInt32(1), intstr.FromInt32(0)))
	w.settle()
	w.roll("2")
	w.settle()
	w.roll("1")
	w.settle()
	if got := len(w.sets); got != 2 {
		t.Fatalf("%d ReplicaSets, want 2", got)
	}
	back := findNew(w.d, w.sets)
	if got := back.Annotations[revisionAnnotation]; got != "3" || w.d.Annotations[revisionAnnotation] != "3" {
		t.Errorf("revision %q on the ReplicaSet and %q on the Deployment, want 3", got, w.d.Annotations[revisionAnnotation])
	}
	if got := back.Annotations[historyAnnotation]; got != "1" {
		t.Errorf("history %q, want 1", got)
	}
}

func TestAPausedRolloutScalesInProportion(t *testing.T) {
	w := newWorld(t, 1, web(10, intstr.FromInt32(3), intstr.FromInt32(2)))
	w.settle()
	w.broken["2"] = true
	w.roll("2")
	w.settle()
	if diff := cmp.Diff(map[string]int32{"1": 8, "2": 5}, w.sizes()); diff != "" {
		t.Fatalf("stuck rollout (-want +got):\n%s", diff)
	}
	w.d.Spec.Paused = true
	w.d.Spec.Replicas = ptr.To[int32](15)
	w.d.Generation++
	w.settle()
	if diff := cmp.Diff(map[string]int32{"1": 11, "2": 7}, w.sizes()); diff != "" {
		t.Errorf("the example of the documentation (-want +got):\n%s", diff)
	}
	if c := condition(w.d.Status.Conditions, appsv1.DeploymentProgressing); c.Reason != reasonPaused {
		t.Errorf("progressing because %s, want %s", c.Reason, reasonPaused)
	}
	w.d.Spec.Paused = false
	w.broken = nil
	w.d.Generation++
	w.settle()
	if diff := cmp.Diff(map[string]int32{"1": 0, "2": 15}, w.sizes()); diff != "" {
		t.Errorf("resumed (-want +got):\n%s", diff)
	}
}

func TestARolloutWithoutProgressTimesOut(t *testing.T) {
	w := newWorld(t, 1, web(2, intstr.FromInt32(1), intstr.FromInt32(0)))
	w.settle()
	w.broken["2"] = true
	w.roll("2")
	w.settle()
	plan := judge(w.d, w.sets, false, w.now)
	if plan.Again <= 0 || plan.Again > 601*time.Second {
		t.Errorf("comes again in %v, want at the deadline", plan.Again)
	}
	w.now = w.now.Add(plan.Again)
	w.pass()
	c := condition(w.d.Status.Conditions, appsv1.DeploymentProgressing)
	if c.Status != corev1.ConditionFalse || c.Reason != reasonTimedOut || c.Message != fmt.Sprintf("ReplicaSet %q has timed out progressing.", findNew(w.d, w.sets).Name) {
		t.Errorf("condition %+v", c)
	}
	if again := judge(w.d, w.sets, false, w.now).Again; again != 0 {
		t.Errorf("comes again in %v, want not", again)
	}
}

func TestHistoryIsPruned(t *testing.T) {
	d := web(1, intstr.FromInt32(1), intstr.FromInt32(0))
	d.Spec.RevisionHistoryLimit = ptr.To[int32](2)
	w := newWorld(t, 1, d)
	for image := range 6 {
		w.roll(fmt.Sprint(image))
		w.settle()
	}
	if diff := cmp.Diff(map[string]int32{"3": 0, "4": 0, "5": 1}, w.sizes()); diff != "" {
		t.Errorf("ReplicaSets left (-want +got):\n%s", diff)
	}
}
