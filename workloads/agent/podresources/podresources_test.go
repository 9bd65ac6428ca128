package podresources

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/utils/cpuset"

	"knarr.dev/knarr/workloads/agent/align"
	"knarr.dev/knarr/workloads/agent/claims"
	"knarr.dev/knarr/workloads/agent/exclusive"
)

// own has what the container "app" of the pod "one" is given.
type own struct{}

func (own) Given(pod types.UID, c string) (cpuset.CPUSet, []exclusive.Block) {
	if pod != "one" || c != "app" {
		return cpuset.New(), nil
	}
	return cpuset.New(2, 3), []exclusive.Block{{Type: "memory", Size: 1 << 20, Nodes: align.Of(1)}}
}

func (own) Allocatable() (cpuset.CPUSet, []exclusive.Block) {
	return cpuset.New(1, 2, 3), []exclusive.Block{{Type: "memory", Size: 1 << 30, Nodes: align.Of(0)}}
}

type plugins struct{}

func (plugins) Given(pod types.UID, c string) map[string][]string {
	if pod != "one" || c != "side" {
		return nil
	}
	return map[string][]string{"example.com/gpu": {"a", "b", "gone"}}
}

func (plugins) Working() map[string]map[string]align.Nodes {
	return map[string]map[string]align.Nodes{"example.com/gpu": {"a": align.Of(0), "b": align.Of(1), "c": align.Anywhere}}
}

type drivers struct{}

func (drivers) Given(_ *corev1.Pod, c *corev1.Container) []claims.Given {
	if c.Name != "app" {
		return nil
	}
	return []claims.Given{{Namespace: "default", Claim: "mine", Devices: []claims.Device{{Driver: "example.com", Pool: "p", Name: "d0", CDI: []string{"example.com/gpu=d0"}}}}}
}

// served starts a server in a folder and returns a client of it.
func served(t *testing.T, pods ...*corev1.Pod) podresourcesv1.PodResourcesListerClient {
	t.Helper()
	dir, err := os.MkdirTemp("", "kp") // short: a socket lies in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, Folder, "kubelet.sock")
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	server := New(Config{Dir: filepath.Join(dir, Folder), Pods: func() []*corev1.Pod { return pods }, Exclusive: own{}, Devices: plugins{}, Claims: drivers{}, Log: slog.Default()})
	go func() { ended <- server.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		ended <- nil
		t.Fatal(err)
	}
	if at, err := os.Stat(socket); err != nil || at.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v; want it root's alone", at.Mode(), err)
	}
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return podresourcesv1.NewPodResourcesListerClient(conn)
}

func pod(name string, phase corev1.PodPhase) *corev1.Pod {
	always := corev1.ContainerRestartPolicyAlways
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)},
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "init"}, {Name: "side", RestartPolicy: &always}}, Containers: []corev1.Container{{Name: "app"}},
		},
		Status: corev1.PodStatus{Phase: phase},
	}
}

func TestPodResources(t *testing.T) {
	client := served(t, pod("one", corev1.PodRunning), pod("over", corev1.PodSucceeded))
	on := func(node int64) *podresourcesv1.TopologyInfo {
		return &podresourcesv1.TopologyInfo{Nodes: []*podresourcesv1.NUMANode{{ID: node}}}
	}
	const gpu = "example.com/gpu"
	want := &podresourcesv1.PodResources{Name: "one", Namespace: "default", Containers: []*podresourcesv1.ContainerResources{
		{Name: "side", Devices: []*podresourcesv1.ContainerDevices{
			{ResourceName: gpu, DeviceIds: []string{"a"}, Topology: on(0)}, {ResourceName: gpu, DeviceIds: []string{"b"}, Topology: on(1)}, {ResourceName: gpu, DeviceIds: []string{"gone"}},
		}},
		{
			Name: "app", CpuIds: []int64{2, 3}, Memory: []*podresourcesv1.ContainerMemory{{MemoryType: "memory", Size: 1 << 20, Topology: on(1)}},
			DynamicResources: []*podresourcesv1.DynamicResource{{ClaimName: "mine", ClaimNamespace: "default", ClaimResources: []*podresourcesv1.ClaimResource{
				{DriverName: "example.com", PoolName: "p", DeviceName: "d0", CdiDevices: []*podresourcesv1.CDIDevice{{Name: "example.com/gpu=d0"}}},
			}}},
		},
	}}
	plain := cmpopts.IgnoreUnexported(podresourcesv1.PodResources{}, podresourcesv1.ContainerResources{}, podresourcesv1.ContainerDevices{}, podresourcesv1.TopologyInfo{},
		podresourcesv1.NUMANode{}, podresourcesv1.ContainerMemory{}, podresourcesv1.DynamicResource{}, podresourcesv1.ClaimResource{}, podresourcesv1.CDIDevice{})
	list, err := client.List(t.Context(), &podresourcesv1.ListPodResourcesRequest{})
	if err != nil || len(list.PodResources) != 1 {
		t.Fatalf("List() = %v, %v; want the one that runs", list, err)
	}
	if diff := cmp.Diff(want, list.PodResources[0], plain); diff != "" {
		t.Errorf("List() (-want +got):\n%s", diff)
	}
	one, err := client.Get(t.Context(), &podresourcesv1.GetPodResourcesRequest{PodName: "one", PodNamespace: "default"})
	if diff := cmp.Diff(want, one.GetPodResources(), plain); err != nil || diff != "" {
		t.Errorf("Get() = %v (-want +got):\n%s", err, diff)
	}
	if _, err := client.Get(t.Context(), &podresourcesv1.GetPodResourcesRequest{PodName: "two", PodNamespace: "default"}); status.Code(err) != codes.NotFound {
		t.Errorf("Get() of a pod that is not here: %v", err)
	}
	all, err := client.GetAllocatableResources(t.Context(), &podresourcesv1.AllocatableResourcesRequest{})
	if err != nil || len(all.Devices) != 3 || len(all.CpuIds) != 3 || len(all.Memory) != 1 {
		t.Errorf("GetAllocatableResources() = %v, %v", all, err)
	}
}

func TestWhoAsksTooOften(t *testing.T) {
	ask := within(rate.NewLimiter(0, 2))
	var told []codes.Code
	for range 3 {
		_, err := ask(t.Context(), nil, nil, func(context.Context, any) (any, error) { return nil, nil })
		told = append(told, status.Code(err))
	}
	if diff := cmp.Diff([]codes.Code{codes.OK, codes.OK, codes.ResourceExhausted}, told); diff != "" {
		t.Errorf("answers (-want +got):\n%s", diff)
	}
}
