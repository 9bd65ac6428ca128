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
		if repels(n.Taints, pod.Object) {
			return refusal
		}
		return nil
	}, nil
}

// LocalFilter implements LocalFilterer.
func (Taints) LocalFilter() {}

// Helps implements Filterer.
func (Taints) Helps(pod *snapshot.Pod, _ *snapshot.Snapshot, change snapshot.Change) bool {
	return isNode(change) && !repels(change.Node.Spec.Taints, pod.Object)
}

// Score implements Scorer.
func (Taints) Score(pod *snapshot.Pod, _ *snapshot.Snapshot, nodes []*snapshot.Node) Score {
	soft := false
	for _, n := range nodes {
		for i := range n.Taints {
			soft = soft || n.Taints[i].Effect == corev1.TaintEffectPreferNoSchedule
		}
	}
	if !soft {
		return nil
	}
	return func(n *snapshot.Node) int64 {
		var intolerable int64
		for i := range n.Taints {
			taint := &n.Taints[i]
			if taint.Effect == corev1.TaintEffectPreferNoSchedule && !tolerates(pod.Object.Spec.Tolerations, taint) {
				intolerable++
			}
		}
		return intolerable
	}
}

// Normalize implements Scorer.
func (Taints) Normalize(scores []int64) { largestWins(scores, true) }

// repels says whether one of a node's taints is hard and not tolerated by the pod.
func repels(taints []corev1.Taint, pod *corev1.Pod) bool {
	for i := range taints {
		taint := &taints[i]
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
