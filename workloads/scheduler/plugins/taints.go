package plugins

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// Taints keeps pods off nodes whose taints they do not tolerate, and prefers nodes with fewer soft ones.
type Taints struct{}

// Name of the rule.
func (Taints) Name() string { return "TaintToleration" }

// Filter implements Filterer.
func (Taints) Filter(pod *snapshot.Pod, _ *snapshot.Snapshot) (Filter, *Refusal) {
	refusal := &Refusal{Reasons: []string{"node(s) had untolerated taint(s)"}, Final: true}
	return func(n *snapshot.Node) *Refusal {
		if repels(n.Object, pod.Object) {
			return refusal
		}
		return nil
	}, nil
}

// Helps implements Filterer.
func (Taints) Helps(pod *snapshot.Pod, _ *snapshot.Snapshot, change snapshot.Change) bool {
	return isNode(change) && !repels(change.Node, pod.Object)
}

// Score implements Scorer.
func (Taints) Score(pod *snapshot.Pod, _ *snapshot.Snapshot, nodes []*snapshot.Node) Score {
	soft := false
	for _, n := range nodes {
		for i := range n.Object.Spec.Taints {
			soft = soft || n.Object.Spec.Taints[i].Effect == corev1.TaintEffectPreferNoSchedule
		}
	}
	if !soft {
		return nil
	}
	return func(n *snapshot.Node) int64 {
		var intolerable int64
		for i := range n.Object.Spec.Taints {
			taint := &n.Object.Spec.Taints[i]
			if taint.Effect == corev1.TaintEffectPreferNoSchedule && !tolerates(pod.Object.Spec.Tolerations, taint) {
				intolerable++
			}
		}
		return intolerable
	}
}

// Normalize implements Scorer.
func (Taints) Normalize(scores []int64) { largestWins(scores, true) }

// repels says whether a node has a hard taint the pod does not tolerate.
func repels(node *corev1.Node, pod *corev1.Pod) bool {
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		if taint.Effect != corev1.TaintEffectPreferNoSchedule && !tolerates(pod.Spec.Tolerations, taint) {
			return true
		}
	}
	return false
}

func tolerates(tolerations []corev1.Toleration, taint *corev1.Taint) bool {
	for i := range tolerations {
		if tolerations[i].ToleratesTaint(klog.Logger{}, taint, false) {
			return true
		}
	}
	return false
}
