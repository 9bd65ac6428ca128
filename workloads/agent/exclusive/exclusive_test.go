package exclusive

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/cpuset"

	"knarr.dev/knarr/workloads/agent/align"
	"knarr.dev/knarr/workloads/agent/topology"
	"knarr.dev/knarr/workloads/agent/translate"
)

// asking is a container with limits, and requests of the same: cpu, memory, and more in pairs.
func asking(name, cpu, memory string, more ...string) corev1.Container {
	list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory)}
	for i := 0; i+1 < len(more); i += 2 {
		list[corev1.ResourceName(more[i])] = resource.MustParse(more[i+1])
	}
	return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Requests: list, Limits: list}}
}

func podOf(name string, containers ...corev1.Container) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{Containers: containers}}
}

func withInit(pod *corev1.Pod, init ...corev1.Container) *corev1.Pod {
	pod.Spec.InitContainers = init
	return pod
}

func sidecar(c corev1.Container) corev1.Container {
	always := corev1.ContainerRestartPolicyAlways
	c.RestartPolicy = &always
	return c
}

// node is a manager in a folder; changed counts how often what is shared became something else.
type node struct {
	*Manager
	changed int
}

func started(t *testing.T, dir string, m topology.Machine, p Policy) *node {
	t.Helper()
	n, err := newNode(dir, m, p)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func newNode(dir string, m topology.Machine, p Policy) (*node, error) {
	if p.Align.MaxNodes == 0 {
		p.Align.MaxNodes = 8
	}
	n := &node{}
	reserved := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m")}
	if p.Memory {
		reserved[corev1.ResourceMemory] = resource.MustParse("1Gi")
		if p.ReservedBytes == nil {
			p.ReservedBytes = map[int]Amounts{0: {"memory": 1 << 30}}
		}
	}
	var err error
	n.Manager, err = New(Config{Policy: p, Machine: m, Reserved: reserved, State: filepath.Join(dir, "exclusive.json"), Changed: func() { n.changed++ }, Log: slog.Default()})
	return n, err
}

// places are what a pod's containers have: CPUs, an exclamation mark where they are their own, memory's nodes.
func (n *node) places(pod *corev1.Pod) string {
	var out []string
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			p := n.Of(pod.UID, list[i].Name)
			text := p.CPUs
			if p.Own {
				text += "!"
			}
			if p.Mems != "" {
				text += " mem " + p.Mems
			}
			out = append(out, list[i].Name+": "+text)
		}
	}
	return strings.Join(out, "; ")
}

