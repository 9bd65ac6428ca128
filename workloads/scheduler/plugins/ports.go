package plugins

import "knarr.dev/knarr/workloads/scheduler/snapshot"

// Ports keeps two pods from taking the same port of a node.
type Ports struct{}

// Name of the rule.
func (Ports) Name() string { return "NodePorts" }

// Filter implements Filterer.
func (Ports) Filter(pod *snapshot.Pod, _ *snapshot.Snapshot) (Filter, *Refusal) {
	if len(pod.Ports) == 0 {
		return nil, nil
	}
	refusal := &Refusal{Reasons: []string{"node(s) didn't have free ports for the requested pod ports"}}
	return func(n *snapshot.Node) *Refusal {
		if !n.PortsFree(pod.Ports) {
			return refusal
		}
		return nil
	}, nil
}

// LocalFilter implements LocalFilterer.
func (Ports) LocalFilter() {}

// Helps implements Filterer.
func (Ports) Helps(_ *snapshot.Pod, _ *snapshot.Snapshot, change snapshot.Change) bool {
	return change.Kind == snapshot.NodeAdded || change.Kind == snapshot.PodGone
}
