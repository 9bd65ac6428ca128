// Package podresources tells programs on this machine which CPUs, memory and devices are whose.
//
// In:       pods of this node, and what is given to them.
// Out:      the PodResourcesLister service (v1) on a socket of root's, in the folder pod-resources: List, Get and
// GetAllocatableResources, as KEP-1884, KEP-2403 and KEP-3695 have them.
// Promise:  only reads, and only when asked; who asks more than a hundred times a second is told to come back.
// Not here: who decides (workloads/agent/exclusive, workloads/agent/devices, workloads/agent/claims).
package podresources

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/utils/cpuset"

	"knarr.dev/knarr/workloads/agent/align"
	"knarr.dev/knarr/workloads/agent/claims"
	"knarr.dev/knarr/workloads/agent/exclusive"
)

// Folder is where programs look for the socket, below the folder they know the agent's by.
const Folder = "pod-resources"

// What upstream answers, too.
const perSecond, burst = 100, 10

// Exclusive knows what containers have to themselves. workloads/agent/exclusive implements it.
type Exclusive interface {
	Given(pod types.UID, container string) (cpuset.CPUSet, []exclusive.Block)
	Allocatable() (cpuset.CPUSet, []exclusive.Block)
}

// Devices knows the devices of plugins. workloads/agent/devices implements it.
type Devices interface {
	Given(pod types.UID, container string) map[string][]string
	Working() map[string]map[string]align.Nodes
}

// Claims knows the devices of resource claims. workloads/agent/claims implements it.
type Claims interface {
	Given(pod *corev1.Pod, c *corev1.Container) []claims.Given
}

// Config of a server.
type Config struct {
	Dir       string               // of the socket
	Pods      func() []*corev1.Pod // of this node, with their newest status
	Exclusive Exclusive            // nil: nobody has anything to himself
	Devices   Devices
	Claims    Claims
	Log       *slog.Logger
}

// Server is the component.
type Server struct {
	podresourcesv1.UnimplementedPodResourcesListerServer
	conf Config
}

// New makes a server that Run will start.
func New(conf Config) *Server { return &Server{conf: conf} }

// Name of the component.
func (s *Server) Name() string { return "pod resources" }

// Run serves until ctx ends.
func (s *Server) Run(ctx context.Context, ready func()) error {
	if err := os.MkdirAll(s.conf.Dir, 0o750); err != nil {
		return fmt.Errorf("make the folder of pods' resources: %w", err)
	}
	socket := filepath.Join(s.conf.Dir, "kubelet.sock")
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove an old socket: %w", err)
	}
	listener, err := net.Listen("unix", socket)
	if err == nil {
		err = os.Chmod(socket, 0o600)
	}
	if err != nil {
		return fmt.Errorf("listen for questions about pods' resources: %w", err)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(within(rate.NewLimiter(perSecond, burst))))
	podresourcesv1.RegisterPodResourcesListerServer(server, s)
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	ready()
	if err := server.Serve(listener); ctx.Err() == nil {
		return fmt.Errorf("serve pods' resources: %w", err)
	}
	return nil
}

// within a limit questions are answered.
func within(limit *rate.Limiter) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, q any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		if !limit.Allow() {
			return nil, status.Error(codes.ResourceExhausted, "rejected by rate limit")
		}
		return handle(ctx, q)
	}
}

// List implements the service: pods that have ended have nothing any more.
func (s *Server) List(context.Context, *podresourcesv1.ListPodResourcesRequest) (*podresourcesv1.ListPodResourcesResponse, error) {
	out := &podresourcesv1.ListPodResourcesResponse{}
	for _, pod := range s.conf.Pods() {
		if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			out.PodResources = append(out.PodResources, s.of(pod))
		}
	}
	return out, nil
}

