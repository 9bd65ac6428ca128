package plugins

import (
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// NodeName keeps a pod to the node it names itself.
type NodeName struct{}

// Name of the rule.
func (NodeName) Name() string { return "NodeName" }

// Filter implements Filterer.
func (NodeName) Filter(pod *snapshot.Pod, _ *snapshot.Snapshot) (Filter, *Refusal) {
	name := pod.Object.Spec.NodeName
	if name == "" {
		return nil, nil
	}
	refusal := &Refusal{Reasons: []string{"node(s) didn't match the requested node name"}, Final: true}
	return func(n *snapshot.Node) *Refusal {
		if n.Name != name {
			return refusal
		}
		return nil
	}, nil
}

// LocalFilter implements LocalFilterer.
func (NodeName) LocalFilter() {}

// Helps implements Filterer.
func (NodeName) Helps(pod *snapshot.Pod, _ *snapshot.Snapshot, change snapshot.Change) bool {
	return change.Kind == snapshot.NodeAdded && change.Node.Name == pod.Object.Spec.NodeName
}

// Unschedulable keeps pods off cordoned nodes.
type Unschedulable struct{}

// Name of the rule.
func (Unschedulable) Name() string { return "NodeUnschedulable" }

var cordoned = corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}

// Filter implements Filterer.
func (Unschedulable) Filter(pod *snapshot.Pod, _ *snapshot.Snapshot) (Filter, *Refusal) {
	if tolerates(pod.Object.Spec.Tolerations, &cordoned) {
		return nil, nil
	}
	refusal := &Refusal{Reasons: []string{"node(s) were unschedulable"}, Final: true}
	return func(n *snapshot.Node) *Refusal {
		if n.Cordoned {
			return refusal
		}
		return nil
	}, nil
}

// LocalFilter implements LocalFilterer.
func (Unschedulable) LocalFilter() {}

// Helps implements Filterer.
func (Unschedulable) Helps(_ *snapshot.Pod, _ *snapshot.Snapshot, change snapshot.Change) bool {
	return isNode(change) && !change.Node.Spec.Unschedulable
}

// isNode says whether a change brought a node into a new state.
func isNode(change snapshot.Change) bool {
	return change.Kind == snapshot.NodeAdded || change.Kind == snapshot.NodeChanged
}
