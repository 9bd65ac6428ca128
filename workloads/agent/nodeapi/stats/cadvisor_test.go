package stats

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"knarr.dev/knarr/workloads/agent/cgroup"
)

// groupsOf is what each group uses.
type groupsOf map[string]cgroup.Use

func (g groupsOf) Pods() string { return "/pods" }
func (g groupsOf) Pod(_ corev1.PodQOSClass, uid types.UID) string {
	return "/pods/pod" + string(uid)
}
func (g groupsOf) Container(p *corev1.Pod, id string) string { return g.Pod("", p.UID) + "/" + id }
func (g groupsOf) Use(id string) (cgroup.Use, error) {
	if u, there := g[id]; there {
		return u, nil
	}
	return cgroup.Use{}, errors.New("no such group")
}

func (g groupsOf) Swap(id string) (used uint64, left *uint64, ok bool) {
	u, there := g[id]
	return u.Swap, new(1000 - u.Swap), there
}

func TestSwapIsThatOfTheGroups(t *testing.T) {
	c := &Collector{Groups: groupsOf{"/pods/podu": {Swap: 300}, "/pods/podu/c1": {Swap: 200}}}
	container := func(name, id string) *runtimeapi.ContainerStats {
		return &runtimeapi.ContainerStats{Attributes: &runtimeapi.ContainerAttributes{Id: id, Metadata: &runtimeapi.ContainerMetadata{Name: name}}}
	}
	sandbox := &runtimeapi.PodSandboxStats{Linux: &runtimeapi.LinuxPodSandboxStats{Containers: []*runtimeapi.ContainerStats{container("app", "c1"), container("ends", "c2")}}}
	now := time.Unix(1_700_000_000, 0)
	swapped := func(used, left uint64) *statsapi.SwapStats {
		return &statsapi.SwapStats{Time: metav1.NewTime(now), SwapUsageBytes: &used, SwapAvailableBytes: &left}
	}
	tests := map[string]struct {
		pod             *corev1.Pod
		whole, app, end *statsapi.SwapStats
	}{
		"a pod, and each container whose group is there": {&corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}}, swapped(300, 700), swapped(200, 800), nil},
		"nothing is known of a pod that has gone":        {},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := statsapi.PodStats{Containers: []statsapi.ContainerStats{{Name: "app"}, {Name: "ends"}}}
			c.addSwap(&got, tc.pod, sandbox, now)
			want := statsapi.PodStats{Swap: tc.whole, Containers: []statsapi.ContainerStats{{Name: "app", Swap: tc.app}, {Name: "ends", Swap: tc.end}}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("addSwap() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestContainerMetrics(t *testing.T) {
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "shop", UID: "u"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Resources: corev1.ResourceRequirements{
			Limits:   corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m")},
		}}, {Name: "gone"}, {Name: "waits"}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "app", ContainerID: "containerd://c1", Image: "web:1", State: running},
			{Name: "gone", ContainerID: "containerd://c2", State: running},
			{Name: "waits", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}},
		}},
	}
	ended := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "old", UID: "o"}, Status: corev1.PodStatus{Phase: corev1.PodSucceeded}}
	c := &Collector{Groups: groupsOf{
		"/pods": {CPU: 9 * time.Second}, "/pods/podo": {CPU: time.Second}, "/pods/podu": {CPU: 4 * time.Second, Memory: 3000},
		"/pods/podu/c1": {CPU: 2500 * time.Millisecond, Periods: 100, Throttled: 7, ThrottledFor: 1500 * time.Millisecond, Memory: 2000, InactiveFile: 500, RSS: 900, Cache: 1100, MajorFaults: 3},
	}}
	n := func(v uint64) *uint64 { return &v }
	summary := &statsapi.Summary{
		Node: statsapi.NodeStats{Memory: &statsapi.MemoryStats{AvailableBytes: n(6000), WorkingSetBytes: n(2000)}},
		Pods: []statsapi.PodStats{{
			PodRef:     statsapi.PodReference{Name: "web", Namespace: "shop"},
			Network:    &statsapi.NetworkStats{Interfaces: []statsapi.InterfaceStats{{Name: "eth0", RxBytes: n(11), TxBytes: n(22)}, {Name: "lo", RxBytes: n(1)}}},
			Containers: []statsapi.ContainerStats{{Name: "app", Rootfs: &statsapi.FsStats{UsedBytes: n(33), CapacityBytes: n(44)}}},
		}},
	}
	var out strings.Builder
	for _, f := range containerFamilies(c.groups([]*corev1.Pod{pod, ended}), summary, time.Unix(1_700_000_000, 0)) {
		if err := f.write(&out); err != nil {
			t.Fatal(err)
		}
	}
	app := `container="app",id="/pods/podu/c1",image="web:1",name="c1",namespace="shop",pod="web"`
	whole := `container="",id="/pods/podu",image="",name="",namespace="shop",pod="web"`
	for _, line := range []string{
		`container_cpu_usage_seconds_total{` + app + `,cpu="total"} 2.5`,
		`container_cpu_usage_seconds_total{` + whole + `,cpu="total"} 4`,
		`container_cpu_cfs_periods_total{` + app + `} 100`,
		`container_cpu_cfs_throttled_periods_total{` + app + `} 7`,
		`container_cpu_cfs_throttled_seconds_total{` + app + `} 1.5`,
		`container_memory_usage_bytes{` + app + `} 2000`,
		`container_memory_working_set_bytes{` + app + `} 1500`,
		`container_memory_working_set_bytes{` + whole + `} 3000`,
		`container_memory_rss{` + app + `} 900`,
		`container_memory_cache{` + app + `} 1100`,
		`container_memory_failures_total{` + app + `,failure_type="pgmajfault",scope="hierarchy"} 3`,
		`container_spec_cpu_quota{` + app + `} 50000`,
		`container_spec_cpu_period{` + app + `} 100000`,
		`container_spec_cpu_shares{` + app + `} 256`,
		`container_spec_memory_limit_bytes{` + app + `} 6.7108864e+07`,
		`container_fs_usage_bytes{` + app + `} 33`,
		`container_fs_limit_bytes{` + app + `} 44`,
		`container_network_receive_bytes_total{` + whole + `,interface="eth0"} 11`,
		`container_network_transmit_bytes_total{` + whole + `,interface="eth0"} 22`,
		`machine_memory_bytes 8000`,
	} {
		if !strings.Contains(out.String(), line+"\n") {
			t.Errorf("no line %q in\n%s", line, out.String())
		}
	}
	for _, not := range []string{`pod="old"`, `container="gone"`, `container="waits"`, `interface="lo"`, `cfs_periods_total{` + whole} {
		if strings.Contains(out.String(), not) {
			t.Errorf("it says something of %s", not)
		}
	}
}
