package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

// cluster is a running scheduler over an in-memory API.
type cluster struct {
	t      *testing.T
	client client.WithWatch
	events *record.FakeRecorder

	refuse       atomic.Int32 // bindings
	refuseDelete atomic.Int32

	watching sync.WaitGroup // the in-memory API does not repeat what happens between a list and its watch
}

// GetInformer gives each caller an informer of its own, as good as a shared one here.
func (c *cluster) GetInformer(ctx context.Context, object client.Object, _ ...cache.InformerGetOption) (cache.Informer, error) {
	var list client.ObjectList
	switch object.(type) {
	case *corev1.Pod:
		list = &corev1.PodList{}
	case *corev1.Node:
		list = &corev1.NodeList{}
	case *corev1.PersistentVolumeClaim:
		c.watching.Add(1) // only asked for when a pod has claims
		list = &corev1.PersistentVolumeClaimList{}
	case *corev1.PersistentVolume:
		c.watching.Add(1)
		list = &corev1.PersistentVolumeList{}
	case *storagev1.StorageClass:
		c.watching.Add(1)
		list = &storagev1.StorageClassList{}
	case *storagev1.CSIDriver:
		c.watching.Add(1)
		list = &storagev1.CSIDriverList{}
	case *storagev1.CSINode:
		c.watching.Add(1)
		list = &storagev1.CSINodeList{}
	case *storagev1.CSIStorageCapacity:
		c.watching.Add(1)
		list = &storagev1.CSIStorageCapacityList{}
	case *corev1.Service:
		list = &corev1.ServiceList{}
	case *corev1.Namespace:
		list = &corev1.NamespaceList{}
	}
	var open sync.Once
	informer := toolscache.NewSharedIndexInformer(listThenWatch{&toolscache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, _ metav1.ListOptions) (runtime.Object, error) {
			into := list.DeepCopyObject().(client.ObjectList)
			return into, c.client.List(ctx, into)
		},
		WatchFuncWithContext: func(ctx context.Context, _ metav1.ListOptions) (watch.Interface, error) {
			defer open.Do(c.watching.Done)
			return c.client.Watch(ctx, list.DeepCopyObject().(client.ObjectList))
		},
	}}, object, 0, toolscache.Indexers{})
	go informer.RunWithContext(ctx)
	return informer, nil
}

// listThenWatch tells the informer that the in-memory API cannot stream its initial list.
type listThenWatch struct{ *toolscache.ListWatch }

func (listThenWatch) IsWatchListSemanticsUnSupported() bool { return true }

func start(t *testing.T, objects ...client.Object) *cluster {
	return startWith(t, ordinaryConfig(), objects...)
}

