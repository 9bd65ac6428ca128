package cgroup

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// PageSizes are the hugepages groups can be held to, by their resources' names (hugepages-2Mi): those the kernel has, where it
// has the controller for them.
func (t *Tree) PageSizes() []corev1.ResourceName {
	if t.unified && !slices.Contains(t.offered(), "hugetlb") {
		return nil
	}
	if _, err := os.Stat(filepath.Join(t.mount, "hugetlb")); !t.unified && err != nil {
		return nil
	}
	folders, _ := filepath.Glob(filepath.Join(t.pages, "hugepages-*kB")) // errors are of the pattern only
	var sizes []corev1.ResourceName
	for _, folder := range folders {
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(folder), "hugepages-"), "kB"), 10, 64)
		if err == nil {
			sizes = append(sizes, corev1.ResourceName(corev1.ResourceHugePagesPrefix+resource.NewQuantity(kib<<10, resource.BinarySI).String()))
		}
	}
	return sizes
}

// PageLimits are the bounds of hugepages, in the kernel's terms: what is asked for, and nothing of the sizes that are not.
func PageLimits(limits corev1.ResourceList, sizes []corev1.ResourceName) []specs.LinuxHugepageLimit {
	var out []specs.LinuxHugepageLimit
	for _, name := range sizes {
		limit := limits[name]
		size, _ := PageSize(name)
		out = append(out, specs.LinuxHugepageLimit{Pagesize: size, Limit: uint64(limit.Value())})
	}
	return out
}

// PageSize turns a resource such as hugepages-2Mi into the kernel's 2MB. Other resources have none.
func PageSize(name corev1.ResourceName) (size string, ok bool) {
	rest, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix)
	if !ok || len(rest) < 2 {
		return "", false
	}
	return rest[:len(rest)-1] + "B", true
}
