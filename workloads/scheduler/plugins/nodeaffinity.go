package plugins

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// NodeAffinity keeps a pod to the nodes its selector and affinity ask for, and weighs those it prefers.
type NodeAffinity struct{}

// Name of the rule.
func (NodeAffinity) Name() string { return "NodeAffinity" }

// Filter implements Filterer.
func (NodeAffinity) Filter(pod *snapshot.Pod, _ *snapshot.Snapshot) (Filter, *Refusal) {
	if !choosy(pod.Object) {
		return nil, nil
	}
	required := nodeaffinity.GetRequiredNodeAffinity(pod.Object)
	refusal := &Refusal{Reasons: []string{"node(s) didn't match Pod's node affinity/selector"}, Final: true}
	return func(n *snapshot.Node) *Refusal {
		if matches, err := required.Match(n.Object); err != nil || !matches {
			return refusal
		}
		return nil
	}, nil
}

// Helps implements Filterer.
func (NodeAffinity) Helps(pod *snapshot.Pod, _ *snapshot.Snapshot, change snapshot.Change) bool {
	if !isNode(change) {
		return false
	}
	matches, err := nodeaffinity.GetRequiredNodeAffinity(pod.Object).Match(change.Node)
	return err == nil && matches
}

// Score implements Scorer.
func (NodeAffinity) Score(pod *snapshot.Pod, _ *snapshot.Snapshot, _ []*snapshot.Node) Score {
	affinity := pod.Object.Spec.Affinity
	if affinity == nil || affinity.NodeAffinity == nil || len(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return nil
	}
	preferred, err := nodeaffinity.NewPreferredSchedulingTerms(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return nil // a wish that cannot be read must not keep the pod from running
	}
	return func(n *snapshot.Node) int64 { return preferred.Score(n.Object) }
}

// Normalize implements Scorer.
func (NodeAffinity) Normalize(scores []int64) { largestWins(scores, false) }

// choosy says whether a pod names any condition on its node.
func choosy(pod *corev1.Pod) bool {
	return len(pod.Spec.NodeSelector) > 0 || (pod.Spec.Affinity != nil && pod.Spec.Affinity.NodeAffinity != nil &&
		pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil)
}