func startWith(t *testing.T, config *Config, objects ...client.Object) *cluster {
	c := &cluster{t: t, events: record.NewFakeRecorder(100)}
	c.client = interceptor.NewClient(fake.NewClientBuilder().WithStatusSubresource(&corev1.Pod{}).WithObjects(objects...).Build(), interceptor.Funcs{
		Delete: func(ctx context.Context, inner client.WithWatch, o client.Object, options ...client.DeleteOption) error {
			if c.refuseDelete.Add(-1) >= 0 {
				return errNotToday
			}
			return inner.Delete(ctx, o, options...)
		},
		SubResourceCreate: func(ctx context.Context, inner client.Client, verb string, o, sub client.Object, _ ...client.SubResourceCreateOption) error {
			if verb != "binding" {
				return fmt.Errorf("unexpected subresource %s", verb)
			}
			if c.refuse.Add(-1) >= 0 {
				return errNotToday
			}
			var pod corev1.Pod
			if err := inner.Get(ctx, client.ObjectKeyFromObject(o), &pod); err != nil {
				return err
			}
			pod.Spec.NodeName = sub.(*corev1.Binding).Target.Name
			return inner.Update(ctx, &pod)
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	c.watching.Add(4) // pods, nodes, namespaces, services
	s := New(config, c, c.client, func(string) record.EventRecorder { return c.events }, clock.RealClock{}, slog.New(slog.DiscardHandler))
	go func() { done <- s.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Start() = %v", err)
		}
	})
	c.watching.Wait()
	return c
}

// await watches a pod until it is as wanted.
func (c *cluster) await(name string, want func(*corev1.Pod) bool) *corev1.Pod {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	w, err := c.client.Watch(ctx, &corev1.PodList{}, client.InNamespace("shop"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer w.Stop()
	for {
		var pod corev1.Pod
		if err := c.client.Get(ctx, client.ObjectKey{Namespace: "shop", Name: name}, &pod); err != nil {
			c.t.Fatal(err)
		}
		if want(&pod) {
			return &pod
		}
		select {
		case <-w.ResultChan():
		case <-ctx.Done():
			c.t.Fatalf("pod %s stayed as it was: node %q, conditions %v", name, pod.Spec.NodeName, pod.Status.Conditions)
		}
	}
}

// told waits for an Event about a pod.
func (c *cluster) told(name string) *corev1.Event {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	w, err := c.client.Watch(ctx, &corev1.EventList{}, client.InNamespace("shop"))
	if err != nil {
		c.t.Fatal(err)
	}
	defer w.Stop()
	for {
		var list corev1.EventList
		if err := c.client.List(ctx, &list, client.InNamespace("shop")); err != nil {
			c.t.Fatal(err)
		}
		for i := range list.Items {
			if list.Items[i].InvolvedObject.Name == name {
				return &list.Items[i]
			}
		}
		select {
		case <-w.ResultChan():
		case <-ctx.Done():
			c.t.Fatalf("nobody was told of pod %s", name)
		}
	}
}

func on(node string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool { return p.Spec.NodeName == node }
}

func refusedFor(part string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool {
		return len(p.Status.Conditions) == 1 && strings.Contains(p.Status.Conditions[0].Message, part)
	}
}

func TestSchedulerPlacesAPod(t *testing.T) {
	c := start(t, node("a", "4"), pod("web", "1"))
	c.await("web", on("a"))
	if got, want := c.told("web"), "Successfully assigned shop/web to a"; got.Reason != "Scheduled" || got.Message != want {
		t.Errorf("event %v, want %q", got, want)
	}
}

func TestSchedulerWakesAPodWhenANodeComes(t *testing.T) {
	c := start(t, node("small", "1"), pod("web", "2"))
	got := c.await("web", refusedFor("0/1 nodes are available: 1 Insufficient cpu."))
	if condition := got.Status.Conditions[0]; condition.Type != corev1.PodScheduled || condition.Status != corev1.ConditionFalse || condition.Reason != "Unschedulable" {
		t.Errorf("condition %v", condition)
	}
	if err := c.client.Create(t.Context(), node("large", "4")); err != nil {
		t.Fatal(err)
	}
	c.await("web", on("large"))
}

func TestSchedulerWakesAPodWhenAnotherGoes(t *testing.T) {
	first := pod("first", "1")
	first.Spec.NodeName = "a"
	c := start(t, node("a", "1"), first, pod("second", "1"))
	c.await("second", refusedFor("Insufficient cpu"))
	if err := c.client.Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	c.await("second", on("a"))
}

func TestSchedulerWaitsForGates(t *testing.T) {
	gated := pod("gated", "1")
	gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "paid"}}
	c := start(t, node("a", "4"), gated)
	if err := c.client.Create(t.Context(), pod("other", "1")); err != nil {
		t.Fatal(err)
	}
	c.await("other", on("a"))
	if got := c.await("gated", func(*corev1.Pod) bool { return true }); got.Spec.NodeName != "" {
		t.Fatalf("gated pod was placed on %s", got.Spec.NodeName)
	}
	var open corev1.Pod
	if err := c.client.Get(t.Context(), client.ObjectKeyFromObject(gated), &open); err != nil {
		t.Fatal(err)
	}
	open.Spec.SchedulingGates = nil
	if err := c.client.Update(t.Context(), &open); err != nil {
		t.Fatal(err)
	}
	c.await("gated", on("a"))
}

func TestSchedulerTriesARefusedBindingAgain(t *testing.T) {
	c := start(t, node("a", "4"))
	c.refuse.Store(2)
	if err := c.client.Create(t.Context(), pod("web", "1")); err != nil {
		t.Fatal(err)
	}
	c.await("web", on("a"))
}

func TestSchedulerNeverPromisesTwice(t *testing.T) {
	c := start(t, node("a", "3"), node("b", "2"))
	for i := range 9 {
		if err := c.client.Create(t.Context(), pod(fmt.Sprintf("p%d", i), "1")); err != nil {
			t.Fatal(err)
		}
	}
	refused := 0
	for i := range 9 {
		p := c.await(fmt.Sprintf("p%d", i), func(p *corev1.Pod) bool { return p.Spec.NodeName != "" || len(p.Status.Conditions) > 0 })
		if p.Spec.NodeName == "" {
			refused++
		}
	}
	if refused != 4 {
		t.Errorf("%d pods refused, want 4 of 9 for 5 CPUs", refused)
	}
}

func TestSchedulerLeavesOthersPodsAlone(t *testing.T) {
	foreign := pod("foreign", "1")
	foreign.Spec.SchedulerName = "another"
	c := start(t, node("a", "4"), foreign, pod("web", "1"))
	c.await("web", on("a"))
	if got := c.await("foreign", func(*corev1.Pod) bool { return true }); got.Spec.NodeName != "" {
		t.Errorf("foreign pod was placed on %s", got.Spec.NodeName)
	}
}

func node(name, cpu string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110"),
		}},
	}
}

func pod(name, cpu string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			SchedulerName: corev1.DefaultSchedulerName,
			Containers: []corev1.Container{{
				Name: "c", Image: "app", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}},
			}},
		},
	}
}
