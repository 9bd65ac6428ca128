package deployment

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
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

func reconciler(t *testing.T, objects ...client.Object) (*Reconciler, func()) {
	c := fake.NewClientBuilder().WithObjects(objects...).WithStatusSubresource(&appsv1.Deployment{}, &appsv1.ReplicaSet{}).
		WithIndex(&appsv1.ReplicaSet{}, indexes.ReplicaSetController, indexes.Controller).Build()
	r := &Reconciler{
		client: c, live: c, claims: podcontrol.Claimer{Client: c, Live: c, Kind: kind}, events: record.NewFakeRecorder(20),
		clock: testclock.NewFakePassiveClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)),
	}
	return r, func() {
		t.Helper()
		if _, err := reconcile.AsReconciler(r.client, r).Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Namespace: "shop", Name: "web"}}); err != nil {
			t.Fatal(err)
		}
	}
}

func sets(t *testing.T, c client.Client) []appsv1.ReplicaSet {
	t.Helper()
	var list appsv1.ReplicaSetList
	if err := c.List(t.Context(), &list); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(list.Items, func(a, b appsv1.ReplicaSet) int { return strings.Compare(a.Name, b.Name) })
	return list.Items
}

func TestReconcileCreatesOnceAndTells(t *testing.T) {
	r, pass := reconciler(t, web(3, intstr.FromInt32(1), intstr.FromInt32(0)))
	for range 3 {
		pass()
	}
	got := sets(t, r.client)
	if len(got) != 1 || *got[0].Spec.Replicas != 3 {
		t.Fatalf("ReplicaSets %v, want one of 3", got)
	}
	hash := got[0].Labels[appsv1.DefaultDeploymentUniqueLabelKey]
	if got[0].Name != "web-"+hash || got[0].Spec.Selector.MatchLabels[appsv1.DefaultDeploymentUniqueLabelKey] != hash {
		t.Errorf("name %s, labels %v, selector %v: the hash is not in all of them", got[0].Name, got[0].Labels, got[0].Spec.Selector)
	}
	if event := <-r.events.(*record.FakeRecorder).Events; event != "Normal ScalingReplicaSet Scaled up replica set "+got[0].Name+" from 0 to 3" {
		t.Errorf("event %q", event)
	}
	var d appsv1.Deployment
	if err := r.client.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "web"}, &d); err != nil {
		t.Fatal(err)
	}
	if d.Annotations[revisionAnnotation] != "1" || d.Status.ObservedGeneration != d.Generation {
		t.Errorf("annotations %v, status %+v", d.Annotations, d.Status)
	}
}

func TestReconcileAvoidsATakenName(t *testing.T) {
	d := web(1, intstr.FromInt32(1), intstr.FromInt32(0))
	squatter := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-" + hash(&d.Spec.Template, nil)}, Spec: appsv1.ReplicaSetSpec{
		Replicas: ptr.To[int32](0), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "other"}},
	}}
	r, pass := reconciler(t, d, squatter)
	_, err := reconcile.AsReconciler(r.client, r).Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(d)})
	if err == nil {
		t.Fatal("Reconcile() = nil, want an error that brings the next attempt")
	}
	pass()
	if got := sets(t, r.client); len(got) != 2 {
		t.Errorf("%d ReplicaSets, want the squatter and ours", len(got))
	}
}

func TestReconcileTellsOfAReplicaSetTheAPIRefuses(t *testing.T) {
	for name, deadline := range map[string]*int32{"in its progress, which has a deadline": ptr.To[int32](600), "in an event alone, without one": nil} {
		t.Run(name, func(t *testing.T) {
			d := web(1, intstr.FromInt32(1), intstr.FromInt32(0))
			d.Spec.ProgressDeadlineSeconds = deadline
			r, _ := reconciler(t, d)
			r.client = interceptor.NewClient(r.client.(client.WithWatch), interceptor.Funcs{
				Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error {
					return errors.New("quota exceeded")
				},
			})
			if _, err := reconcile.AsReconciler(r.client, r).Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(d)}); err == nil {
				t.Fatal("Reconcile() = nil, want an error that brings the next attempt")
			}
			why := fmt.Sprintf("Failed to create new replica set %q: quota exceeded", "web-"+hash(&d.Spec.Template, nil))
			if event := <-r.events.(*record.FakeRecorder).Events; event != "Warning ReplicaSetCreateError "+why {
				t.Errorf("event %q", event)
			}
			if err := r.client.Get(t.Context(), client.ObjectKeyFromObject(d), d); err != nil {
				t.Fatal(err)
			}
			c := condition(d.Status.Conditions, appsv1.DeploymentProgressing)
			if told := c != nil && c.Status == corev1.ConditionFalse && c.Reason == reasonNotCreated && c.Message == why; told != (deadline != nil) {
				t.Errorf("progress %+v", c)
			}
		})
	}
}

func TestReconcileWaitsForWhatItWrote(t *testing.T) {
	d := web(3, intstr.FromInt32(1), intstr.FromInt32(0))
	r, pass := reconciler(t, d)
	pass()
	made := sets(t, r.client)[0]
	if behind, err := r.behind(t.Context(), d, nil); err != nil || !behind {
		t.Errorf("behind() = %v, %v while the ReplicaSet it made is not shown", behind, err)
	}
	if behind, err := r.behind(t.Context(), d, []*appsv1.ReplicaSet{&made}); err != nil || behind {
		t.Errorf("behind() = %v, %v once it is", behind, err)
	}
	r.written.Doubt(d.UID, made.Name)
	if behind, err := r.behind(t.Context(), d, []*appsv1.ReplicaSet{&made}); err != nil || behind {
		t.Errorf("behind() = %v, %v after a write that was not made", behind, err)
	}
	r.written.Wrote(d.UID, made.Name, made.ResourceVersion)
	if err := r.client.Delete(t.Context(), &made); err != nil {
		t.Fatal(err)
	}
	if behind, err := r.behind(t.Context(), d, nil); err != nil || behind {
		t.Errorf("behind() = %v, %v for a ReplicaSet somebody deleted", behind, err)
	}
}

func TestAJumpOfTheClockEndsNoRollout(t *testing.T) {
	for name, by := range steadytest.Jumps {
		t.Run(name, func(t *testing.T) {
			d := web(3, intstr.FromInt32(1), intstr.FromInt32(0))
			d.Spec.ProgressDeadlineSeconds = ptr.To[int32](600)
			r, pass := reconciler(t, d)
			for range 3 {
				pass()
			}
			r.clock = steadytest.Jumped(r.clock.Now().Add(time.Minute), by)
			pass()
			if err := r.client.Get(t.Context(), client.ObjectKeyFromObject(d), d); err != nil {
				t.Fatal(err)
			}
			if c := condition(d.Status.Conditions, appsv1.DeploymentProgressing); c == nil || c.Status != corev1.ConditionTrue {
				t.Errorf("condition %+v, want it to go on", c)
			}
		})
	}
}
