package workloads_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var (
	seed       = flag.Uint64("seed", 1, "of the random operations; a failure says which it was")
	operations = flag.Int("operations", 200, "how many random operations")
)

const (
	most    = 5  // the largest size chaos asks for
	asNodes = -1 // the size of a DaemonSet
)

var owners = []string{"ordered", "parallel", "daemon", "surging", "old", "rolled"}

// chaos does to a few owners what users and machines do, in an order the seed decides.
type chaos struct {
	t      *testing.T
	ns     string
	random *rand.Rand
	size   map[string]int    // by owner
	image  map[string]string // by owner
	nodes  []string
}

func (c *chaos) object(name string) client.Object {
	meta := metav1.ObjectMeta{Namespace: c.ns, Name: name}
	switch name {
	case "rolled":
		return &appsv1.Deployment{ObjectMeta: meta}
	case "daemon", "surging":
		return &appsv1.DaemonSet{ObjectMeta: meta}
	case "old":
		return &corev1.ReplicationController{ObjectMeta: meta}
	}
	return &appsv1.StatefulSet{ObjectMeta: meta}
}

// TestOwnersSettleAfterChaos: whatever happened on the way, every owner ends as it was last told to be, and at no
// moment has more pods than its rules allow.
func TestOwnersSettleAfterChaos(t *testing.T) {
	t.Logf("go test ./test/workloads -run %s -seed %d -operations %d", t.Name(), *seed, *operations)
	c := &chaos{t: t, ns: newNamespace(t, "chaos"), random: rand.New(rand.NewPCG(*seed, 0)), size: map[string]int{}, image: map[string]string{}}
	for _, node := range []string{"chaos-1", "chaos-2", "chaos-3"} {
		addNode(t, node)
		c.nodes = append(c.nodes, node)
	}
	c.begin()
	excess := c.watch()
	for i := range *operations {
		c.disturb(i)
	}
	c.settle()
	if found := excess(); len(found) > 0 {
		t.Errorf("too many pods at times:\n%s", strings.Join(found, "\n"))
	}
}

func (c *chaos) begin() {
	ordered, parallel := newStatefulSet(c.ns, "ordered", 3), newStatefulSet(c.ns, "parallel", 3)
	parallel.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
	parallel.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{MaxUnavailable: new(intstr.FromInt32(2))}
	daemon := newDaemonSet(c.ns, "daemon")
	daemon.Spec.Template.Spec.NodeSelector = map[string]string{"story": c.t.Name()}
	surging := newDaemonSet(c.ns, "surging")
	surging.Spec.Template.Spec.NodeSelector = daemon.Spec.Template.Spec.NodeSelector
	surging.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxSurge: new(intstr.FromInt32(1)), MaxUnavailable: new(intstr.FromInt32(0))}
	old := &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Namespace: c.ns, Name: "old"},
		Spec:       corev1.ReplicationControllerSpec{Replicas: new(int32(3)), Template: &newDeployment(c.ns, "old", "app:1", 0).Spec.Template},
	}
	create(c.t, ordered, parallel, daemon, surging, old, newDeployment(c.ns, "rolled", "app:1", 3))
	for _, name := range owners {
		c.image[name] = "app:1"
		c.size[name] = 3
		if _, daemons := c.object(name).(*appsv1.DaemonSet); daemons {
			c.size[name] = asNodes
		}
	}
}

