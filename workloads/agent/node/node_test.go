package node

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// engine is a runtime whose network can come and go.
type engine struct{ network atomic.Bool }

func (e *engine) Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: runtimeapi.RuntimeReady, Status: true}, {Type: runtimeapi.NetworkReady, Status: e.network.Load(), Reason: "NetworkPluginNotReady"},
	}}}, nil
}

func (*engine) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "containerd", RuntimeVersion: "v2.4.2"}, nil
}

func (*engine) ListImages(context.Context, *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	return &runtimeapi.ListImagesResponse{Images: []*runtimeapi.Image{{RepoTags: []string{"demo:1"}, Size: 7}}}, nil
}

// started is a node and whether it said that it is ready.
type started struct {
	*Node
	ready <-chan struct{}
}

// events passes on their reasons.
type events chan string

func (e events) Event(_ runtime.Object, _, reason, _ string) { e <- reason }

// start runs a node against an API that behaves, until the test ends.
func start(t *testing.T, engine *engine, config Config, objects ...*corev1.Node) (*started, kubernetes.Interface) {
	t.Helper()
	client := fake.NewClientset()
	for _, object := range objects {
		if _, err := client.CoreV1().Nodes().Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	factory := informers.NewSharedInformerFactory(client, 0)
	informer := factory.Core().V1().Nodes().Informer()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())

	config.Name, config.Version, config.DataDir = "n1", "v1.37.2+knarr", t.TempDir()
	config.Client, config.Nodes, config.Runtime = client, informer, engine
	if config.Addresses == nil {
		config.Addresses = func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("10.0.0.1")} }
	}
	node, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() { done <- node.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Run() = %v, want nil after its context ended", err)
		}
		factory.Shutdown()
	})
	becomes(t, client, "registered", func(*corev1.Node) bool { return true })
	return &started{Node: node, ready: ready}, client
}

func within(t *testing.T, happened <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-happened:
	case <-time.After(10 * time.Second):
		t.Fatalf("no %s within ten seconds", what)
	}
}

// becomes watches the node until a version satisfies the condition.
func becomes(t *testing.T, client kubernetes.Interface, what string, is func(*corev1.Node) bool) {
	t.Helper()
	watch, err := client.CoreV1().Nodes().Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	if node, err := client.CoreV1().Nodes().Get(t.Context(), "n1", metav1.GetOptions{}); err == nil && is(node) {
		return
	}
	deadline := time.After(10 * time.Second)
	for {
		select {
		case event := <-watch.ResultChan():
			if node, ok := event.Object.(*corev1.Node); ok && is(node) {
				return
			}
		case <-deadline:
			t.Fatalf("node did not become %s within ten seconds", what)
		}
	}
}

func assignRange(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	if _, err := client.CoreV1().Nodes().Patch(t.Context(), "n1", types.MergePatchType, []byte(`{"spec":{"podCIDR":"10.42.0.0/24"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

func readyNode(node *corev1.Node) bool { return isReady(node.Status) }

func TestANewMachineBecomesReadyAndComesBack(t *testing.T) {
	engine := &engine{}
	events := make(events, 100)
	node, client := start(t, engine, Config{Events: events})
	becomes(t, client, "NotReady", func(n *corev1.Node) bool {
		return find(n.Status.Conditions, corev1.NodeReady).Status == corev1.ConditionFalse && n.Labels[corev1.LabelHostname] == "n1"
	})
	assignRange(t, client)
	engine.network.Store(true) // nobody wakes the node: while it is not Ready it looks often
	becomes(t, client, "Ready", readyNode)
	within(t, node.ready, "signal of readiness")
	for reason := ""; reason != "NodeReady"; {
		reason = <-events
	}

	if err := client.CoreV1().Nodes().Delete(t.Context(), "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	becomes(t, client, "registered again", func(n *corev1.Node) bool { return n.Spec.PodCIDR == "" })
	assignRange(t, client)
	becomes(t, client, "Ready again", readyNode)

	engine.network.Store(false)
	node.Wake()
	becomes(t, client, "NotReady when its network goes", func(n *corev1.Node) bool { return !readyNode(n) })
}

func TestAnAdoptedNodeKeepsItsLabelsAndGetsOurs(t *testing.T) {
	engine := &engine{}
	engine.network.Store(true)
	var address atomic.Pointer[netip.Addr]
	first, second := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
	address.Store(&first)
	node, client := start(t, engine, Config{Addresses: func() []netip.Addr { return []netip.Addr{*address.Load()} }}, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "old", Labels: map[string]string{"disk": "ssd"}},
		Spec:       corev1.NodeSpec{PodCIDR: "10.42.7.0/24"},
		Status:     corev1.NodeStatus{NodeInfo: corev1.NodeSystemInfo{BootID: "another boot"}},
	})
	becomes(t, client, "Ready with both labels", func(n *corev1.Node) bool {
		return readyNode(n) && n.Labels["disk"] == "ssd" && n.Labels[corev1.LabelHostname] == "n1"
	})
	address.Store(&second)
	node.Wake()
	becomes(t, client, "known by its new address", func(n *corev1.Node) bool {
		return len(n.Status.Addresses) == 2 && n.Status.Addresses[0].Address == "10.0.0.2"
	})
}

func TestTheLeaseBelongsToTheNodeAndIsRenewed(t *testing.T) {
	client := fake.NewClientset()
	node, err := New(Config{ // that does not run, and so renews nothing by itself
		Name: "n1", Client: client, Nodes: informers.NewSharedInformerFactory(client, 0).Core().V1().Nodes().Informer(), Runtime: &engine{},
		Addresses: func() []netip.Addr { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	node.remember(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "node"}}, time.Time{})
	first, err := node.renew(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if first.Name != "n1" || *first.Spec.HolderIdentity != "n1" || *first.Spec.LeaseDurationSeconds != 40 || len(first.OwnerReferences) != 1 {
		t.Errorf("lease = %+v", first)
	}
	second, err := node.renew(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	if !second.Spec.RenewTime.After(first.Spec.RenewTime.Time) {
		t.Errorf("renewed at %s after %s", second.Spec.RenewTime, first.Spec.RenewTime)
	}
	if err := client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Delete(t.Context(), "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := node.renew(t.Context(), second); err == nil {
		t.Error("renewing a deleted lease worked; want an error, and a new lease with the next try")
	}
	if _, err := node.renew(t.Context(), nil); err != nil {
		t.Errorf("make the lease anew: %v", err)
	}
}

func TestThisMachineHasParts(t *testing.T) {
	m, err := readMachine()
	if err != nil {
		t.Fatal(err)
	}
	if m.cpus < 1 || m.memory == 0 || m.info.BootID == "" || m.info.KernelVersion == "" || m.info.OSImage == "" {
		t.Errorf("readMachine() = %+v", m)
	}
	if size := readDisk(t.TempDir()); size == 0 {
		t.Error("readDisk() = 0")
	}
}
