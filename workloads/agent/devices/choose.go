package devices

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/agent/align"
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

// together is what a pod's containers need at most at one time, by resource.
func together(wanted []demand) map[string]int {
	most, kept := map[string]int{}, map[string]int{}
	for _, d := range wanted {
		for resource, n := range d.counts {
			if most[resource] = max(most[resource], kept[resource]+n); !d.passes {
				kept[resource] += n
			}
		}
	}
	return most
}

// room is what a pod's next container can have of each resource: what is free, and what containers before it had and need
// no more, which goes first because nobody else can have it.
type room struct {
	free, passed map[string][]string
	nodes        func(resource, id string) align.Nodes // where a device is; Anywhere if it does not say
}

// usable lists a resource's devices in the order they are given, those of some nodes first. near are how many these are.
func (r room) usable(resource string, from align.Nodes) (ids []string, near int) {
	ids = slices.Clone(r.passed[resource])
	for _, id := range r.free[resource] {
		if r.nodes(resource, id)&from != 0 {
			ids = append(ids, id)
		}
	}
	near = len(ids)
	for _, id := range r.free[resource] {
		if r.nodes(resource, id)&from == 0 {
			ids = append(ids, id)
		}
	}
	return ids, near
}

// choose a container's devices, those its plugin prefers where they can be had.
func (r room) choose(d demand, from align.Nodes, preferred map[string][]string) (map[string][]string, error) {
	out := map[string][]string{}
	for _, resource := range slices.Sorted(maps.Keys(d.counts)) {
		n := d.counts[resource]
		have, near := r.usable(resource, from)
		if len(have) < n {
			return nil, fmt.Errorf("Allocate failed due to requested number of devices unavailable for %s. Requested: %d, Available: %d, which is unexpected", resource, n, len(have))
		}
		out[resource] = have[:n:n]
		if wish := distinct(preferred[resource]); r.question(resource, n, have, near).allows(wish) {
			out[resource] = wish
		}
	}
	return out, nil
}

func distinct(ids []string) []string {
	ids = slices.Sorted(slices.Values(ids))
	return slices.Compact(ids)
}

// question is a choice a plugin may have a preference in.
type question struct {
	resource    string
	among, must []string
	size        int
}

// question for n of the usable devices; near of them, which come first, are enough if they can be.
func (r room) question(resource string, n int, usable []string, near int) question {
	if near >= n {
		usable = usable[:near]
	}
	must := r.passed[resource]
	return question{resource: resource, among: usable, must: must[:min(n, len(must))], size: n}
}

// open: is there a choice at all?
func (q question) open() bool { return len(q.among) > q.size && len(q.must) < q.size }

// allows says whether an answer is one.
func (q question) allows(answer []string) bool {
	among := func(list []string) func(string) bool {
		return func(id string) bool { return !slices.Contains(list, id) }
	}
	return len(answer) == q.size && !slices.ContainsFunc(answer, among(q.among)) && !slices.ContainsFunc(q.must, among(answer))
}

// give takes a container's devices out of the room; later ones may have what it passes on.
func (r room) give(d demand, devices map[string][]string) {
	for resource, ids := range devices {
		given := func(id string) bool { return slices.Contains(ids, id) }
		r.free[resource] = slices.DeleteFunc(r.free[resource], given)
		r.passed[resource] = slices.DeleteFunc(r.passed[resource], given)
		if d.passes {
			r.passed[resource] = slices.Concat(ids, r.passed[resource])
		}
	}
}

// hints are the nodes n devices of a resource could come from, of those that work; nil where none says where it is.
func (r room) hints(resource string, n int, working []string, machine align.Nodes) []align.Hint {
	where := func(id string) align.Nodes { return r.nodes(resource, id) }
	if !slices.ContainsFunc(working, func(id string) bool { return where(id) != align.Anywhere }) {
		return nil
	}
	count := func(ids []string, nodes align.Nodes) int {
		n := 0
		for _, id := range ids {
			if where(id)&nodes != 0 {
				n++
			}
		}
		return n
	}
	passed := r.passed[resource]
	have := slices.Concat(passed, r.free[resource])
	hints := align.Hints(machine,
		func(nodes align.Nodes) bool { return count(working, nodes) >= n },
		func(nodes align.Nodes) bool {
			return count(have, nodes) >= n && count(passed[:min(n, len(passed))], nodes) == min(n, len(passed))
		})
	if hints == nil {
		hints = []align.Hint{} // it does matter, and there is nothing
	}
	return hints
}