// Get implements the service.
func (s *Server) Get(_ context.Context, q *podresourcesv1.GetPodResourcesRequest) (*podresourcesv1.GetPodResourcesResponse, error) {
	for _, pod := range s.conf.Pods() {
		if pod.Namespace == q.PodNamespace && pod.Name == q.PodName {
			return &podresourcesv1.GetPodResourcesResponse{PodResources: s.of(pod)}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "pod %s in namespace %s not found", q.PodName, q.PodNamespace)
}

// GetAllocatableResources implements the service.
func (s *Server) GetAllocatableResources(context.Context, *podresourcesv1.AllocatableResourcesRequest) (*podresourcesv1.AllocatableResourcesResponse, error) {
	out := &podresourcesv1.AllocatableResourcesResponse{}
	working := s.conf.Devices.Working()
	for _, name := range slices.Sorted(maps.Keys(working)) {
		out.Devices = append(out.Devices, devices(name, slices.Sorted(maps.Keys(working[name])), working[name])...)
	}
	if s.conf.Exclusive != nil {
		cpus, memory := s.conf.Exclusive.Allocatable()
		out.CpuIds, out.Memory = ids(cpus), blocks(memory)
	}
	return out, nil
}

func (s *Server) of(pod *corev1.Pod) *podresourcesv1.PodResources {
	out := &podresourcesv1.PodResources{Name: pod.Name, Namespace: pod.Namespace}
	working := s.conf.Devices.Working()
	add := func(c *corev1.Container) {
		one := &podresourcesv1.ContainerResources{Name: c.Name}
		given := s.conf.Devices.Given(pod.UID, c.Name)
		for _, name := range slices.Sorted(maps.Keys(given)) {
			one.Devices = append(one.Devices, devices(name, given[name], working[name])...)
		}
		if s.conf.Exclusive != nil {
			cpus, memory := s.conf.Exclusive.Given(pod.UID, c.Name)
			one.CpuIds, one.Memory = ids(cpus), blocks(memory)
		}
		for _, claim := range s.conf.Claims.Given(pod, c) {
			one.DynamicResources = append(one.DynamicResources, dynamic(claim))
		}
		out.Containers = append(out.Containers, one)
	}
	for i := range pod.Spec.InitContainers { // what the others had is somebody else's by now
		if policy := pod.Spec.InitContainers[i].RestartPolicy; policy != nil && *policy == corev1.ContainerRestartPolicyAlways {
			add(&pod.Spec.InitContainers[i])
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return out
}

// devices of one resource, those of the same NUMA nodes together.
func devices(resource string, ids []string, where map[string]align.Nodes) []*podresourcesv1.ContainerDevices {
	groups := map[align.Nodes]*podresourcesv1.ContainerDevices{}
	for _, id := range ids {
		nodes, known := where[id]
		if !known {
			nodes = align.Anywhere
		}
		if groups[nodes] == nil {
			groups[nodes] = &podresourcesv1.ContainerDevices{ResourceName: resource, Topology: topology(nodes)}
		}
		groups[nodes].DeviceIds = append(groups[nodes].DeviceIds, id)
	}
	var out []*podresourcesv1.ContainerDevices
	for _, nodes := range slices.Sorted(maps.Keys(groups)) {
		out = append(out, groups[nodes])
	}
	return out
}

func topology(nodes align.Nodes) *podresourcesv1.TopologyInfo {
	if nodes == align.Anywhere {
		return nil
	}
	out := &podresourcesv1.TopologyInfo{}
	for _, id := range nodes.List() {
		out.Nodes = append(out.Nodes, &podresourcesv1.NUMANode{ID: int64(id)})
	}
	return out
}

func ids(cpus cpuset.CPUSet) []int64 {
	var out []int64
	for _, id := range cpus.List() {
		out = append(out, int64(id))
	}
	return out
}

func blocks(list []exclusive.Block) []*podresourcesv1.ContainerMemory {
	var out []*podresourcesv1.ContainerMemory
	for _, b := range list {
		out = append(out, &podresourcesv1.ContainerMemory{MemoryType: string(b.Type), Size: b.Size, Topology: topology(b.Nodes)})
	}
	return out
}

func dynamic(claim claims.Given) *podresourcesv1.DynamicResource {
	out := &podresourcesv1.DynamicResource{ClaimName: claim.Claim, ClaimNamespace: claim.Namespace}
	for _, d := range claim.Devices {
		one := &podresourcesv1.ClaimResource{DriverName: d.Driver, PoolName: d.Pool, DeviceName: d.Name, ShareId: d.Share}
		for _, name := range d.CDI {
			one.CdiDevices = append(one.CdiDevices, &podresourcesv1.CDIDevice{Name: name})
		}
		out.ClaimResources = append(out.ClaimResources, one)
	}
	return out
}
