package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/cpuset"
)

// TestCPUsOfTheirOwn: what a KubeletConfiguration says is what the kernel does, before and after a kill.
func TestCPUsOfTheirOwn(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("one CPU is reserved and one given away: this machine has one")
	}
	file := filepath.Join(t.TempDir(), "kubelet.yaml")
	conf := "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\ncpuManagerPolicy: static\nreservedSystemCPUs: \"0\"\n" +
		"memoryManagerPolicy: Static\nreservedMemory: [{numaNode: 0, limits: {memory: 100Mi}}]\ntopologyManagerPolicy: single-numa-node\n"
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	c := start(t, "--kubelet-config", file)
	c.create(pod("neighbour", app("serve")))
	c.awaitPod("neighbour", "to be ready", podReady)
	container := app("serve")
	container.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("64Mi")}
	c.create(pod("alone", container))
	c.awaitPod("alone", "to be ready", podReady)
	own := c.mayRunOn("alone")
	if own == "0" || strings.ContainsAny(own, ",-") {
		t.Fatalf("the pod has the CPUs %s", own)
	}
	c.eventually("its neighbour does not run there", func() error { return notOn(c.mayRunOn("neighbour"), own) })
	if told := c.resourcesOf("alone").Containers[0]; fmt.Sprint(told.CpuIds) != "["+own+"]" || len(told.Memory) != 1 || told.Memory[0].Size != 64<<20 {
		t.Errorf("programs on the node are told of %v", told)
	}
	if err := c.knarr.Kill9(); err != nil {
		t.Fatal(err)
	}
	c.knarr = c.server.StartKnarr("server", "--kubelet-config", file)
	c.connect()
	c.awaitNode(c.server.Name(), corev1.ConditionTrue)
	c.create(pod("newcomer", app("serve")))
	c.awaitPod("newcomer", "to be ready", podReady)
	if got := c.mayRunOn("alone"); got != own {
		t.Errorf("after a kill the pod has the CPUs %s, before %s", got, own)
	}
	for _, name := range []string{"neighbour", "newcomer"} {
		if err := notOn(c.mayRunOn(name), own); err != nil {
			t.Error(err)
		}
	}
	c.kubectl("delete", "pod", "alone", "--now")
	c.eventually("all may run everywhere", func() error {
		if notOn(c.mayRunOn("neighbour"), own) == nil {
			return fmt.Errorf("the neighbour does not run on CPU %s", own)
		}
		return nil
	})
}

// mayRunOn are the CPUs a pod's processes may run on, as the kernel says.
func (c *cluster) mayRunOn(pod string) string {
	c.t.Helper()
	for line := range strings.Lines(c.exec(pod, "read", "/proc/self/status")) {
		if list, ok := strings.CutPrefix(line, "Cpus_allowed_list:"); ok {
			return strings.TrimSpace(list)
		}
	}
	c.t.Fatalf("the kernel does not say where pod %s may run", pod)
	return ""
}

// notOn is an error if a list of CPUs has one.
func notOn(list, one string) error {
	set, err := cpuset.Parse(list)
	if err != nil {
		return err
	}
	if id, err := strconv.Atoi(one); err != nil || set.Contains(id) {
		return fmt.Errorf("it may run on the CPUs %s, with CPU %s among them", list, one)
	}
	return nil
}
