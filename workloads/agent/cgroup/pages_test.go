package cgroup

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// withPages has two sizes of hugepages, and their controller.
func withPages(t *testing.T, tree *Tree) *Tree {
	t.Helper()
	tree.pages = t.TempDir()
	for _, size := range []string{"hugepages-2048kB", "hugepages-1048576kB"} {
		if err := os.Mkdir(filepath.Join(tree.pages, size), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func TestPageSizes(t *testing.T) {
	both := []corev1.ResourceName{"hugepages-1Gi", "hugepages-2Mi"}
	tests := map[string]struct {
		unified    bool
		controller string // file or folder that shows it
		text       string // in the file
		want       []corev1.ResourceName
	}{
		"v1 with the controller":    {controller: "hugetlb", want: both},
		"v1 without it":             {},
		"v2 with the controller":    {unified: true, controller: "cgroup.controllers", text: "cpu hugetlb memory\n", want: both},
		"v2 that does not offer it": {unified: true, controller: "cgroup.controllers", text: "cpu memory\n"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tree := withPages(t, &Tree{unified: tc.unified, mount: t.TempDir()})
			at := filepath.Join(tree.mount, tc.controller)
			var err error
			switch {
			case tc.text != "":
				err = os.WriteFile(at, []byte(tc.text), 0o600)
			case tc.controller != "":
				err = os.Mkdir(at, 0o755)
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, tree.PageSizes()); diff != "" {
				t.Errorf("PageSizes() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPodsAreHeldToTheirHugepages(t *testing.T) {
	asks := func(more ...string) corev1.ResourceRequirements {
		l := list("1", "1Gi")
		for i := 0; i+1 < len(more); i += 2 {
			l[corev1.ResourceName(more[i])] = resource.MustParse(more[i+1])
		}
		return corev1.ResourceRequirements{Requests: l, Limits: l}
	}
	ofPod := pod(asks("hugepages-2Mi", "4Mi"), asks())
	whole := asks("hugepages-2Mi", "16Mi")
	ofPod.Spec.Resources = &whole
	tests := map[string]struct {
		pod     *corev1.Pod
		m2, gib string // what is written for each size
	}{
		"who asks for none has none":             {pod(corev1.ResourceRequirements{}), "0", "0"},
		"containers' pages add up":               {pod(asks("hugepages-2Mi", "4Mi"), asks("hugepages-2Mi", "8Mi", "hugepages-1Gi", "1Gi")), "12582912", "1073741824"},
		"the pod's own bound goes before theirs": {ofPod, "16777216", "0"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tree := withPages(t, unified(t))
			if err := os.WriteFile(filepath.Join(tree.mount, "cgroup.controllers"), []byte("cpu hugetlb memory pids\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			group, err := tree.EnsurePod(tc.pod)
			if err != nil {
				t.Fatal(err)
			}
			got := tree.written(group)
			if diff := cmp.Diff([]string{tc.m2, tc.gib}, []string{got["hugetlb.2MB.max"], got["hugetlb.1GB.max"]}); diff != "" {
				t.Errorf("hugetlb.2MB.max, hugetlb.1GB.max (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPageLimits(t *testing.T) {
	got := PageLimits(corev1.ResourceList{"hugepages-64Ki": resource.MustParse("128Ki")}, []corev1.ResourceName{"hugepages-2Mi", "hugepages-64Ki"})
	want := []specs.LinuxHugepageLimit{{Pagesize: "2MB"}, {Pagesize: "64KB", Limit: 128 << 10}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("PageLimits() (-want +got):\n%s", diff)
	}
	if size, ok := PageSize("memory"); ok {
		t.Errorf("PageSize(memory) = %s, want none", size)
	}
}
