package node

import (
	"encoding/json"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/workloads/agent/settings"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func healthy() facts {
	return facts{
		now: now, name: "n1", port: 10250, version: "v1.37.2+knarr", podRange: true,
		addresses:      []netip.Addr{netip.MustParseAddr("10.0.0.1")},
		runtimeVersion: "containerd://2.4.2",
		machine: machine{
			cpus: 2, memory: 4 << 30, hugePages: map[int64]int64{2 << 20: 64 << 20},
			info: corev1.NodeSystemInfo{BootID: "boot1", Architecture: "amd64"},
		},
		storage: 100 << 30, settings: usual,
	}
}

var usual, _ = settings.Read("")

func TestJudgeReady(t *testing.T) {
	tests := map[string]struct {
		change  func(*facts)
		status  corev1.ConditionStatus
		message string
	}{
		"everything is there": {change: func(*facts) {}, status: corev1.ConditionTrue, message: "kubelet is posting ready status"},
		"the runtime does not answer": {
			change: func(f *facts) { f.runtimeProblem = "connection refused" },
			status: corev1.ConditionFalse, message: "container runtime is not ready: connection refused",
		},
		"the machine is going down": {
			change: func(f *facts) { f.stopping = true },
			status: corev1.ConditionFalse, message: "node is shutting down",
		},
		"the network is not there": {
			change: func(f *facts) {
				f.networkProblem = "NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized"
			},
			status: corev1.ConditionFalse, message: "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized",
		},
		"several reasons are all named": {
			change: func(f *facts) { f.podRange = false; f.addresses = nil },
			status: corev1.ConditionFalse, message: "the node has no range of pod addresses yet (spec.podCIDR); the control plane assigns it, the node has no address: set node-ip",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			f := healthy()
			tc.change(&f)
			got := find(judge(corev1.NodeStatus{}, f).Conditions, corev1.NodeReady)
			if got.Status != tc.status || got.Message != tc.message {
				t.Errorf("judge() = %s %q, want %s %q", got.Status, got.Message, tc.status, tc.message)
			}
		})
	}
}

func TestJudgeKeepsWhatIsNotItsOwn(t *testing.T) {
	network := corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionFalse, LastTransitionTime: metav1.NewTime(now)}
	old := judge(corev1.NodeStatus{Conditions: []corev1.NodeCondition{network}}, healthy())
	if diff := cmp.Diff(network, old.Conditions[0]); diff != "" {
		t.Errorf("judge() changed another's condition:\n%s", diff)
	}
	later := healthy()
	later.now = now.Add(time.Hour)
	if next := judge(old, later); worthReporting(old, next, later.now, later.now) {
		t.Errorf("the same facts an hour later are news:\n%s", cmp.Diff(old, next))
	}
	later.pressure.Memory = true
	next := judge(old, later)
	if got := find(next.Conditions, corev1.NodeMemoryPressure); got.Status != corev1.ConditionTrue || !got.LastTransitionTime.Time.Equal(later.now) {
		t.Errorf("memory pressure is %s since %s, want True since %s", got.Status, got.LastTransitionTime, later.now)
	}
	if got := find(next.Conditions, corev1.NodeReady); !got.LastTransitionTime.Time.Equal(now) {
		t.Errorf("Ready moved at %s though it did not change", got.LastTransitionTime)
	}
	silent := healthy()
	silent.runtimeVersion, silent.runtimeProblem = "", "gone"
	if got := judge(old, silent).NodeInfo.ContainerRuntimeVersion; got != "containerd://2.4.2" {
		t.Errorf("runtime version %q while it does not answer, want the last one known", got)
	}
}

func TestJudgeOffersWhatOthersCounted(t *testing.T) {
	berths := func(status corev1.NodeStatus) [2]int64 {
		capacity, allocatable := status.Capacity["harbour.example/berths"], status.Allocatable["harbour.example/berths"]
		return [2]int64{capacity.Value(), allocatable.Value()}
	}
	old := judge(corev1.NodeStatus{}, healthy())
	old.Capacity["harbour.example/berths"] = resource.MustParse("3")
	next := judge(old, healthy())
	if got, want := berths(next), [2]int64{3, 3}; got != want {
		t.Errorf("capacity and allocatable are %v, want %v", got, want)
	}
	delete(next.Capacity, "harbour.example/berths")
	if got, want := berths(judge(next, healthy())), [2]int64{}; got != want {
		t.Errorf("capacity and allocatable are %v after the capacity was taken away, want %v", got, want)
	}
}

func TestResources(t *testing.T) {
	capacity, allocatable := resources(healthy())
	for name, want := range map[corev1.ResourceName][2]string{
		"cpu": {"2", "2"}, "memory": {"4Gi", "3932Mi"}, "ephemeral-storage": {"100Gi", "96636764160"}, "pods": {"110", "110"}, "hugepages-2Mi": {"64Mi", "64Mi"},
	} {
		have, use := capacity[name], allocatable[name]
		if have.String() != want[0] || use.String() != want[1] {
			t.Errorf("%s = %s, allocatable %s; want %s, %s", name, have.String(), use.String(), want[0], want[1])
		}
	}
}

