package volume

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// downward computes the files of a downward API source from the pod alone.
func downward(pod *corev1.Pod, items []corev1.DownwardAPIVolumeFile, mode *int32, allocatable corev1.ResourceList) (files, error) {
	base := uint32(defaultMode)
	if mode != nil {
		base = uint32(*mode)
	}
	out := files{}
	for _, item := range items {
		var value string
		var err error
		switch {
		case item.FieldRef != nil:
			value, err = fieldValue(pod, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			value, err = resourceValue(pod, item.ResourceFieldRef, allocatable)
		}
		if err != nil {
			return nil, err
		}
		content := file{data: []byte(value), mode: base, uid: -1, gid: -1}
		if item.Mode != nil {
			content.mode = uint32(*item.Mode)
		}
		out[path.Clean(item.Path)] = content
	}
	return out, nil
}

// fieldValue is the text of a pod field. The API offers volumes the metadata only.
func fieldValue(pod *corev1.Pod, field string) (string, error) {
	if of, key, ok := subscript(field); ok {
		switch of {
		case "metadata.labels":
			return pod.Labels[key], nil
		case "metadata.annotations":
			return pod.Annotations[key], nil
		}
	}
	switch field {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return listing(pod.Labels), nil
	case "metadata.annotations":
		return listing(pod.Annotations), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %s", field)
}

// subscript splits metadata.labels['key'].
func subscript(field string) (of, key string, ok bool) {
	of, rest, found := strings.Cut(field, "['")
	key, closed := strings.CutSuffix(rest, "']")
	return of, key, found && closed
}

// listing writes a map as one key="value" a line, sorted, so that the file changes only when the map does.
func listing(m map[string]string) string {
	lines := make([]string, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		lines = append(lines, key+"="+strconv.Quote(m[key]))
	}
	return strings.Join(lines, "\n")
}

// resourceValue is a container's request or limit in units of the divisor, rounded up.
func resourceValue(pod *corev1.Pod, ref *corev1.ResourceFieldSelector, allocatable corev1.ResourceList) (string, error) {
	container := findContainer(pod, ref.ContainerName)
	if container == nil {
		return "", fmt.Errorf("container %q not found in pod: name one of its containers in resourceFieldRef.containerName", ref.ContainerName)
	}
	kind, name, _ := strings.Cut(ref.Resource, ".")
	from := container.Resources.Limits
	if kind == "requests" {
		from = container.Resources.Requests
	}
	resourceName := corev1.ResourceName(name)
	known := resourceName == corev1.ResourceCPU || resourceName == corev1.ResourceMemory ||
		resourceName == corev1.ResourceEphemeralStorage || strings.HasPrefix(name, corev1.ResourceHugePagesPrefix)
	if (kind != "limits" && kind != "requests") || !known {
		return "", fmt.Errorf("unsupported container resource: %s", ref.Resource)
	}
	quantity, set := from[resourceName]
	if !set && kind == "limits" {
		quantity = allocatable[resourceName] // no limit means the whole node
	}
	return strconv.FormatInt(inUnits(quantity, ref.Divisor, resourceName), 10), nil
}

func inUnits(quantity, divisor resource.Quantity, name corev1.ResourceName) int64 {
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	value, unit := quantity.Value(), divisor.Value()
	if name == corev1.ResourceCPU {
		value, unit = quantity.MilliValue(), divisor.MilliValue()
	}
	return (value + unit - 1) / unit
}

func findContainer(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}
