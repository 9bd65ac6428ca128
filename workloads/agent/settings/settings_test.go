package settings

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/cpuset"

	"knarr.dev/knarr/workloads/agent/align"
	"knarr.dev/knarr/workloads/agent/exclusive"
	"knarr.dev/knarr/workloads/agent/garbage"
	"knarr.dev/knarr/workloads/agent/pressure"
	"knarr.dev/knarr/workloads/agent/shutdown"
)

const head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

// same is how two settings are compared.
var same = cmp.Options{cmpopts.IgnoreUnexported(Settings{}), cmp.Comparer(func(a, b cpuset.CPUSet) bool { return a.String() == b.String() })}

func TestParse(t *testing.T) {
	with := func(change func(*Settings)) Settings {
		s := usual()
		change(&s)
		return s
	}
	tests := map[string]struct {
		text string
		want Settings
		err  string // part of it
	}{
		"a file that says nothing changes nothing": {text: head, want: with(func(s *Settings) { s.Reserved = corev1.ResourceList{} })},
		"logs and images": {
			text: head + "containerLogMaxSize: 1Mi\ncontainerLogMaxFiles: 3\nimageGCHighThresholdPercent: 90\nimageMinimumGCAge: 5m\n",
			want: with(func(s *Settings) {
				s.Reserved, s.LogSize, s.LogFiles, s.Images = corev1.ResourceList{}, 1<<20, 3, garbage.Bounds{High: 90, Low: 80, Youngest: 5 * time.Minute}
			}),
		},
		"one log is not enough":       {text: head + "containerLogMaxFiles: 1\n", err: "give 2 or more"},
		"a log without a size":        {text: head + "containerLogMaxSize: big\n", err: `"big" is not a size`},
		"images that would never end": {text: head + "imageGCHighThresholdPercent: 80\n", err: "give a low one below the high one"},
		"a runtime elsewhere": {
			text: head + "containerRuntimeEndpoint: unix:///run/other.sock\n",
			want: with(func(s *Settings) { s.Reserved, s.Runtime = corev1.ResourceList{}, "unix:///run/other.sock" }),
		},
		"a runtime on another machine": {text: head + "containerRuntimeEndpoint: tcp://192.0.2.1:1\n", err: "is not the endpoint of a container runtime on this machine"},
		"both reservations add up": {
			text: head + "kubeReserved: {cpu: 100m, memory: 256Mi}\nsystemReserved: {cpu: 400m, pid: '1000'}\nmaxPods: 250\n",
			want: with(func(s *Settings) {
				s.MaxPods = 250
				s.Reserved = corev1.ResourceList{"cpu": resource.MustParse("500m"), "memory": resource.MustParse("256Mi"), "pid": resource.MustParse("1000")}
			}),
		},
		"evictionHard stands for itself": {
			text: head + "evictionHard: {memory.available: 1Gi}\nstaticPodPath: /etc/knarr/pods\nallowedUnsafeSysctls: ['net.core.*']\n",
			want: with(func(s *Settings) {
				s.Reserved = corev1.ResourceList{}
				s.Eviction = pressure.Thresholds{pressure.MemoryAvailable: {Bytes: 1 << 30}}
				s.StaticPods, s.UnsafeSysctls = "/etc/knarr/pods", []string{"net.core.*"}
			}),
		},
		"critical pods get the end of the time there is": {
			text: head + "shutdownGracePeriod: 30s\nshutdownGracePeriodCriticalPods: 10s\n",
			want: with(func(s *Settings) {
				s.Reserved = corev1.ResourceList{}
				s.Shutdown = []shutdown.Step{{Priority: 0, Grace: 20 * time.Second}, {Priority: 2000000000, Grace: 10 * time.Second}}
			}),
		},
		"each priority has its own": {
			text: head + "shutdownGracePeriodByPodPriority: [{priority: 100, shutdownGracePeriodSeconds: 5}]\n",
			want: with(func(s *Settings) {
				s.Reserved, s.Shutdown = corev1.ResourceList{}, []shutdown.Step{{Priority: 100, Grace: 5 * time.Second}}
			}),
		},
		"more for critical pods than for all": {text: head + "shutdownGracePeriod: 5s\nshutdownGracePeriodCriticalPods: 10s\n", err: "critical ones cannot have 10s"},
		"two ways to say it":                  {text: head + "shutdownGracePeriod: 5s\nshutdownGracePeriodByPodPriority: [{priority: 1, shutdownGracePeriodSeconds: 5}]\n", err: "remove these two"},
		"swap by request": {
			text: head + "memorySwap: {swapBehavior: LimitedSwap}\n",
			want: with(func(s *Settings) { s.Reserved, s.LimitedSwap = corev1.ResourceList{}, true }),
		},
		"swap without bounds": {text: head + "memorySwap: {swapBehavior: UnlimitedSwap}\n", err: `"UnlimitedSwap" is not known`},
		"restarts that come sooner": {
			text: head + "crashLoopBackOff: {maxContainerRestartPeriod: 20s}\n",
			want: with(func(s *Settings) { s.Reserved, s.MaxDelay = corev1.ResourceList{}, 20*time.Second }),
		},
		"restarts that come too soon": {text: head + "crashLoopBackOff: {maxContainerRestartPeriod: 10ms}\n", err: "crashLoopBackOff.maxContainerRestartPeriod: 10ms is not from 1s to 5m0s"},
		"restarts that come too late": {text: head + "crashLoopBackOff: {maxContainerRestartPeriod: 301s}\n", err: "5m1s is not from 1s to 5m0s"},
		"a priority twice":            {text: head + "shutdownGracePeriodByPodPriority: [{priority: 1}, {priority: 1}]\n", err: "priority 1 twice"},
		"a pod's processes are bounded": {
			text: head + "podPidsLimit: 4096\n",
			want: with(func(s *Settings) { s.Reserved, s.PodPids = corev1.ResourceList{}, 4096 }),
		},
		"none is no bound, which is not what a file without a word means": {
			text: head + "podPidsLimit: 0\n",
			want: with(func(s *Settings) { s.Reserved, s.PodPids = corev1.ResourceList{}, -1 }),
		},
		"whole CPUs, memory and devices of one node": {
			text: head + "systemReserved: {cpu: 500m, memory: 924Mi}\ncpuManagerPolicy: static\nreservedSystemCPUs: 0-1\n" +
				"cpuManagerPolicyOptions: {full-pcpus-only: 'true', strict-cpu-reservation: 'true', distribute-cpus-across-numa: 'false'}\n" +
				"memoryManagerPolicy: Static\nreservedMemory: [{numaNode: 0, limits: {memory: 1Gi, hugepages-2Mi: 4Mi}}]\n" +
				"topologyManagerPolicy: restricted\ntopologyManagerScope: pod\ntopologyManagerPolicyOptions: {prefer-closest-numa-nodes: 'true', max-allowable-numa-nodes: '10'}\n",
			want: with(func(s *Settings) {
				s.Reserved = corev1.ResourceList{"cpu": *resource.NewQuantity(2, resource.DecimalSI), "memory": resource.MustParse("924Mi")}
				s.Exclusive = exclusive.Policy{
					CPUs: true, ReservedCPUs: cpuset.New(0, 1), WholeCores: true, KeepReserved: true,
					Memory: true, ReservedBytes: map[int]exclusive.Amounts{0: {"memory": 1 << 30, "hugepages-2Mi": 4 << 20}},
					Align: align.Policy{Name: "restricted", Pods: true, Closest: true, MaxNodes: 10},
				}
			}),
		},
		"policies that do nothing": {
			text: head + "cpuManagerPolicy: none\nmemoryManagerPolicy: None\ntopologyManagerPolicy: none\ntopologyManagerScope: container\n",
			want: with(func(s *Settings) { s.Reserved, s.Exclusive.Align.Name = corev1.ResourceList{}, "none" }),
		},
		"CPUs of their own by another name":   {text: head + "cpuManagerPolicy: exclusive\n", err: `cpuManagerPolicy: "exclusive" is not known: use none or static`},
		"CPUs that are no list":               {text: head + "reservedSystemCPUs: first\n", err: `reservedSystemCPUs: "first" is not a list of CPUs`},
		"an option upstream has off as well":  {text: head + "cpuManagerPolicy: static\ncpuManagerPolicyOptions: {align-by-socket: 'true'}\n", err: `"align-by-socket" is not known here: use distribute-cpus-across-numa, full-pcpus-only`},
		"an option that is maybe on":          {text: head + "cpuManagerPolicy: static\ncpuManagerPolicyOptions: {full-pcpus-only: maybe}\n", err: `full-pcpus-only: "maybe" is neither true nor false`},
		"options of what is off":              {text: head + "cpuManagerPolicyOptions: {full-pcpus-only: 'true'}\n", err: "they are those of cpuManagerPolicy static"},
		"options that exclude each other":     {text: head + "cpuManagerPolicy: static\ncpuManagerPolicyOptions: {distribute-cpus-across-numa: 'true', prefer-align-cpus-by-uncorecache: 'true'}\n", err: "cannot be used together"},
		"memory by another name":              {text: head + "memoryManagerPolicy: static\n", err: `memoryManagerPolicy: "static" is not known: use None or Static`},
		"memory of nodes where none is given": {text: head + "reservedMemory: [{numaNode: 0, limits: {memory: 1Gi}}]\n", err: "it is for memoryManagerPolicy Static"},
		"what is no memory":                   {text: head + "memoryManagerPolicy: Static\nreservedMemory: [{numaNode: 1, limits: {cpu: 1}}]\n", err: `NUMA node 1: "cpu" is no memory`},
		"a node's memory twice":               {text: head + "memoryManagerPolicy: Static\nreservedMemory: [{numaNode: 1, limits: {memory: 1}}, {numaNode: 1, limits: {memory: 1}}]\n", err: "NUMA node 1: memory is there twice"},
		"no memory of a node":                 {text: head + "memoryManagerPolicy: Static\nreservedMemory: [{numaNode: 1, limits: {memory: 0}}]\n", err: "NUMA node 1: 0 of memory cannot be reserved"},
		"nodes by another name":               {text: head + "topologyManagerPolicy: strict\n", err: `"strict" is not known: use none, best-effort, restricted or single-numa-node`},
		"another scope":                       {text: head + "topologyManagerScope: node\n", err: `"node" is not known: use container or pod`},
		"too many nodes":                      {text: head + "topologyManagerPolicyOptions: {max-allowable-numa-nodes: '64'}\n", err: `"64" is not a number from 8 to 12`},
		"less than none":                      {text: head + "podPidsLimit: -2\n", err: "podPidsLimit: -2 is less than -1"},
		"another kind":                        {text: "apiVersion: v1\nkind: Pod\n", err: "it is v1 Pod: begin it with apiVersion: kubelet.config.k8s.io/v1beta1"},
		"a field that does not exist":         {text: head + "maxPod: 3\n", err: `unknown field "maxPod"`},
		"a field nobody here heeds":           {text: head + "hairpinMode: none\n", err: "hairpinMode is not heeded here: remove it"},
		"a folder relative to what":           {text: head + "staticPodPath: pods\n", err: `staticPodPath: "pods" is not absolute`},
		"a reservation of what is not":        {text: head + "kubeReserved: {gpu: '1'}\n", err: `"gpu" cannot be reserved`},
		"a reservation below nothing":         {text: head + "kubeReserved: {cpu: '-1'}\n", err: `cpu: "-1" is not an amount`},
		"a bad threshold":                     {text: head + "evictionHard: {memory.available: x}\n", err: "evictionHard: memory.available"},
		"every mistake is reported":           {text: head + "maxPods: -1\nhairpinMode: none\n", err: "maxPods: -1 is less than 0"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Parse([]byte(tc.text))
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("Parse() = %v, want an error with %q", err, tc.err)
				}
				return
			}
			if diff := cmp.Diff(tc.want, got, same); diff != "" || err != nil {
				t.Errorf("Parse() = %v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestAllocatable(t *testing.T) {
	s := usual()
	s.Reserved = corev1.ResourceList{"cpu": resource.MustParse("500m"), "memory": resource.MustParse("1Gi"), "ephemeral-storage": resource.MustParse("1Ti")}
	got := s.Allocatable(corev1.ResourceList{
		"cpu": resource.MustParse("2"), "memory": resource.MustParse("4Gi"), "ephemeral-storage": resource.MustParse("100Gi"), "pods": resource.MustParse("110"),
	})
	want := map[corev1.ResourceName]int64{"cpu": 1500, "memory": (4<<30 - 1<<30 - 100<<20) * 1000, "ephemeral-storage": 0, "pods": 110000}
	for name, milli := range want {
		if q := got[name]; q.MilliValue() != milli {
			t.Errorf("Allocatable()[%s] = %s, want %d thousandths", name, q.String(), milli)
		}
	}
}

func TestWhatIsInForceSaysTheSameWhenItIsReadAgain(t *testing.T) {
	tests := map[string]string{
		"nothing":    "",
		"everything": "staticPodPath: /etc/pods\nmaxPods: 7\npodPidsLimit: 100\nkubeReserved: {cpu: 100m}\nevictionHard: {memory.available: 200Mi, nodefs.available: 5%}\nmemorySwap: {swapBehavior: LimitedSwap}\nallowedUnsafeSysctls: [net.core.*]\ncontainerLogMaxSize: 1Mi\ncontainerLogMaxFiles: 2\nimageGCHighThresholdPercent: 70\nimageGCLowThresholdPercent: 60\nimageMinimumGCAge: 1h\ncrashLoopBackOff: {maxContainerRestartPeriod: 1m}\n",
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			s, err := Parse([]byte(head + text))
			if err != nil {
				t.Fatal(err)
			}
			place := Place{ClusterDomain: "cluster.local", Endpoint: "unix:///run/knarr/containerd.sock", Pulls: 4}
			shown := s.InForce(place)
			if shown.ClusterDomain != "cluster.local" || *shown.MaxParallelImagePulls != 4 || *shown.Authentication.Anonymous.Enabled {
				t.Errorf("what knarr was told elsewhere is not in it: %+v", shown)
			}
			data, err := json.Marshal(shown)
			if err != nil {
				t.Fatal(err)
			}
			fields := map[string]any{}
			if err := json.Unmarshal(data, &fields); err != nil {
				t.Fatal(err)
			}
			delete(fields, "containerRuntimeEndpoint") // knarr's own, which nobody would give
			maps.DeleteFunc(fields, func(field string, _ any) bool {
				return field != "kind" && field != "apiVersion" && !slices.Contains(heeded, field)
			})
			if data, err = json.Marshal(fields); err != nil {
				t.Fatal(err)
			}
			again, err := Parse(data)
			if err != nil {
				t.Fatalf("Parse(%s): %v", data, err)
			}
			if diff := cmp.Diff(shown, again.InForce(place)); diff != "" {
				t.Errorf("in force when it is read again (-want +got):\n%s", diff)
			}
		})
	}
}
