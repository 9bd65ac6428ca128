package cgroup

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func list(cpu, memory string) corev1.ResourceList {
	l := corev1.ResourceList{}
	if cpu != "" {
		l[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		l[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	return l
}

func pod(containers ...corev1.ResourceRequirements) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "1"}}
	for i, r := range containers {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: fmt.Sprint(i), Resources: r})
	}
	return p
}

func TestQOSAndBounds(t *testing.T) {
	full := corev1.ResourceRequirements{Requests: list("500m", "64Mi"), Limits: list("500m", "64Mi")}
	ofPod := func(r corev1.ResourceRequirements) *corev1.Pod {
		p := pod(corev1.ResourceRequirements{}, corev1.ResourceRequirements{Requests: list("100m", "")})
		p.Spec.Resources = &r
		return p
	}
	tests := map[string]struct {
		pod    *corev1.Pod
		qos    corev1.PodQOSClass
		shares uint64
		quota  int64 // 0: none
		memory int64 // 0: none
	}{
		"nothing asked for is best effort":              {pod(corev1.ResourceRequirements{}), corev1.PodQOSBestEffort, 2, 0, 0},
		"limits for everything are a guarantee":         {pod(full, full), corev1.PodQOSGuaranteed, 1024, 100000, 128 << 20},
		"one container without limits unbounds the pod": {pod(full, corev1.ResourceRequirements{}), corev1.PodQOSBurstable, 512, 0, 0},
		"limits of the whole pod are a guarantee":       {ofPod(full), corev1.PodQOSGuaranteed, 512, 50000, 64 << 20},
		"requests of the whole pod are none":            {ofPod(corev1.ResourceRequirements{Requests: list("250m", "")}), corev1.PodQOSBurstable, 256, 0, 0},
		"a request below the limit is burstable":        {pod(corev1.ResourceRequirements{Requests: list("100m", ""), Limits: list("1", "1Gi")}), corev1.PodQOSBurstable, 102, 100000, 1 << 30},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := QOS(tc.pod); got != tc.qos {
				t.Errorf("class = %s, want %s", got, tc.qos)
			}
			res := PodResources(tc.pod)
			if *res.CPU.Shares != tc.shares {
				t.Errorf("shares = %d, want %d", *res.CPU.Shares, tc.shares)
			}
			quota := int64(0)
			if res.CPU.Quota != nil {
				quota = *res.CPU.Quota
			}
			memory := int64(0)
			if res.Memory != nil {
				memory = *res.Memory.Limit
			}
			if quota != tc.quota || memory != tc.memory {
				t.Errorf("quota, memory = %d, %d, want %d, %d", quota, memory, tc.quota, tc.memory)
			}
		})
	}
}

func TestPodPids(t *testing.T) {
	tests := map[string]struct{ limit, machine, want int64 }{
		"a quarter of the machine's":        {0, 32768, 8192},
		"no more than programs need":        {0, 4 << 20, 16384},
		"a tiny machine's pods still start": {0, 500, 256},
		"what the operator says":            {100, 32768, 100},
		"no more than there are":            {1 << 40, 32768, 32768},
		"no bound is all there are":         {-1, 32768, 32768},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := podPids(tc.limit, tc.machine); got != tc.want {
				t.Errorf("podPids(%d, %d) = %d, want %d", tc.limit, tc.machine, got, tc.want)
			}
		})
	}
}

