// Package stats says what the node and its pods use, in the forms autoscalers and people ask for.
//
// In:       the runtime's figures of pods and containers, /proc for the machine, statfs for its disks.
// Out:      the Summary API, and the same as Prometheus text for the metrics server.
// Promise:  read when asked, never in between; a figure the runtime does not have is left out, not zero.
// Not here: HTTP and who may ask (workloads/agent/nodeapi).
package stats

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"knarr.dev/knarr/workloads/agent/cgroup"
)

// Runtime has the figures; workloads/agent/runtime is one.
type Runtime interface {
	ListPodSandboxStats(context.Context, *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error)
	ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error)
	ListContainers(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error)
	ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error)
}

// Drivers of storage know what is in their volumes; storage/csi has them.
type Drivers interface {
	// Usage of the volume that a driver published for a pod at a path; nil, where none did or it does not count.
	Usage(ctx context.Context, pod types.UID, path string) (*statsapi.FsStats, error)
}

// Collector reads them.
type Collector struct {
	NodeName string
	DataDir  string // on the node's disk
	Runtime  Runtime
	Groups   Groups

	VolumeRoots []string                          // what lies in them is volumes and nothing else
	LogRoot     string                            // containers' logs lie in it
	Paths       func(types.UID) map[string]string // of a pod's volumes, by their names
	Drivers     Drivers                           // of storage; nil: none
	Pods        func() []*corev1.Pod

	volumes remembered[*statsapi.FsStats] // by path
	logs    remembered[size]
	rates   rates
}

// Summary of the node and all its pods. With onlyCPUAndMemory disks and networks are left out, which is cheaper.
func (c *Collector) Summary(ctx context.Context, onlyCPUAndMemory bool) (*statsapi.Summary, error) {
	sandboxes, err := c.Runtime.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{Filter: &runtimeapi.PodSandboxStatsFilter{}})
	if err != nil {
		return nil, fmt.Errorf("ask the runtime for pod statistics: %w", err)
	}
	begun, err := c.beginnings(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	node, err := readNode(now)
	if err != nil {
		return nil, err
	}
	node.NodeName = c.NodeName
	disk := readDisk(c.DataDir, now)
	if !onlyCPUAndMemory {
		node.Fs = disk
		node.Network = readNetwork(now)
		node.Runtime = c.images(ctx, now)
	}
	pods := map[string]*corev1.Pod{}
	for _, pod := range c.Pods() {
		pods[string(pod.UID)] = pod
	}
	if !onlyCPUAndMemory {
		node.Rlimit = readProcesses(now)
	}
	summary := &statsapi.Summary{Node: *node, Pods: make([]statsapi.PodStats, 0, len(sandboxes.GetStats()))}
	for _, sandbox := range sandboxes.GetStats() {
		pod := podStats(sandbox, begun)
		c.addSwap(&pod, pods[pod.PodRef.UID], sandbox, now)
		if onlyCPUAndMemory {
			pod.Network, pod.EphemeralStorage = nil, nil
			for i := range pod.Containers {
				pod.Containers[i].Rootfs = nil
			}
		} else {
			addDisk(&pod, disk)
			c.addLocal(ctx, &pod, pods[pod.PodRef.UID], disk, now)
		}
		summary.Pods = append(summary.Pods, pod)
	}
	slices.SortFunc(summary.Pods, func(a, b statsapi.PodStats) int {
		return strings.Compare(a.PodRef.Namespace+"/"+a.PodRef.Name, b.PodRef.Namespace+"/"+b.PodRef.Name)
	})
	c.rates.add(summary)
	return summary, nil
}

// beginnings maps ids of sandboxes and running containers to when they were made.
func (c *Collector) beginnings(ctx context.Context) (map[string]time.Time, error) {
	begun := map[string]time.Time{}
	sandboxes, err := c.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	for _, sandbox := range sandboxes.GetItems() {
		begun[sandbox.GetId()] = time.Unix(0, sandbox.GetCreatedAt())
	}
	running := &runtimeapi.ContainerFilter{State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}}
	containers, err := c.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: running})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	for _, container := range containers.GetContainers() {
		begun[container.GetId()] = time.Unix(0, container.GetCreatedAt())
	}
	return begun, nil
}

func (c *Collector) images(ctx context.Context, now time.Time) *statsapi.RuntimeStats {
	info, err := c.Runtime.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil || len(info.GetImageFilesystems()) == 0 {
		return nil // the first count after a start takes the runtime a while
	}
	used := info.GetImageFilesystems()[0]
	disk := readDisk(used.GetFsId().GetMountpoint(), now)
	if disk == nil {
		return nil
	}
	disk.UsedBytes = value(used.GetUsedBytes())
	return &statsapi.RuntimeStats{ImageFs: disk, ContainerFs: disk}
}