func TestAdmit(t *testing.T) {
	big, small := built(2, 2, 1, 2, 2), built(1, 1, 1, 2, 1)
	half := asking("app", "2", "1Gi")
	half.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi")}
	ofPod := podOf("p", asking("app", "2", "1Gi"))
	ofPod.Spec.Resources = &corev1.ResourceRequirements{Requests: ofPod.Spec.Containers[0].Resources.Requests, Limits: ofPod.Spec.Containers[0].Resources.Limits}
	cpus, memory := Policy{CPUs: true}, Policy{Memory: true}
	aligned := func(name string, more ...func(*Policy)) Policy {
		p := Policy{CPUs: true, Memory: true, Align: align.Policy{Name: name}}
		for _, f := range more {
			f(&p)
		}
		return p
	}
	tests := map[string]struct {
		machine topology.Machine
		policy  Policy
		before  []*corev1.Pod
		pod     *corev1.Pod
		want    string
		reason  string // of a refusal
		err     string
	}{
		"whole CPUs are the container's own": {machine: big, policy: cpus, pod: podOf("p", asking("app", "2", "1Gi")), want: "app: 1,9!"},
		"parts of CPUs are not":              {machine: big, policy: cpus, pod: podOf("p", asking("app", "1500m", "1Gi")), want: "app: 0-15"},
		"nor are those of a burstable pod":   {machine: big, policy: cpus, pod: podOf("p", half), want: "app: 0-15"},
		"nor where the pod has resources":    {machine: big, policy: cpus, pod: ofPod, want: "app: 0-15"},
		"containers of one pod each on its own": {
			machine: big, policy: cpus, pod: podOf("p", asking("a", "2", "1Gi"), asking("b", "1500m", "1Gi"), asking("c", "1", "1Gi")), want: "a: 1,9!; b: 0,2-7,10-15; c: 8!",
		},
		"what an init container had, later ones have": {
			machine: big, policy: cpus, pod: withInit(podOf("p", asking("a", "2", "1Gi"), asking("b", "4", "1Gi")), asking("one", "4", "1Gi"), asking("two", "2", "1Gi")),
			want: "one: 2-3,10-11!; two: 2,10!; a: 2,10!; b: 1,3,9,11!",
		},
		"a sidecar keeps its own": {
			machine: big, policy: cpus, pod: withInit(podOf("p", asking("a", "2", "1Gi")), asking("one", "2", "1Gi"), sidecar(asking("side", "2", "1Gi"))), want: "one: 1,9!; side: 1,9!; a: 2,10!",
		},
		"what others have is theirs": {
			machine: small, policy: cpus, before: []*corev1.Pod{podOf("first", asking("app", "1", "1Gi"))}, pod: podOf("p", asking("app", "1", "1Gi")),
			err: "Allocate failed due to not enough cpus available to satisfy request: requested=1, available=0, which is unexpected",
		},
		"half a core": {
			machine: big, policy: Policy{CPUs: true, WholeCores: true}, pod: podOf("p", asking("app", "1", "1Gi")), reason: "SMTAlignmentError", err: "requested 1 cpus not multiple",
		},
		"memory of one node":              {machine: big, policy: memory, pod: podOf("p", asking("app", "100m", "2Gi")), want: "app:  mem 0"},
		"memory that the first has not":   {machine: big, policy: memory, pod: podOf("p", asking("app", "100m", "3500Mi")), want: "app:  mem 1"},
		"memory of two nodes":             {machine: big, policy: memory, pod: podOf("p", asking("app", "100m", "6Gi")), want: "app:  mem 0-1"},
		"hugepages have to be there, too": {machine: big, policy: memory, before: []*corev1.Pod{podOf("first", asking("app", "1", "1Gi", "hugepages-2Mi", "64Mi"))}, pod: podOf("p", asking("app", "1", "1Gi", "hugepages-2Mi", "2Mi")), want: "app:  mem 1"},
		"nodes used together are not used alone": {
			machine: big, policy: memory, before: []*corev1.Pod{podOf("first", asking("app", "100m", "6Gi"))}, pod: podOf("p", asking("app", "100m", "100Mi")), want: "app:  mem 2",
		},
		"nor nodes used alone together": {
			machine: built(1, 2, 1, 1, 1), policy: memory, before: []*corev1.Pod{podOf("first", asking("app", "100m", "1Gi"))}, pod: podOf("p", asking("app", "100m", "6Gi")),
			err: "no NUMA nodes with enough memory: the container asks for 6Gi of memory",
		},
		"memory of an init container is used again": {
			machine: built(1, 1, 1, 2, 1), policy: memory, pod: withInit(podOf("p", asking("app", "100m", "2Gi")), asking("init", "100m", "2Gi")), want: "init:  mem 0; app:  mem 0",
		},
		"memory for two that run side by side": {
			machine: built(1, 1, 1, 2, 1), policy: memory, pod: podOf("p", asking("a", "100m", "2Gi"), asking("b", "100m", "2Gi")), err: "no NUMA nodes with enough memory",
		},
		"CPUs and memory of one node": {
			machine: big, policy: aligned(align.SingleNode), pod: podOf("p", asking("app", "4", "3584Mi")), want: "app: 2-3,10-11! mem 1",
		},
		"each container has its own node": {
			machine: big, policy: aligned(align.SingleNode), pod: podOf("p", asking("a", "4", "1Gi"), asking("b", "4", "1Gi")), want: "a: 2-3,10-11! mem 1; b: 4-5,12-13! mem 2",
		},
		"all containers have the same": {
			machine: big, policy: aligned(align.SingleNode, func(p *Policy) { p.Align.Pods = true }), pod: podOf("p", asking("a", "2", "1Gi"), asking("b", "2", "1Gi")), want: "a: 2,10! mem 1; b: 3,11! mem 1",
		},
		"more than a node, of which there is to be one": {
			machine: big, policy: aligned(align.SingleNode), pod: podOf("p", asking("app", "6", "1Gi")), reason: "TopologyAffinityError", err: "Resources cannot be allocated with Topology locality",
		},
		"a pod of more than a node": {
			machine: big, policy: aligned(align.SingleNode, func(p *Policy) { p.Align.Pods = true }), pod: podOf("p", asking("a", "4", "1Gi"), asking("b", "2", "1Gi")),
			reason: "TopologyAffinityError", err: "Resources cannot be allocated with Topology locality",
		},
		"CPUs and memory that need a different number of nodes": {
			machine: big, policy: aligned(align.Restricted), pod: podOf("p", asking("app", "2", "6Gi")), reason: "TopologyAffinityError", err: "Topology locality",
		},
		"and of nodes that do not matter much": {
			machine: big, policy: aligned(align.BestEffort), pod: podOf("p", asking("app", "2", "6Gi")), want: "app: 1,9! mem 0-1",
		},
		"two nodes as one where two are needed": {
			machine: big, policy: aligned(align.Restricted), pod: podOf("p", asking("app", "6", "6Gi")), want: "app: 1-3,9-11! mem 0-1",
		},
		"a node that is half taken is passed over": {
			machine: built(1, 2, 1, 2, 1), policy: aligned(align.Restricted), before: []*corev1.Pod{podOf("first", asking("app", "1", "1Gi"))}, pod: podOf("p", asking("app", "2", "3584Mi")), want: "app: 2-3! mem 1",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			n := started(t, t.TempDir(), tc.machine, tc.policy)
			for _, pod := range tc.before {
				if err := n.Admit(pod); err != nil {
					t.Fatal(err)
				}
			}
			err := n.Admit(tc.pod)
			if tc.err != "" {
				var refusal Refusal
				if err == nil || !strings.Contains(err.Error(), tc.err) || errors.As(err, &refusal) && refusal.Why() != tc.reason || refusal.Reason != tc.reason {
					t.Errorf("Admit() = %v, want %s: %s", err, tc.reason, tc.err)
				}
				if got, _ := n.Given(tc.pod.UID, "app"); !got.IsEmpty() {
					t.Errorf("what was refused has %s", got)
				}
				return
			}
			if got := n.places(tc.pod); err != nil || got != tc.want {
				t.Errorf("Admit() = %v; it has %s, want %s", err, got, tc.want)
			}
		})
	}
}