// The groups are real ones, below a root of the test's own.
func TestTree(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("cgroups need root")
	}
	root := fmt.Sprintf("/knarr-cgroup-test-%d", os.Getpid())
	tree := New(root)
	t.Cleanup(func() {
		if err := tree.remove(root); err != nil {
			t.Error(err)
		}
	})
	if err := tree.Init(Whole{}); err != nil {
		t.Fatal(err)
	}
	p := pod(corev1.ResourceRequirements{Limits: list("250m", "32Mi"), Requests: list("100m", "16Mi")})
	group, err := tree.EnsurePod(p)
	if err != nil {
		t.Fatal(err)
	}
	if want := root + "/kubepods/burstable/pod1"; group != want {
		t.Errorf("group = %s, want %s", group, want)
	}
	file := filepath.Join(mountpoint, "memory", group, "memory.limit_in_bytes")
	if tree.Unified() {
		file = filepath.Join(mountpoint, group, "memory.max")
	}
	if limit, err := os.ReadFile(file); err != nil || string(limit) != "33554432\n" {
		t.Errorf("memory limit = %q, %v, want 32Mi", limit, err)
	}
	file = filepath.Join(mountpoint, "pids", group, "pids.max")
	if tree.Unified() {
		file = filepath.Join(mountpoint, group, "pids.max")
	}
	for said, want := range map[int64]int64{0: podPids(0, machinePids()), 100: 100, -1: machinePids()} {
		if _, err := tree.BoundPids(said).EnsurePod(p); err != nil {
			t.Errorf("once more: %v", err)
		}
		if limit, err := os.ReadFile(file); err != nil || string(limit) != fmt.Sprintln(want) {
			t.Errorf("limit of processes = %q, %v, want %d", limit, err, want)
		}
	}
	if uids := tree.Uids(); len(uids) != 1 || uids[0] != "1" {
		t.Errorf("pods with groups = %v, want 1", uids)
	}
	for range 2 { // the second time there is nothing left to remove
		if err := tree.Remove("1"); err != nil {
			t.Error(err)
		}
	}
	if uids := tree.Uids(); len(uids) != 0 {
		t.Errorf("pods with groups = %v, want none", uids)
	}
}

func TestWhatMustDieIsNotHeldUp(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("cgroups need root")
	}
	root := fmt.Sprintf("/knarr-cgroup-haste-%d", os.Getpid())
	tree := New(root)
	t.Cleanup(func() {
		if err := tree.remove(root); err != nil {
			t.Error(err)
		}
	})
	if err := tree.Init(Whole{}); err != nil {
		t.Fatal(err)
	}
	p := pod(corev1.ResourceRequirements{Limits: list("250m", "32Mi")})
	group, err := tree.EnsurePod(p)
	if err != nil {
		t.Fatal(err)
	}
	const mine, beside = "/cri-0123", "/4567"
	for _, container := range []string{mine, beside} {
		if err := tree.ensure(group+container, PodResources(p)); err != nil {
			t.Fatal(err)
		}
	}
	quota := func(group string) string {
		file := filepath.Join(mountpoint, "cpu", group, "cpu.cfs_quota_us")
		if tree.Unified() {
			file = filepath.Join(mountpoint, group, "cpu.max")
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(text))[0]
	}
	none := "-1"
	if tree.Unified() {
		none = "max"
	}
	steps := []struct {
		container string
		whole     bool
		want      []string // of the pod, its container and the one beside it
	}{
		{"89", false, []string{"25000", "25000", "25000"}}, // one that is gone
		{"0123", false, []string{"25000", none, "25000"}},
		{"0123", true, []string{none, none, "25000"}},
	}
	for _, step := range steps {
		if err := tree.Hasten(p, step.container, step.whole); err != nil {
			t.Fatal(err)
		}
		if got := []string{quota(group), quota(group + mine), quota(group + beside)}; !slices.Equal(got, step.want) {
			t.Errorf("after Hasten(%s, %v) the quotas are %v, want %v", step.container, step.whole, got, step.want)
		}
	}
	if err := tree.remove(group); err != nil {
		t.Fatal(err)
	}
	if err := tree.Hasten(p, "0123", true); err != nil {
		t.Errorf("a group that is gone: %v", err)
	}
}

func TestAProcessNobodyKnowsDoesNotKeepAGroup(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("cgroups need root")
	}
	root := fmt.Sprintf("/knarr-cgroup-stray-%d", os.Getpid())
	tree := New(root)
	t.Cleanup(func() {
		if err := tree.remove(root); err != nil {
			t.Error(err)
		}
	})
	group, err := tree.EnsurePod(pod())
	if err != nil {
		t.Fatal(err)
	}
	stray := exec.Command("sleep", "1000")
	if err := stray.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- stray.Wait() }()
	t.Cleanup(func() { _ = stray.Process.Kill() })
	files := map[string]string{"freezer/" + group + "/cgroup.procs": fmt.Sprint(stray.Process.Pid), "freezer/" + group + "/freezer.state": "FROZEN"}
	if tree.Unified() {
		files = map[string]string{group + "/cgroup.procs": fmt.Sprint(stray.Process.Pid)}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) { // first in, then frozen
		if err := os.WriteFile(filepath.Join(mountpoint, name), []byte(files[name]), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := tree.Remove("1"); err == nil {
		t.Error("a group that holds a process was removed")
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Fatal("the process lives on")
	}
	if err := tree.Remove("1"); err != nil {
		t.Errorf("remove the group once the process is gone: %v", err)
	}
}