// podStats converts one sandbox and its running containers.
func podStats(s *runtimeapi.PodSandboxStats, begun map[string]time.Time) statsapi.PodStats {
	about := s.GetAttributes().GetMetadata()
	pod := statsapi.PodStats{
		PodRef:     statsapi.PodReference{Name: about.GetName(), Namespace: about.GetNamespace(), UID: about.GetUid()},
		StartTime:  metav1.NewTime(begun[s.GetAttributes().GetId()]),
		Containers: []statsapi.ContainerStats{},
		CPU:        cpu(s.GetLinux().GetCpu()),
		Memory:     memory(s.GetLinux().GetMemory()),
		Network:    network(s.GetLinux().GetNetwork()),
	}
	if processes := s.GetLinux().GetProcess(); processes != nil {
		pod.ProcessStats = &statsapi.ProcessStats{ProcessCount: value(processes.GetProcessCount())}
	}
	for _, c := range s.GetLinux().GetContainers() {
		at, running := begun[c.GetAttributes().GetId()]
		if !running {
			continue
		}
		pod.Containers = append(pod.Containers, statsapi.ContainerStats{
			Name:      c.GetAttributes().GetMetadata().GetName(),
			StartTime: metav1.NewTime(at),
			CPU:       cpu(c.GetCpu()),
			Memory:    memory(c.GetMemory()),
			Rootfs:    layer(c.GetWritableLayer()),
			Swap:      swap(c.GetSwap()),
		})
	}
	slices.SortFunc(pod.Containers, func(a, b statsapi.ContainerStats) int { return strings.Compare(a.Name, b.Name) })
	return pod
}

// addDisk tells what room a pod's writable layers share, and what the pod uses of it.
func addDisk(pod *statsapi.PodStats, disk *statsapi.FsStats) {
	if disk == nil {
		return
	}
	total := statsapi.FsStats{Time: disk.Time, AvailableBytes: disk.AvailableBytes, CapacityBytes: disk.CapacityBytes, InodesFree: disk.InodesFree, Inodes: disk.Inodes}
	var bytes, inodes uint64
	for i := range pod.Containers {
		root := pod.Containers[i].Rootfs
		if root == nil {
			continue
		}
		root.AvailableBytes, root.CapacityBytes, root.InodesFree, root.Inodes = disk.AvailableBytes, disk.CapacityBytes, disk.InodesFree, disk.Inodes
		if root.UsedBytes != nil {
			bytes += *root.UsedBytes
		}
		if root.InodesUsed != nil {
			inodes += *root.InodesUsed
		}
	}
	total.UsedBytes, total.InodesUsed = &bytes, &inodes
	pod.EphemeralStorage = &total
}

func cpu(u *runtimeapi.CpuUsage) *statsapi.CPUStats {
	if u == nil {
		return nil
	}
	return &statsapi.CPUStats{Time: moment(u.GetTimestamp()), UsageNanoCores: value(u.GetUsageNanoCores()), UsageCoreNanoSeconds: value(u.GetUsageCoreNanoSeconds())}
}

func memory(u *runtimeapi.MemoryUsage) *statsapi.MemoryStats {
	if u == nil {
		return nil
	}
	return &statsapi.MemoryStats{
		Time: moment(u.GetTimestamp()), AvailableBytes: value(u.GetAvailableBytes()), UsageBytes: value(u.GetUsageBytes()),
		WorkingSetBytes: value(u.GetWorkingSetBytes()), RSSBytes: value(u.GetRssBytes()),
		PageFaults: value(u.GetPageFaults()), MajorPageFaults: value(u.GetMajorPageFaults()),
	}
}

func swap(u *runtimeapi.SwapUsage) *statsapi.SwapStats {
	if u == nil {
		return nil
	}
	return &statsapi.SwapStats{Time: moment(u.GetTimestamp()), SwapAvailableBytes: value(u.GetSwapAvailableBytes()), SwapUsageBytes: value(u.GetSwapUsageBytes())}
}

// addSwap tells what of a pod is swapped out, of which containerd says nothing.
func (c *Collector) addSwap(stats *statsapi.PodStats, pod *corev1.Pod, s *runtimeapi.PodSandboxStats, now time.Time) {
	if pod == nil || c.Groups == nil {
		return
	}
	of := func(group string) *statsapi.SwapStats {
		used, left, ok := c.Groups.Swap(group)
		if !ok {
			return nil
		}
		return &statsapi.SwapStats{Time: metav1.NewTime(now), SwapAvailableBytes: left, SwapUsageBytes: &used}
	}
	stats.Swap = of(c.Groups.Pod(cgroup.QOS(pod), pod.UID))
	ids := map[string]string{}
	for _, container := range s.GetLinux().GetContainers() {
		ids[container.GetAttributes().GetMetadata().GetName()] = container.GetAttributes().GetId()
	}
	for i := range stats.Containers {
		if of := of(c.Groups.Container(pod, ids[stats.Containers[i].Name])); stats.Containers[i].Swap == nil {
			stats.Containers[i].Swap = of
		}
	}
}

func layer(u *runtimeapi.FilesystemUsage) *statsapi.FsStats {
	if u == nil {
		return nil
	}
	return &statsapi.FsStats{Time: moment(u.GetTimestamp()), UsedBytes: value(u.GetUsedBytes()), InodesUsed: value(u.GetInodesUsed())}
}

func network(u *runtimeapi.NetworkUsage) *statsapi.NetworkStats {
	if u == nil {
		return nil
	}
	card := func(c *runtimeapi.NetworkInterfaceUsage) statsapi.InterfaceStats {
		return statsapi.InterfaceStats{
			Name: c.GetName(), RxBytes: value(c.GetRxBytes()), RxErrors: value(c.GetRxErrors()), TxBytes: value(c.GetTxBytes()), TxErrors: value(c.GetTxErrors()),
		}
	}
	out := &statsapi.NetworkStats{Time: moment(u.GetTimestamp()), InterfaceStats: card(u.GetDefaultInterface())}
	for _, more := range u.GetInterfaces() {
		out.Interfaces = append(out.Interfaces, card(more))
	}
	return out
}

func value(v *runtimeapi.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	return &v.Value
}

func moment(nanoseconds int64) metav1.Time { return metav1.NewTime(time.Unix(0, nanoseconds)) }