func TestWhatIsShared(t *testing.T) {
	n := started(t, t.TempDir(), built(1, 1, 1, 4, 1), Policy{CPUs: true, ReservedCPUs: cpuset.New(0), KeepReserved: true})
	neighbour := podOf("neighbour", corev1.Container{Name: "app"})
	expect := func(cpus string, changes int) {
		t.Helper()
		if got := n.Of(neighbour.UID, "app"); got != (translate.Place{CPUs: cpus}) || n.changed != changes {
			t.Errorf("a neighbour has %+v after %d changes, want %s after %d", got, n.changed, cpus, changes)
		}
	}
	expect("1-3", 0)
	if err := n.Admit(neighbour); err != nil {
		t.Fatal(err)
	}
	expect("1-3", 0)
	first, second := podOf("first", asking("app", "2", "1Gi")), podOf("second", asking("app", "1", "1Gi"))
	for range 2 { // the second time nothing is to be done
		if err := n.Admit(first); err != nil {
			t.Fatal(err)
		}
	}
	expect("3", 1)
	if err := n.Admit(second); err != nil {
		t.Fatal(err)
	}
	expect("0", 2) // it has to run somewhere
	for range 2 {
		if err := n.Release(t.Context(), first.UID); err != nil {
			t.Fatal(err)
		}
	}
	expect("1-2", 3)
	if got := fmt.Sprint(n.Pods()); got != "[second]" {
		t.Errorf("pods: %s", got)
	}
	if !n.HasCPUs("second") || n.HasCPUs("first") {
		t.Error("who has CPUs to itself is not known")
	}
}

func TestRestart(t *testing.T) {
	dir, machine := t.TempDir(), built(2, 2, 1, 2, 2)
	policy := Policy{CPUs: true, Memory: true}
	n := started(t, dir, machine, policy)
	pod := withInit(podOf("p", asking("app", "2", "2Gi")), asking("init", "2", "1Gi"))
	if err := n.Admit(pod); err != nil {
		t.Fatal(err)
	}
	before := n.places(pod)
	n = started(t, dir, machine, policy)
	if got := n.places(pod); got != before {
		t.Errorf("after a restart it has %s, before %s", got, before)
	}
	if err := n.Admit(podOf("other", asking("app", "15", "1Gi"))); err == nil {
		t.Error("what it has was given away")
	}
	_, blocks := n.Allocatable()
	if diff := cmp.Diff(Block{Type: "memory", Size: 3 << 30, Nodes: 1}, blocks[1]); diff != "" {
		t.Errorf("what can be had (-want +got):\n%s", diff)
	}
	fewer := built(2, 2, 1, 2, 1)
	fewer.CPUs = fewer.CPUs[:2]
	tests := map[string]struct {
		machine topology.Machine
		policy  Policy
		err     string
	}{
		"CPUs that went": {machine: fewer, policy: policy, err: "pod p has CPUs 1,9 to itself, and this machine, which had the CPUs 0-15, has 0-1 now; stop the pods"},
		"CPUs that are reserved now": {
			machine: machine, policy: Policy{CPUs: true, ReservedCPUs: cpuset.New(1)}, err: "pod p has CPUs 1,9 to itself, and 1 are reserved now; stop",
		},
		"CPUs that came": {machine: built(3, 2, 1, 2, 2), policy: policy},
		"nodes that went": {
			machine: topology.Machine{CPUs: machine.CPUs, Nodes: machine.Nodes[1:]}, policy: Policy{CPUs: true}, err: "memory of NUMA nodes 0, and this machine has the nodes 1-3",
		},
		"the policy is another": {machine: machine, policy: Policy{CPUs: true}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := newNode(dir, tc.machine, tc.policy)
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("New() = %v, want %q", err, tc.err)
			}
		})
	}
}

