package stats

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

var now = time.Unix(1_700_000_000, 0)

func sandbox() *runtimeapi.PodSandboxStats {
	v := func(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }
	of := func(id, name string) *runtimeapi.ContainerStats {
		return &runtimeapi.ContainerStats{
			Attributes:    &runtimeapi.ContainerAttributes{Id: id, Metadata: &runtimeapi.ContainerMetadata{Name: name}},
			Cpu:           &runtimeapi.CpuUsage{Timestamp: now.UnixNano(), UsageCoreNanoSeconds: v(2_500_000_000)},
			Memory:        &runtimeapi.MemoryUsage{Timestamp: now.UnixNano(), WorkingSetBytes: v(4096)},
			WritableLayer: &runtimeapi.FilesystemUsage{UsedBytes: v(100), InodesUsed: v(2)},
		}
	}
	return &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{Id: "s", Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "shop", Uid: "u"}},
		Linux: &runtimeapi.LinuxPodSandboxStats{
			Cpu:        &runtimeapi.CpuUsage{Timestamp: now.UnixNano(), UsageCoreNanoSeconds: v(3_000_000_000)},
			Memory:     &runtimeapi.MemoryUsage{Timestamp: now.UnixNano(), WorkingSetBytes: v(8192)},
			Containers: []*runtimeapi.ContainerStats{of("b", "beside"), of("a", "app"), of("gone", "init")},
		},
	}
}

func TestPodStatsHoldsRunningContainersOnly(t *testing.T) {
	pod := podStats(sandbox(), map[string]time.Time{"s": now, "a": now, "b": now})
	var names []string
	for i := range pod.Containers {
		names = append(names, pod.Containers[i].Name)
	}
	if diff := cmp.Diff([]string{"app", "beside"}, names); diff != "" {
		t.Errorf("containers:\n%s", diff)
	}
	if pod.Network != nil || pod.Containers[0].CPU.UsageNanoCores != nil {
		t.Error("figures the runtime does not have became zero")
	}
	room := uint64(1000)
	addDisk(&pod, &statsapi.FsStats{AvailableBytes: &room, CapacityBytes: &room})
	if *pod.EphemeralStorage.UsedBytes != 200 || *pod.Containers[1].Rootfs.AvailableBytes != 1000 {
		t.Errorf("ephemeral storage = %d bytes, want both layers together", *pod.EphemeralStorage.UsedBytes)
	}
}

func TestResourceMetrics(t *testing.T) {
	summary := &statsapi.Summary{
		Node: *nodeStats("cpu  100 0 50 1000 7 0 50 0 0 0\nbtime 1699990000\n", "MemTotal: 1000 kB\nMemFree: 400 kB\nMemAvailable: 600 kB\n", "pgfault 7\npgmajfault 3\n", now),
		Pods: []statsapi.PodStats{podStats(sandbox(), map[string]time.Time{"a": now})},
	}
	var out strings.Builder
	if err := WriteResources(&out, summary); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		`container_cpu_usage_seconds_total{container="app",namespace="shop",pod="web"} 2.5 1700000000000`,
		`container_memory_working_set_bytes{container="app",namespace="shop",pod="web"} 4096 1700000000000`,
		`container_start_time_seconds{container="app",namespace="shop",pod="web"} 1.7e+09`,
		`node_cpu_usage_seconds_total 2 1700000000000`,
		`node_memory_working_set_bytes 409600 1700000000000`,
		`pod_cpu_usage_seconds_total{namespace="shop",pod="web"} 3 1700000000000`,
		`pod_memory_working_set_bytes{namespace="shop",pod="web"} 8192 1700000000000`,
		`resource_scrape_error 0`,
		`# TYPE node_cpu_usage_seconds_total counter`,
	} {
		if !strings.Contains(out.String(), line+"\n") {
			t.Errorf("no line %q in\n%s", line, out.String())
		}
	}
	if got := summary.Node.StartTime.Unix(); got != 1699990000 || *summary.Node.Memory.PageFaults != 7 {
		t.Errorf("node started %d, %d page faults", got, *summary.Node.Memory.PageFaults)
	}
}

func TestNetworkStats(t *testing.T) {
	devices := "Inter-| Receive | Transmit\n face |bytes\n" +
		"    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 1 2 0 0 0 0 0 30 1 4 0 0 0 0 0\nvethab: 5 1 0 0 0 0 0 0 5 1 0 0 0 0 0 0\n"
	routes := "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\neth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\n"
	got := networkStats(devices, routes, now)
	if got.Name != "eth0" || *got.RxBytes != 10 || *got.RxErrors != 2 || *got.TxBytes != 30 || *got.TxErrors != 4 || len(got.Interfaces) != 1 {
		t.Errorf("networkStats() = %+v", got)
	}
}

func TestThisMachine(t *testing.T) {
	node, err := readNode(now)
	if err != nil {
		t.Fatal(err)
	}
	if *node.CPU.UsageCoreNanoSeconds == 0 || *node.Memory.WorkingSetBytes == 0 || node.StartTime.IsZero() {
		t.Errorf("readNode() = %+v", node)
	}
	if disk := readDisk(t.TempDir(), now); disk == nil || *disk.CapacityBytes == 0 {
		t.Errorf("readDisk() = %+v", disk)
	}
}

func TestProcesses(t *testing.T) {
	got := processes("4194304\n", "0.1 0.2 0.3 2/345 6789\n", now)
	if *got.MaxPID != 4194304 || *got.NumOfRunningProcesses != 345 {
		t.Errorf("processes() = %d of %d", *got.NumOfRunningProcesses, *got.MaxPID)
	}
}
