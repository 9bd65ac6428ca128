package cgroup

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// unified is a tree of cgroup v2 in a folder of ours: what is written is there to read, and means nothing.
func unified(t *testing.T) *Tree {
	t.Helper()
	tree := &Tree{root: "/", unified: true, mount: t.TempDir()}
	for _, group := range []string{"", "kubepods", "kubepods/burstable", "kubepods/besteffort"} { // the kernel makes these files
		dir := filepath.Join(tree.mount, group)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func (t *Tree) written(group string) map[string]string {
	out := map[string]string{}
	files, _ := filepath.Glob(filepath.Join(t.mount, group, "*.*"))
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && filepath.Base(file) != "cgroup.subtree_control" {
			out[filepath.Base(file)] = string(text)
		}
	}
	return out
}

func TestWhatIsToldToCgroupV2(t *testing.T) {
	tree := unified(t)
	capacity := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi")}
	reserved := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi")}
	if err := tree.Init(Sharing(capacity, reserved)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"cpu.weight": "240", "memory.max": "7516192768"}, tree.written("kubepods")); diff != "" {
		t.Errorf("for all pods (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[string]string{"cpu.weight": "1"}, tree.written("kubepods/besteffort")); diff != "" {
		t.Errorf("for best-effort pods (-want +got):\n%s", diff)
	}
	group, err := tree.EnsurePod(pod(corev1.ResourceRequirements{Limits: list("250m", "32Mi"), Requests: list("100m", "16Mi")}))
	if err != nil {
		t.Fatal(err)
	}
	got := tree.written(group)
	delete(got, "pids.max") // of this machine
	delete(got, "cpu.weight")
	if diff := cmp.Diff(map[string]string{"cpu.max": "25000 100000", "memory.max": "33554432"}, got); diff != "" {
		t.Errorf("for a pod (-want +got):\n%s", diff)
	}
	if uids := tree.Uids(); len(uids) != 1 || uids[0] != "1" {
		t.Errorf("pods with groups = %v, want 1", uids)
	}
}

func TestSharing(t *testing.T) {
	capacity := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi")}
	tests := map[string]struct {
		reserved corev1.ResourceList
		want     Whole
	}{
		"of what nothing is reserved there is no bound": {},
		"what is left is for pods":                      {corev1.ResourceList{"cpu": resource.MustParse("500m")}, Whole{MilliCPU: 3500}},
		"more than there is leaves a bound":             {corev1.ResourceList{"memory": resource.MustParse("16Gi")}, Whole{Memory: 1}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Sharing(capacity, tc.reserved)); diff != "" {
				t.Errorf("Sharing() (-want +got):\n%s", diff)
			}
		})
	}
}

// Groups are counted even where nothing is bounded: what they pass on does not hang on the bounds of the first pod.
func TestGroupsPassOnWhatThereIs(t *testing.T) {
	tree := unified(t)
	if err := os.WriteFile(filepath.Join(tree.mount, "cgroup.controllers"), []byte("cpu io memory misc pids\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := tree.Init(Whole{}); err != nil {
		t.Fatal(err)
	}
	for _, group := range []string{"", "kubepods"} {
		text, err := os.ReadFile(filepath.Join(tree.mount, group, "cgroup.subtree_control"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff("+cpu +io +memory +pids", string(text)); diff != "" {
			t.Errorf("group %q passes on (-want +got):\n%s", group, diff)
		}
	}
}

func TestSwap(t *testing.T) {
	tests := map[string]struct {
		files map[string]string
		used  uint64
		left  *uint64
		ok    bool
	}{
		"what is left of a bound":                      {map[string]string{"memory.swap.current": "300\n", "memory.swap.max": "1000\n"}, 300, new(uint64(700)), true},
		"more than a bound that was lowered":           {map[string]string{"memory.swap.current": "300\n", "memory.swap.max": "0\n"}, 300, new(uint64(0)), true},
		"no bound leaves nobody knows what":            {map[string]string{"memory.swap.current": "0\n", "memory.swap.max": "max\n"}, 0, nil, true},
		"a kernel that does not count it, or no group": {},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tree := &Tree{root: "/", unified: true, mount: t.TempDir()}
			for file, text := range tc.files {
				if err := os.WriteFile(filepath.Join(tree.mount, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			used, left, ok := tree.Swap("/")
			if diff := cmp.Diff([]any{tc.used, tc.left, tc.ok}, []any{used, left, ok}); diff != "" {
				t.Errorf("Swap() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestAbove(t *testing.T) {
	tests := map[string]struct {
		group, pods string
		want        bool
	}{
		"a container's root is above the pods": {"/", "/kubepods", true},
		"so is a service's own group":          {"/system.slice/knarr.service", "/system.slice/knarr.service/kubepods", true},
		"a service beside them is not":         {"/system.slice/knarr.service", "/kubepods", false},
		"a name that begins alike is not":      {"/lab", "/labs/kubepods", false},
		"the pods' own group is not":           {"/kubepods", "/kubepods", false},
		"a group outside of what is seen":      {"/..", "/kubepods", false},
		"the leaf that knarr was moved to":     {"/init", "/kubepods", false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := above(tc.group, tc.pods); got != tc.want {
				t.Errorf("above(%q, %q) = %v, want %v", tc.group, tc.pods, got, tc.want)
			}
		})
	}
}

// Under v2 the kernel kills a whole group: who forks faster than its processes are listed does not get away.
func TestAGroupIsKilledAtOnce(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := killAll(dir); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "cgroup.kill")); err != nil || string(text) != "1" {
		t.Errorf("cgroup.kill = %q, %v; want 1", text, err)
	}
}