func TestPoliciesThisMachineCannotHave(t *testing.T) {
	machine := built(1, 2, 1, 2, 1)
	tests := map[string]struct {
		policy Policy
		none   bool // nothing is reserved
		err    string
	}{
		"a CPU it has not":              {policy: Policy{CPUs: true, ReservedCPUs: cpuset.New(3, 4)}, err: "reservedSystemCPUs: this machine has the CPUs 0-3, and not 4"},
		"no reserved CPU":               {policy: Policy{CPUs: true}, none: true, err: "cpuManagerPolicy static needs CPUs for what is not exclusive"},
		"a node it has not":             {policy: Policy{Memory: true, ReservedBytes: map[int]Amounts{2: {"memory": 1 << 30}}}, err: "NUMA node 2 of this machine has no memory: it has nodes 0-1"},
		"more memory than a node has":   {policy: Policy{Memory: true, ReservedBytes: map[int]Amounts{0: {"memory": 5 << 30}}}, err: "NUMA node 0 has 4Gi of memory, and 5Gi is to be reserved"},
		"other memory than the node's":  {policy: Policy{Memory: true, ReservedBytes: map[int]Amounts{0: {"memory": 1 << 20}}}, err: "1Mi of memory on all NUMA nodes together, and kubeReserved, systemReserved and evictionHard keep 1Gi"},
		"hugepages do not count for it": {policy: Policy{Memory: true, ReservedBytes: map[int]Amounts{0: {"memory": 1 << 29, "hugepages-2Mi": 2 << 20}, 1: {"memory": 1 << 29}}}},
		"more nodes than allowed":       {policy: Policy{Align: align.Policy{Name: align.Restricted, MaxNodes: 1}}, err: "this machine has 2 NUMA nodes, and choosing among more than 1"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if tc.policy.Align.MaxNodes == 0 {
				tc.policy.Align.MaxNodes = 8
			}
			reserved := corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourceCPU: resource.MustParse("1")}
			if tc.none {
				reserved = nil
			}
			_, err := New(Config{Policy: tc.policy, Machine: machine, Reserved: reserved, State: filepath.Join(t.TempDir(), "exclusive.json"), Log: slog.Default()})
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("New() = %v, want %q", err, tc.err)
			}
		})
	}
}

func TestFixed(t *testing.T) {
	n := started(t, t.TempDir(), built(1, 1, 1, 2, 1), Policy{CPUs: true})
	before := podOf("p", asking("app", "1", "1Gi"))
	burstable := podOf("p", asking("app", "1", "1Gi"))
	burstable.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m")}
	for name, tc := range map[string]struct {
		before, after *corev1.Pod
		want          string
	}{
		"more CPUs":             {before: before, after: podOf("p", asking("app", "2", "1Gi")), want: `Resize is infeasible for Guaranteed Pods alongside CPU Manager policy "static"`},
		"fewer CPUs":            {before: before, after: podOf("p", asking("app", "500m", "1Gi")), want: `Resize is infeasible for Guaranteed Pods alongside CPU Manager policy "static"`},
		"memory is not managed": {before: before, after: podOf("p", asking("app", "1", "2Gi"))},
		"a burstable pod":       {before: burstable, after: podOf("p", asking("app", "2", "1Gi"))},
	} {
		t.Run(name, func(t *testing.T) {
			if got := n.Fixed(tc.before, tc.after); got != tc.want {
				t.Errorf("Fixed() = %q, want %q", got, tc.want)
			}
		})
	}
}
