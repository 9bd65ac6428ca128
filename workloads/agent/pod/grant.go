package pod

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/workloads/agent/status"
	"knarr.dev/knarr/workloads/scheduler/plugins"
)

// A resize is granted or not (KEP-1287). Until it is, the pod is taken for what it was granted before: its steps, its
// status and its neighbours' room know nothing of the wish, which the API's spec keeps.

// ungranted is a wish for more than there is.
type ungranted struct {
	pod *corev1.Pod // as the API shows it, with the wish
	why status.Pending
}

// pending is what the status says about it.
func (u *ungranted) pending() status.Pending {
	if u == nil {
		return status.Pending{}
	}
	return u.why
}

// grant says why a node with these other pods cannot give a pod what it asks for now, "" if it can.
func grant(node *corev1.Node, others []*corev1.Pod, pod *corev1.Pod) status.Pending {
	alone := pod.DeepCopy()
	alone.Status = corev1.PodStatus{} // what it has now is not what it asks for
	if lacks := lacking(node, nil, alone); lacks != "" {
		return status.Pending{Reason: corev1.PodReasonInfeasible, Message: "Node didn't have enough capacity: " + lacks}
	}
	if lacks := lacking(node, others, alone); lacks != "" {
		return status.Pending{Reason: corev1.PodReasonDeferred, Message: "Node didn't have enough resource: " + lacks}
	}
	return status.Pending{}
}

// lacking is what a node with these other pods has too little of for a pod, "" if it has enough of everything.
func lacking(node *corev1.Node, others []*corev1.Pod, pod *corev1.Pod) string {
	for _, reason := range refusals(plugins.Resources{}, picture(node, others), pod) {
		if name, short := strings.CutPrefix(reason, "Insufficient "); short {
			return name
		}
	}
	return ""
}

// grows: does it ask for more of anything?
func grows(from, to *corev1.Pod) bool {
	had := resource.PodRequests(from, resource.PodResourcesOptions{})
	for name, wanted := range resource.PodRequests(to, resource.PodResourcesOptions{}) {
		if has := had[name]; wanted.Cmp(has) > 0 {
			return true
		}
	}
	return false
}

// withResources is a pod that asks for what another version of it asks for.
func withResources(pod, from *corev1.Pod) *corev1.Pod {
	out := *pod
	out.Spec.Resources = from.Spec.Resources
	take := func(mine, theirs []corev1.Container) []corev1.Container {
		mine = slices.Clone(mine)
		for i := range mine {
			if j := slices.IndexFunc(theirs, func(c corev1.Container) bool { return c.Name == mine[i].Name }); j >= 0 {
				mine[i].Resources = theirs[j].Resources
			}
		}
		return mine
	}
	out.Spec.InitContainers = take(pod.Spec.InitContainers, from.Spec.InitContainers)
	out.Spec.Containers = take(pod.Spec.Containers, from.Spec.Containers)
	return &out
}

// reported is the pod with the resources its status says it was granted: what a process before this one did.
func reported(pod *corev1.Pod) *corev1.Pod {
	out := pod.DeepCopy()
	for _, part := range []struct {
		specs    []corev1.Container
		statuses []corev1.ContainerStatus
	}{{out.Spec.InitContainers, pod.Status.InitContainerStatuses}, {out.Spec.Containers, pod.Status.ContainerStatuses}} {
		for i := range part.specs {
			j := slices.IndexFunc(part.statuses, func(s corev1.ContainerStatus) bool { return s.Name == part.specs[i].Name })
			if j < 0 || part.statuses[j].Resources == nil || part.statuses[j].ContainerID == "" {
				continue
			}
			part.specs[i].Resources.Requests = part.statuses[j].Resources.Requests
			part.specs[i].Resources.Limits = part.statuses[j].Resources.Limits
		}
	}
	return out
}

// take decides what a pod may be taken for, as the API shows it now.
func (m *Manager) take(pod *corev1.Pod) (*corev1.Pod, *ungranted) {
	a := m.lookup(pod.UID)
	if a == nil {
		if pod.Generation <= 1 || pod.Status.StartTime == nil {
			return pod, nil // it never was another
		}
		return m.granted(reported(pod), pod)
	}
	a.mu.Lock()
	before, waiting := a.pod, a.ungranted
	a.mu.Unlock()
	if before.Generation == pod.Generation && waiting == nil {
		return pod, nil
	}
	return m.granted(before, pod)
}

// granted is the pod as it may be taken for now, and what of it has to wait; before is what it was granted last.
func (m *Manager) granted(before, pod *corev1.Pod) (*corev1.Pod, *ungranted) {
	if sameResources(before, pod) {
		return pod, nil
	}
	if m.conf.Places != nil {
		if why := m.conf.Places.Fixed(before, pod); why != "" {
			return withResources(pod, before), &ungranted{pod: pod, why: status.Pending{Reason: corev1.PodReasonInfeasible, Message: why}}
		}
	}
	if !grows(before, pod) {
		return pod, nil
	}
	node := &corev1.Node{}
	err := m.conf.Cache.Get(m.ctx, client.ObjectKey{Name: m.conf.Node.Name}, node)
	if err != nil || len(node.Status.Allocatable) == 0 {
		return pod, nil // what the node has is not known
	}
	others := slices.DeleteFunc(m.scheduled(), func(other *corev1.Pod) bool { return other.UID == pod.UID })
	why := grant(node, others, pod)
	if why == (status.Pending{}) {
		return pod, nil
	}
	return withResources(pod, before), &ungranted{pod: pod, why: why}
}

// retryResizes looks again at wishes that had to wait: somebody else has gone, or has less.
func (m *Manager) retryResizes() {
	for _, a := range m.all() {
		a.mu.Lock()
		waiting := a.ungranted
		a.mu.Unlock()
		if waiting != nil && waiting.why.Reason == corev1.PodReasonDeferred {
			m.update(waiting.pod)
		}
	}
}
