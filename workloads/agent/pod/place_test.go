package pod

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/cpuset"

	"knarr.dev/knarr/workloads/agent/exclusive"
	"knarr.dev/knarr/workloads/agent/topology"
)

// allowed are the CPUs the kernel lets the processes of a container run on.
func (m *machine) allowed(group, containerID string) string {
	m.t.Helper()
	pids := m.groupFile("pids", filepath.Join(group, strings.TrimPrefix(containerID, "containerd://")), "cgroup.procs")
	status, err := os.ReadFile(filepath.Join("/proc", strings.Fields(pids)[0], "status"))
	if err != nil {
		m.t.Fatal(err)
	}
	for line := range bytes.Lines(status) {
		if list, ok := bytes.CutPrefix(line, []byte("Cpus_allowed_list:")); ok {
			return string(bytes.TrimSpace(list))
		}
	}
	m.t.Fatalf("the kernel does not say where %s may run", containerID)
	return ""
}

// groupFile is a file of a group below the pods', in the controller's hierarchy or in the only one.
func (m *machine) groupFile(controller, group, name string) string {
	m.t.Helper()
	for _, root := range []string{"/sys/fs/cgroup/" + controller, "/sys/fs/cgroup"} {
		if text, err := os.ReadFile(filepath.Join(root, m.cgroups, "kubepods", group, name)); err == nil && len(text) > 0 {
			return strings.TrimSpace(string(text))
		}
	}
	m.t.Fatalf("group %s has no %s of %s", group, name, controller)
	return ""
}

// quota of a group, as the kernel writes it.
func (m *machine) quota(group string) string {
	m.t.Helper()
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		limit, _, _ := strings.Cut(m.groupFile("", group, "cpu.max"), " ")
		return strings.Replace(limit, "max", "-1", 1)
	}
	return m.groupFile("cpu", group, "cpu.cfs_quota_us")
}

// TestContainersHaveTheirCPUs gives a guaranteed pod a CPU of its own and looks where the kernel lets it and others run.
func TestContainersHaveTheirCPUs(t *testing.T) {
	here, err := topology.Read("/sys", "/proc")
	if err != nil {
		t.Fatal(err)
	}
	all := here.All()
	if all.Size() < 2 {
		t.Skipf("one CPU of its own and one for others are two; this machine has %s", all)
	}
	helpers := helpers(t)
	dir, err := os.MkdirTemp("", "kn")
	if err != nil {
		t.Fatal(err)
	}
	m := machineIn(t, dir, fmt.Sprintf("/knarr-test-%d", os.Getpid()))
	t.Cleanup(m.remove)
	boot := func() {
		t.Helper()
		own, err := exclusive.New(exclusive.Config{
			Policy:  exclusive.Policy{CPUs: true, ReservedCPUs: cpuset.New(all.List()[0])},
			Machine: here, State: filepath.Join(dir, "exclusive.json"), Changed: func() { m.manager.Replace() }, Log: slog.Default(),
		})
		if err != nil {
			t.Fatal(err)
		}
		m.devices = []Equipment{own}
		m.change = func(c *Config) {
			c.Places = own
			c.Cgroups.OwnCPUs(own.HasCPUs)
		}
		m.start(helpers)
	}
	boot()
	m.importApp()
	running := func(p *corev1.Pod) bool { return p != nil && p.Status.Phase == corev1.PodRunning }
	asking := func(name, cpu string) *corev1.Pod {
		pod := named(name, app("sleep"))
		pod.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("64Mi")}
		pod.Spec.Containers[0].Resources.Requests = pod.Spec.Containers[0].Resources.Limits
		return m.create(pod)
	}
	await := func(what string, is func() string, want string) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; m.tick() { // the kernel has no event for it
			got := is()
			if got == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %s, want %s", what, got, want)
			}
		}
	}

	m.create(named("neighbour", app("sleep")))
	neighbour := m.await("neighbour", "running", running).Status.ContainerStatuses[0].ContainerID
	beside := func() string { return m.allowed("besteffort/poduid-neighbour", neighbour) }
	await("a neighbour's CPUs", beside, all.String())
	asking("own", "1")
	own := m.await("own", "running", running).Status.ContainerStatuses[0].ContainerID
	mine := m.allowed("poduid-own", own)
	set, err := cpuset.Parse(mine)
	if err != nil || set.Size() != 1 || set.Contains(all.List()[0]) {
		t.Fatalf("the pod's own CPU is %q of %s, %v", mine, all, err)
	}
	await("a neighbour's CPUs when one is somebody's own", beside, all.Difference(set).String())
	for _, group := range []string{"poduid-own", filepath.Join("poduid-own", strings.TrimPrefix(own, "containerd://"))} {
		if got := m.quota(group); got != "-1" {
			t.Errorf("group %s is held to %s microseconds", group, got)
		}
	}
	asking("greedy", fmt.Sprint(all.Size()))
	m.await("greedy", "refused", func(p *corev1.Pod) bool {
		return p != nil && p.Status.Phase == corev1.PodFailed && p.Status.Reason == "UnexpectedAdmissionError" && strings.Contains(p.Status.Message, "not enough cpus available")
	})
	m.edit("own", func(p *corev1.Pod) {
		p.Generation++
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("64Mi")}
		p.Spec.Containers[0].Resources.Requests = p.Spec.Containers[0].Resources.Limits
	})
	m.await("own", "refused another size", func(p *corev1.Pod) bool {
		return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodResizePending && c.Reason == corev1.PodReasonInfeasible && c.Status == corev1.ConditionTrue
		})
	})
	m.edit("own", func(p *corev1.Pod) {
		p.Generation++
		p.Spec.Containers[0].Resources.Limits[corev1.ResourceCPU] = resource.MustParse("1")
		p.Spec.Containers[0].Resources.Requests = p.Spec.Containers[0].Resources.Limits
	})

	m.stop()
	boot()
	m.create(named("newcomer", app("sleep")))
	newcomer := m.await("newcomer", "running", running).Status.ContainerStatuses[0].ContainerID
	if got := m.allowed("besteffort/poduid-newcomer", newcomer); got != all.Difference(set).String() {
		t.Errorf("after a restart a newcomer has the CPUs %s", got)
	}
	if got := m.allowed("poduid-own", own); got != mine {
		t.Errorf("after a restart the pod's own CPU is %s, before %s", got, mine)
	}
	m.deletePod("own", 0)
	m.await("own", "gone", isGone)
	await("a neighbour's CPUs when all are free again", beside, all.String())
	for _, name := range []string{"neighbour", "newcomer", "greedy"} {
		m.deletePod(name, 0)
		m.await(name, "gone", isGone)
	}
	await("pods that leave traces", func() string { return fmt.Sprint(len(m.manager.Pods())) }, "0")
}
