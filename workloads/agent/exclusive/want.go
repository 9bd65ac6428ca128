package exclusive

import (
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"knarr.dev/knarr/workloads/agent/cgroup"
)

// want is what one container is to have to itself.
type want struct {
	container *corev1.Container
	passes    bool
	cpus      int
	memory    Amounts
}

// wants of a pod's containers, in the order they run; those that only want devices, or nothing, are among them.
func (m *Manager) wants(pod *corev1.Pod) []want {
	var list []want
	// With resources of the whole pod there is no telling what is which container's (KEP-5526 would; it is off in 1.37).
	guaranteed := cgroup.QOS(pod) == corev1.PodQOSGuaranteed && pod.Spec.Resources == nil
	add := func(c *corev1.Container, passes bool) {
		w := want{container: c, passes: passes}
		if guaranteed && m.conf.Policy.CPUs {
			if cpu := c.Resources.Requests.Cpu(); cpu.MilliValue()%1000 == 0 {
				w.cpus = int(cpu.Value())
			}
		}
		if guaranteed && m.conf.Policy.Memory {
			w.memory = Amounts{}
			for name, amount := range c.Resources.Requests {
				if name == corev1.ResourceMemory || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
					w.memory[name] = uint64(amount.Value())
				}
			}
		}
		list = append(list, w)
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		add(c, c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways)
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i], false)
	}
	return list
}

// whole is what a pod needs at most at one time, with what its containers pass on.
func whole(list []want) want {
	out := want{memory: Amounts{}}
	kept, keptMemory := 0, Amounts{}
	for _, w := range list {
		out.cpus = max(out.cpus, kept+w.cpus)
		for name, size := range w.memory {
			out.memory[name] = max(out.memory[name], keptMemory[name]+size)
		}
		if w.passes {
			continue
		}
		kept += w.cpus
		for name, size := range w.memory {
			keptMemory[name] += size
		}
	}
	return out
}

// Refusal is why a pod may not run here, by the reason its status has for it.
type Refusal struct{ Reason, Message string }

func (r Refusal) Error() string { return r.Message }

// Why is the reason in the pod's status.
func (r Refusal) Why() string { return r.Reason }

const reasonThreads = "SMTAlignmentError"

// unexpected puts an error in the words of every Kubernetes.
func unexpected(err error) error {
	if _, said := errors.AsType[Refusal](err); said {
		return err
	}
	//lint:ignore ST1005 the message a pod gets on every Kubernetes
	return fmt.Errorf("Allocate failed due to %w, which is unexpected", err)
}

// Fixed says why a running pod's resources cannot become those of a newer version of it: what a container has to itself
// is chosen once. "" if they can.
func (m *Manager) Fixed(before, pod *corev1.Pod) string {
	if cgroup.QOS(before) != corev1.PodQOSGuaranteed {
		return ""
	}
	changed := func(name corev1.ResourceName) bool {
		return !apiequality.Semantic.DeepEqual(asked(before, name), asked(pod, name))
	}
	switch {
	case m.conf.Policy.CPUs && changed(corev1.ResourceCPU):
		return `Resize is infeasible for Guaranteed Pods alongside CPU Manager policy "static"`
	case m.conf.Policy.Memory && changed(corev1.ResourceMemory):
		return `Resize is infeasible for Guaranteed Pods alongside Memory Manager policy "Static"`
	}
	return ""
}

// asked is what a pod's containers, and the pod itself, ask for of a resource.
func asked(pod *corev1.Pod, name corev1.ResourceName) []corev1.ResourceList {
	var list []corev1.ResourceList
	add := func(r *corev1.ResourceRequirements) {
		list = append(list, corev1.ResourceList{"request": r.Requests[name], "limit": r.Limits[name]})
	}
	if pod.Spec.Resources != nil {
		add(pod.Spec.Resources)
	}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			add(&containers[i].Resources)
		}
	}
	return list
}
