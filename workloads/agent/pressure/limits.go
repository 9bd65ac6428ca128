package pressure

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	podresources "k8s.io/component-helpers/resource"
)

// limited: does the pod bound what it takes of the node's disk, so that somebody has to count it?
func limited(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; onDisk(v) && v.EmptyDir.SizeLimit != nil && v.EmptyDir.SizeLimit.Sign() > 0 {
			return true
		}
	}
	_, bounded := podLimit(pod)
	return bounded
}

func podLimit(pod *corev1.Pod) (bytes int64, bounded bool) {
	limit, bounded := podresources.PodLimits(pod, podresources.PodResourcesOptions{})[corev1.ResourceEphemeralStorage]
	return limit.Value(), bounded
}

// exceeded says which of its own limits of local storage a pod is above, "" when none.
func exceeded(pod *corev1.Pod, use Use) string {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if !onDisk(v) || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Sign() <= 0 {
			continue
		}
		if used := use.Volumes[v.Name].Bytes; int64(used) > v.EmptyDir.SizeLimit.Value() {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, v.EmptyDir.SizeLimit.String())
		}
	}
	var total Amount
	for _, v := range use.Volumes {
		total = total.plus(v)
	}
	for _, c := range use.Containers {
		total = total.plus(c.Layer).plus(c.Logs)
	}
	if limit, bounded := podLimit(pod); bounded && int64(total.Bytes) > limit {
		quantity := podresources.PodLimits(pod, podresources.PodResourcesOptions{})[corev1.ResourceEphemeralStorage]
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", quantity.String())
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			limit, bounded := list[i].Resources.Limits[corev1.ResourceEphemeralStorage]
			c := use.Containers[list[i].Name]
			if bounded && int64(c.Layer.Bytes+c.Logs.Bytes) > limit.Value() {
				return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", list[i].Name, limit.String())
			}
		}
	}
	return ""
}
