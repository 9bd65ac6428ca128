package placement_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var (
	runs     = flag.Int("runs", 1, "how often the story is told, each time by another seed")
	bindings = flag.Int("bindings", 150, "how many bindings a story is long")
	seed     = flag.Uint64("seed", 1, "of the first story")
)

const (
	machines = 6
	milliCPU = 4000 // of a machine
	crowd    = 50   // pods there are at any time: more than there is room for
	// One of so many bindings makes a node go and come back, and makes the scheduler die.
	betweenRemovals = 10
	betweenDeaths   = 50
)

// TestNoNodeIsPromisedTwice deletes pods and nodes and kills the scheduler while it places pods, and counts by the
// history of events what each node holds: never more than it has. Bound pods stay where they are.
func TestNoNodeIsPromisedTwice(t *testing.T) {
	for i := range *runs {
		with := *seed + uint64(i)
		t.Run(fmt.Sprintf("seed %d", with), func(t *testing.T) {
			s := &story{t: t, random: rand.New(rand.NewPCG(with, 0)), ns: fmt.Sprintf("run-%d", with), held: map[types.UID]holding{}, deleted: map[string]bool{}}
			s.tell()
		})
	}
}

// story is one run, and what the events so far amount to.
type story struct {
	t      *testing.T
	random *rand.Rand
	ns     string
	pods   int // made so far

	held    map[types.UID]holding
	deleted map[string]bool
	bound   int // bindings seen
	killed  int
	gone    int // nodes removed
}

type holding struct {
	name, node string
	milliCPU   int64
}

func (s *story) tell() {
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Minute)
	defer cancel()
	s.must(api.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.ns}}))
	s.must(api.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: "default"}}))
	for i := range machines {
		s.addNode(ctx, i)
		defer s.removeNode(context.WithoutCancel(ctx), i)
	}
	history, err := api.Watch(ctx, &corev1.PodList{}, client.InNamespace(s.ns))
	s.must(err)
	defer history.Stop()
	for range crowd {
		s.addPod(ctx)
	}
	scheduler := startScheduler(s.t)
	defer func() { scheduler.kill(s.t) }()
	for s.bound < *bindings {
		event, open := <-history.ResultChan()
		if !open {
			s.t.Fatalf("the history ends after %d bindings", s.bound)
		}
		pod, ok := event.Object.(*corev1.Pod)
		if !ok {
			s.t.Fatalf("the history says %v", event.Object)
		}
		if !s.learn(event.Type, pod) {
			continue
		}
		s.deleteOne(ctx)
		s.addPod(ctx)
		if s.bound%betweenRemovals == 0 {
			i := s.random.IntN(machines)
			s.removeNode(ctx, i)
			s.addNode(ctx, i)
			s.gone++
		}
		if s.bound%betweenDeaths == 0 {
			scheduler.kill(s.t)
			scheduler = startScheduler(s.t)
			s.killed++
		}
	}
	s.t.Logf("%d bindings, %d nodes removed, the scheduler killed %d times", s.bound, s.gone, s.killed)
}

// learn takes one event in and checks what it leads to. True is a new binding.
func (s *story) learn(what watch.EventType, pod *corev1.Pod) bool {
	before, known := s.held[pod.UID]
	if known && pod.Spec.NodeName != before.node {
		s.t.Errorf("pod %s moved from %s to %q", pod.Name, before.node, pod.Spec.NodeName)
	}
	if what == watch.Deleted {
		delete(s.held, pod.UID)
		return false
	}
	if known || pod.Spec.NodeName == "" {
		return false
	}
	s.held[pod.UID] = holding{pod.Name, pod.Spec.NodeName, pod.Spec.Containers[0].Resources.Requests.Cpu().MilliValue()}
	s.bound++
	var sum int64
	for _, h := range s.held {
		if h.node == pod.Spec.NodeName {
			sum += h.milliCPU
		}
	}
	if sum > milliCPU {
		s.t.Errorf("binding %d: pods on %s ask for %dm, it has %dm", s.bound, pod.Spec.NodeName, sum, milliCPU)
	}
	return true
}

// deleteOne deletes a pod that has a node, so that another has room.
func (s *story) deleteOne(ctx context.Context) {
	names := make([]string, 0, len(s.held))
	for _, h := range s.held {
		if !s.deleted[h.name] { // the history may not have told that yet
			names = append(names, h.name)
		}
	}
	slices.Sort(names) // what is chosen depends on the seed alone
	name := names[s.random.IntN(len(names))]
	s.deleted[name] = true
	s.must(api.Delete(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: name}}))
}

func (s *story) addPod(ctx context.Context) {
	s.pods++
	asks := *resource.NewMilliQuantity([]int64{500, 1000, 1500, 2500}[s.random.IntN(4)], resource.DecimalSI)
	s.must(api.Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.ns, Name: fmt.Sprintf("p%05d", s.pods)},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: ptr.To[int64](0), AutomountServiceAccountToken: ptr.To(false),
			NodeSelector: map[string]string{"story": s.ns},
			Containers: []corev1.Container{{
				Name: "c", Image: "app", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: asks}},
			}},
		},
	}))
}

func (s *story) node(i int) string { return fmt.Sprintf("%s-node-%d", s.ns, i) }

func (s *story) addNode(ctx context.Context, i int) {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: s.node(i), Labels: map[string]string{"story": s.ns}}}
	s.must(api.Create(ctx, n))
	n.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU: *resource.NewMilliQuantity(milliCPU, resource.DecimalSI), corev1.ResourcePods: resource.MustParse("110"),
	}
	n.Status.Capacity = n.Status.Allocatable
	s.must(api.Status().Update(ctx, n))
	n.Spec.Taints = nil // new ones are held to be not ready
	s.must(api.Update(ctx, n))
}

func (s *story) removeNode(ctx context.Context, i int) {
	err := api.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: s.node(i)}})
	s.must(client.IgnoreNotFound(err))
}

func (s *story) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%v (%s)", err, apierrors.ReasonForError(err))
	}
}
