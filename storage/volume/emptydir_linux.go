package volume

import (
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// setUpEmptyDir makes a folder for the pod's lifetime: on disk, in memory or on huge pages.
func (m *Manager) setUpEmptyDir(pod *corev1.Pod, v *corev1.Volume) (string, error) {
	folder := m.path(pod.UID, "empty-dir", v.Name)
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return "", fmt.Errorf("make %s: %w", folder, err)
	}
	switch medium := v.EmptyDir.Medium; {
	case medium == corev1.StorageMediumDefault:
	case medium == corev1.StorageMediumMemory:
		if err := mountMemory(folder, memorySize(pod, v.EmptyDir.SizeLimit, m.config.Allocatable())); err != nil {
			return "", err
		}
	case strings.HasPrefix(string(medium), string(corev1.StorageMediumHugePages)):
		size, err := pageSize(pod, v.EmptyDir.Medium)
		if err != nil {
			return "", err
		}
		if err := mountHugePages(folder, size); err != nil {
			return "", err
		}
	default:
		return "", fmt.Errorf("emptyDir medium %q is unknown: use \"\", Memory or HugePages", medium)
	}
	return folder, own(folder, 0o777, fsGroup(pod))
}

// memorySize bounds a memory-backed emptyDir: its own limit, and never more than the pod (or else the node) may use,
// because its pages are charged to the pod.
func memorySize(pod *corev1.Pod, limit *resource.Quantity, allocatable corev1.ResourceList) int64 {
	size := allocatable.Memory().Value()
	if ofPod := podMemoryLimit(pod); ofPod > 0 && (size == 0 || ofPod < size) {
		size = ofPod
	}
	if limit != nil && limit.Value() > 0 && (size == 0 || limit.Value() < size) {
		size = limit.Value()
	}
	return size
}

// podMemoryLimit is what all containers together may use, 0 when one of them has no limit.
func podMemoryLimit(pod *corev1.Pod) int64 {
	if pod.Spec.Resources != nil {
		if limit, set := pod.Spec.Resources.Limits[corev1.ResourceMemory]; set {
			return limit.Value()
		}
	}
	var sum, largestInit int64
	for i := range pod.Spec.Containers {
		limit := pod.Spec.Containers[i].Resources.Limits.Memory().Value()
		if limit == 0 {
			return 0
		}
		sum += limit
	}
	for i := range pod.Spec.InitContainers {
		container := &pod.Spec.InitContainers[i]
		limit := container.Resources.Limits.Memory().Value()
		if limit == 0 {
			return 0
		}
		if container.RestartPolicy != nil && *container.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			sum += limit // a sidecar runs beside the others
		} else {
			largestInit = max(largestInit, limit)
		}
	}
	return max(sum, largestInit)
}

// pageSize of a HugePages medium: named by the medium, or the one size the pod asks for.
func pageSize(pod *corev1.Pod, medium corev1.StorageMedium) (int64, error) {
	if named, found := strings.CutPrefix(string(medium), string(corev1.StorageMediumHugePagesPrefix)); found {
		quantity, err := resource.ParseQuantity(named)
		if err != nil {
			return 0, fmt.Errorf("emptyDir medium %q: %w", medium, err)
		}
		return quantity.Value(), nil
	}
	sizes := map[string]bool{}
	add := func(requests corev1.ResourceList) {
		for name := range requests {
			if size, found := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix); found {
				sizes[size] = true
			}
		}
	}
	if pod.Spec.Resources != nil { // KEP-2837
		add(pod.Spec.Resources.Requests)
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			add(list[i].Resources.Requests)
		}
	}
	if len(sizes) != 1 {
		return 0, fmt.Errorf("emptyDir medium HugePages needs exactly one page size in the pod's requests, found %d: name it as HugePages-2Mi", len(sizes))
	}
	for size := range sizes {
		quantity, err := resource.ParseQuantity(size)
		if err != nil {
			return 0, fmt.Errorf("huge page size %q: %w", size, err)
		}
		return quantity.Value(), nil
	}
	return 0, nil
}