// disturb does one thing.
func (c *chaos) disturb(i int) {
	owner := owners[c.random.IntN(len(owners))]
	switch n := c.random.IntN(100); {
	case n < 25 && c.size[owner] != asNodes:
		c.size[owner] = c.random.IntN(most + 1)
		c.patch(c.object(owner), fmt.Sprintf(`{"spec":{"replicas":%d}}`, c.size[owner]))
	case n < 45:
		c.image[owner] = fmt.Sprintf("app:%d", 1+c.random.IntN(3))
		c.patch(c.object(owner), fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":"c","image":%q}]}}}}`, c.image[owner]))
	case n < 85:
		pods := podsOf(c.t, c.ns, owner)
		if len(pods) > 0 {
			c.hurt(&pods[c.random.IntN(len(pods))])
		}
	case n < 97 || i%2 == 0:
		label := c.t.Name()
		if c.random.IntN(2) == 0 {
			label = "elsewhere"
		}
		node := c.nodes[1+c.random.IntN(len(c.nodes)-1)]
		c.patch(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, fmt.Sprintf(`{"metadata":{"labels":{"story":%q}}}`, label))
	default:
		if err := control.stop(); err != nil {
			c.t.Fatal(err)
		}
		if err := control.start(); err != nil {
			c.t.Fatal(err)
		}
	}
}

// hurt deletes a pod, fails it, or takes it from its owner.
func (c *chaos) hurt(pod *corev1.Pod) {
	var err error
	switch before := pod.DeepCopy(); c.random.IntN(3) {
	case 0:
		err = api.Delete(c.t.Context(), pod)
	case 1:
		pod.Status.Phase = corev1.PodFailed
		err = api.Status().Patch(c.t.Context(), pod, client.MergeFrom(before))
	case 2:
		pod.Labels["app"] = "stray"
		err = api.Patch(c.t.Context(), pod, client.MergeFrom(before))
	}
	if client.IgnoreNotFound(err) != nil {
		c.t.Fatal(err)
	}
}

func (c *chaos) patch(o client.Object, body string) {
	c.t.Helper()
	patch(c.t, o, body)
}

// settle waits until every owner is as it was last told to be.
func (c *chaos) settle() {
	strays := client.MatchingLabels{"app": "stray"}
	if err := api.DeleteAllOf(c.t.Context(), &corev1.Pod{}, client.InNamespace(c.ns), strays); err != nil { // their names are free again
		c.t.Fatal(err)
	}
	for _, node := range c.nodes {
		c.patch(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}}, fmt.Sprintf(`{"metadata":{"labels":{"story":%q}}}`, c.t.Name()))
	}
	deadline := time.After(60 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		unsettled := c.unsettled()
		if len(unsettled) == 0 {
			return
		}
		select {
		case <-deadline:
			c.t.Fatalf("not settled in time:\n%s", strings.Join(unsettled, "\n"))
		case <-tick.C:
		}
	}
}

// unsettled says whose pods are not those it was told to have.
func (c *chaos) unsettled() (complaints []string) {
	for owner, image := range c.image {
		want := c.size[owner]
		if want == asNodes {
			want = len(c.nodes)
		}
		good := 0
		pods := podsOf(c.t, c.ns, owner)
		for _, pod := range pods {
			// A replication controller leaves the pods it has as they are.
			if pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodRunning && (owner == "old" || pod.Spec.Containers[0].Image == image) {
				good++
			} else if pod.Status.Phase == corev1.PodFailed && pod.DeletionTimestamp == nil && (owner == "old" || owner == "rolled") {
				want, good = want+1, good+1 // failed pods stay to be looked at
			}
		}
		if good != want || len(pods) != want {
			complaints = append(complaints, fmt.Sprintf("%s: %d good pods of %d, want %d with %s", owner, good, len(pods), want, image))
		}
	}
	return complaints
}

// watch counts the standing pods of each owner as they come and go; what it returns stops it and says where there
// were too many.
func (c *chaos) watch() func() []string {
	w, err := api.Watch(c.t.Context(), &corev1.PodList{}, client.InNamespace(c.ns))
	if err != nil {
		c.t.Fatal(err)
	}
	var found []string
	var done sync.WaitGroup
	done.Go(func() {
		standing := map[types.UID]string{}
		for e := range w.ResultChan() {
			pod, ok := e.Object.(*corev1.Pod)
			if !ok {
				continue
			}
			key := place(pod)
			if e.Type == watch.Deleted || pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed || key == "" {
				delete(standing, pod.UID)
				continue
			}
			standing[pod.UID] = key
			n := 0
			for _, other := range standing {
				if other == key {
					n++
				}
			}
			if allowed := allowance(key); n > allowed {
				found = append(found, fmt.Sprintf("%d pods of %s, at most %d are allowed", n, key, allowed))
			}
		}
	})
	return func() []string { w.Stop(); done.Wait(); return found }
}

// place is what a pod may have few companions in: its owner, for a daemon its node.
func place(pod *corev1.Pod) string {
	owner := metav1.GetControllerOfNoCopy(pod)
	switch {
	case owner == nil:
		return ""
	case owner.Kind == "DaemonSet":
		return owner.Name + " on " + pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields[0].Values[0]
	case owner.Kind == "ReplicaSet":
		return "rolled"
	}
	return owner.Name
}

func allowance(key string) int {
	switch {
	case strings.HasPrefix(key, "daemon on "):
		return 1
	case strings.HasPrefix(key, "surging on "):
		return 2
	case key == "rolled":
		return most + 2 // a surge of a quarter, rounded up
	}
	return most
}
