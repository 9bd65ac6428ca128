package claims

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
	"k8s.io/utils/ptr"
)

const driverName = "gpu.example"

// server is a driver with two devices, one for each request.
type server struct {
	drav1.UnimplementedDRAPluginServer
	mu     sync.Mutex
	calls  []string
	refuse string
}

func (s *server) called(what string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, what)
	return s.refuse
}

func (s *server) set(refuse string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = refuse
}

func (s *server) NodePrepareResources(_ context.Context, q *drav1.NodePrepareResourcesRequest) (*drav1.NodePrepareResourcesResponse, error) {
	out := &drav1.NodePrepareResourcesResponse{Claims: map[string]*drav1.NodePrepareResourceResponse{}}
	for _, c := range q.Claims {
		out.Claims[c.Uid] = &drav1.NodePrepareResourceResponse{Error: s.called("prepare " + c.Name), Devices: []*drav1.Device{
			{RequestNames: []string{"big/first"}, CdiDeviceIds: []string{"example.com/gpu=big"}},
			{RequestNames: []string{"small"}, CdiDeviceIds: []string{"example.com/gpu=small"}},
		}}
	}
	return out, nil
}

func (s *server) NodeUnprepareResources(_ context.Context, q *drav1.NodeUnprepareResourcesRequest) (*drav1.NodeUnprepareResourcesResponse, error) {
	out := &drav1.NodeUnprepareResourcesResponse{Claims: map[string]*drav1.NodeUnprepareResourceResponse{}}
	for _, c := range q.Claims {
		out.Claims[c.Uid] = &drav1.NodeUnprepareResourceResponse{Error: s.called("unprepare " + c.Name)}
	}
	return out, nil
}

func podNamed(name, request string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name)},
		Spec: corev1.PodSpec{
			ResourceClaims: []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimName: ptr.To("shared")}},
			Containers:     []corev1.Container{{Name: "app", Resources: corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "gpu", Request: request}}}}},
		},
	}
}

func claimFor(pods ...string) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "shared", UID: "claim-uid"}}
	c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Driver: driverName}, {Driver: driverName}}}}
	for _, p := range pods {
		c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p, UID: types.UID(p)})
	}
	return c
}

func TestClaimsLife(t *testing.T) {
	dir, err := os.MkdirTemp("", "kr") // short: a socket lies in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "dra.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s, g := &server{}, grpc.NewServer()
	drav1.RegisterDRAPluginServer(g, s)
	go func() { _ = g.Serve(listener) }() // ends with Stop
	t.Cleanup(g.Stop)
	api := fake.NewClientset(claimFor("one", "two"))
	start := func() *Manager {
		m, err := New(Config{NodeName: "here", State: filepath.Join(dir, "state", "claims.json"), Client: api, Log: slog.Default()})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := start()
	equip := func(pod *corev1.Pod, want ...string) {
		t.Helper()
		extras, err := m.Equip(t.Context(), pod, &pod.Spec.Containers[0])
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, extras.CDI); diff != "" {
			t.Errorf("devices (-want +got):\n%s", diff)
		}
	}
	one, two := podNamed("one", "big"), podNamed("two", "")
	if _, err := m.Equip(t.Context(), one, &one.Spec.Containers[0]); err == nil || !strings.Contains(err.Error(), "not registered on node here") {
		t.Errorf("without its driver: %v", err)
	}
	register := func() {
		t.Helper()
		if err := m.Register(t.Context(), driverName, socket, []string{drav1.DRAPluginService}); err != nil {
			t.Fatal(err)
		}
	}
	register()
	s.set("too hot")
	if _, err := m.Equip(t.Context(), one, &one.Spec.Containers[0]); err == nil || !strings.Contains(err.Error(), "too hot") {
		t.Errorf("a driver that refuses: %v", err)
	}
	s.set("")
	equip(one, "example.com/gpu=big")
	equip(two, "example.com/gpu=big", "example.com/gpu=small")
	stranger := podNamed("stranger", "")
	if _, err := m.Equip(t.Context(), stranger, &stranger.Spec.Containers[0]); err == nil || !strings.Contains(err.Error(), "not reserved for pod shop/stranger") {
		t.Errorf("a pod it is not reserved for: %v", err)
	}
	if err := m.Release(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	m = start() // a new process, and the driver is not back yet
	if err := m.Release(t.Context(), "two"); err == nil {
		t.Error("the claim was let go without its driver")
	}
	register()
	if diff := cmp.Diff([]types.UID{"two"}, m.Pods()); diff != "" {
		t.Errorf("pods with claims (-want +got):\n%s", diff)
	}
	for range 2 {
		if err := m.Release(t.Context(), "two"); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"prepare shared", "prepare shared", "unprepare shared"}, s.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	if got := start().Pods(); len(got) != 0 {
		t.Errorf("left on disk: %v", got)
	}
}

func TestWanted(t *testing.T) {
	pod := podNamed("app", "small")
	pod.Spec.ResourceClaims = append(pod.Spec.ResourceClaims, corev1.PodResourceClaim{Name: "made", ResourceClaimTemplateName: ptr.To("template")}, corev1.PodResourceClaim{Name: "waits"})
	pod.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "made", ResourceClaimName: ptr.To("app-made-x")}}
	pod.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "extended", RequestMappings: []corev1.ContainerExtendedResourceRequest{
		{ContainerName: "app", ResourceName: "example.com/gpu", RequestName: "r0"}, {ContainerName: "other", RequestName: "r1"},
	}}
	c := pod.Spec.Containers[0]
	c.Resources.Claims = append(c.Resources.Claims, corev1.ResourceClaim{Name: "made"}, corev1.ResourceClaim{Name: "waits"})
	want := []want{{name: "gpu", claim: "shared", request: "small"}, {name: "made", claim: "app-made-x"}, {name: "waits"}, {name: "example.com/gpu", claim: "extended", request: "r0"}}
	if diff := cmp.Diff(want, wanted(pod, &c), cmp.AllowUnexported(want[0])); diff != "" {
		t.Errorf("wanted() (-want +got):\n%s", diff)
	}
}
