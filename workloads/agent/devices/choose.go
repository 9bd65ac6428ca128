package devices

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// granted are devices by container and resource.
type granted map[string]map[string][]string

// demand is what one container of a pod asks for of the resources somebody has devices of.
type demand struct {
	container string
	counts    map[string]int
	passes    bool // it ends before the next one begins, which may have its devices
}

// demands of a pod, in the order its containers run. managed says whether a resource is made of devices.
func demands(pod *corev1.Pod, managed func(resource string) bool) []demand {
	var out []demand
	add := func(c *corev1.Container, passes bool) {
		counts := map[string]int{}
		for name, amount := range c.Resources.Limits {
			if n := amount.Value(); n > 0 && managed(string(name)) {
				counts[string(name)] = int(n)
			}
		}
		if len(counts) > 0 {
			out = append(out, demand{container: c.Name, counts: counts, passes: passes})
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		add(c, c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways)
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i], false)
	}
	return out
}

// choose gives every container of a pod its devices, from those that are free; what init containers had, later ones get.
func choose(wanted []demand, free map[string][]string) (granted, error) {
	out := granted{}
	left := map[string][]string{}
	for resource, ids := range free {
		left[resource] = slices.Clone(ids)
	}
	passed := map[string][]string{}
	for _, d := range wanted {
		out[d.container] = map[string][]string{}
		for _, resource := range slices.Sorted(maps.Keys(d.counts)) {
			n := d.counts[resource]
			have := slices.Concat(passed[resource], left[resource])
			if len(have) < n {
				//lint:ignore ST1005 the message a pod gets on every Kubernetes
				return nil, fmt.Errorf("Allocate failed due to requested number of devices unavailable for %s. Requested: %d, Available: %d, which is unexpected", resource, n, len(have))
			}
			got := have[:n:n]
			out[d.container][resource] = got
			reused := min(n, len(passed[resource]))
			left[resource] = left[resource][n-reused:]
			if d.passes {
				passed[resource] = slices.Concat(got, passed[resource][reused:])
			} else {
				passed[resource] = passed[resource][reused:]
			}
		}
	}
	return out, nil
}