func TestWorthReporting(t *testing.T) {
	status := judge(corev1.NodeStatus{}, healthy())
	changed := *status.DeepCopy()
	changed.Addresses[0].Address = "10.0.0.2"
	tests := map[string]struct {
		next  corev1.NodeStatus
		since time.Duration
		want  bool
	}{
		"nothing new a minute later": {next: status, since: time.Minute},
		"nothing new for five":       {next: status, since: 5 * time.Minute, want: true},
		"a new address a second ago": {next: changed, since: time.Second, want: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := worthReporting(status, tc.next, now.Add(-tc.since), now); got != tc.want {
				t.Errorf("worthReporting() = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestStatusPatch(t *testing.T) {
	two := healthy()
	two.addresses = append(two.addresses, netip.MustParseAddr("fd00::1"))
	moved := healthy()
	moved.addresses = []netip.Addr{netip.MustParseAddr("10.9.9.9")}
	notReady := healthy()
	notReady.networkProblem = "no config"
	tests := map[string]struct{ from, to facts }{
		"an IPv6 address joins the IPv4 one": {from: healthy(), to: two},
		"and leaves again":                   {from: two, to: healthy()},
		"the address changes":                {from: healthy(), to: moved},
		"the network goes":                   {from: healthy(), to: notReady},
		"nothing changes":                    {from: healthy(), to: healthy()},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			old := judge(corev1.NodeStatus{}, tc.from)
			next := judge(old, tc.to)
			patch, err := statusPatch(old, next)
			if err != nil {
				t.Fatal(err)
			}
			// Meanwhile somebody else added a condition: it has to survive.
			theirs := *old.DeepCopy()
			theirs.Conditions = append(theirs.Conditions, corev1.NodeCondition{Type: "Theirs", Status: corev1.ConditionTrue})
			before, _ := json.Marshal(corev1.Node{Status: theirs})
			after, err := strategicpatch.StrategicMergePatch(before, patch, corev1.Node{})
			if err != nil {
				t.Fatalf("apply %s: %v", patch, err)
			}
			var node corev1.Node
			if err := json.Unmarshal(after, &node); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(next.Addresses, node.Status.Addresses); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
			if got := find(node.Status.Conditions, corev1.NodeReady).Status; got != find(next.Conditions, corev1.NodeReady).Status {
				t.Errorf("Ready = %s after the patch %s", got, patch)
			}
			if find(node.Status.Conditions, "Theirs").Status != corev1.ConditionTrue {
				t.Errorf("the patch %s removed another's condition", patch)
			}
		})
	}
}

func TestNews(t *testing.T) {
	ready := judge(corev1.NodeStatus{}, healthy())
	f := healthy()
	f.networkProblem = "x"
	f.machine.info.BootID = "boot2"
	tests := map[string]struct {
		old, next corev1.NodeStatus
		want      []string
	}{
		"nothing changed":      {old: ready, next: ready},
		"reboot and not ready": {old: ready, next: judge(ready, f), want: []string{"Node n1 has been rebooted, boot id: boot2", "Node n1 status is now: NodeNotReady"}},
		"a new node is not ready yet": {next: judge(corev1.NodeStatus{}, f), want: []string{
			"Node n1 status is now: NodeHasSufficientMemory", "Node n1 status is now: NodeHasNoDiskPressure", "Node n1 status is now: NodeHasSufficientPID",
		}},
		"the first status of all": {next: ready, want: []string{
			"Node n1 status is now: NodeHasSufficientMemory", "Node n1 status is now: NodeHasNoDiskPressure",
			"Node n1 status is now: NodeHasSufficientPID", "Node n1 status is now: NodeReady",
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, event := range news("n1", tc.old, tc.next) {
				got = append(got, event.message)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("news() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAgain(t *testing.T) {
	refused := errors.New("refused")
	tests := map[string]struct {
		settled bool
		err     error
		waiting time.Duration
		want    time.Duration
	}{
		"a node that is Ready is looked at now and then":    {settled: true, want: 10 * time.Second},
		"a node that starts is watched closely":             {waiting: time.Second, want: 20 * time.Millisecond},
		"a node that is broken for long is not":             {waiting: time.Minute, want: time.Second},
		"the first refusal may be a lost race":              {err: refused, waiting: time.Millisecond, want: 50 * time.Millisecond},
		"the longer the API refuses, the rarer we ask":      {err: refused, waiting: 700 * time.Millisecond, want: 700 * time.Millisecond},
		"but a Ready node does not wait ten seconds for it": {settled: true, err: refused, waiting: time.Hour, want: 2 * time.Second},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := again(tc.settled, tc.err, tc.waiting); got != tc.want {
				t.Errorf("again() = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestRuntimeProblems(t *testing.T) {
	tests := map[string]struct {
		conditions       []*runtimeapi.RuntimeCondition
		runtime, network string
	}{
		"both are fine": {conditions: []*runtimeapi.RuntimeCondition{{Type: "RuntimeReady", Status: true}, {Type: "NetworkReady", Status: true}}},
		"no network yet": {
			conditions: []*runtimeapi.RuntimeCondition{{Type: "RuntimeReady", Status: true}, {Type: "NetworkReady", Reason: "NetworkPluginNotReady", Message: "no config"}},
			network:    "NetworkReady=false reason:NetworkPluginNotReady message:no config",
		},
		"silence is a problem": {runtime: "it reports no condition RuntimeReady", network: "it reports no condition NetworkReady"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if runtime, network := runtimeProblems(tc.conditions); runtime != tc.runtime || network != tc.network {
				t.Errorf("runtimeProblems() = %q, %q; want %q, %q", runtime, network, tc.runtime, tc.network)
			}
		})
	}
}
