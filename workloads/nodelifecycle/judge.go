package nodelifecycle

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// grace is how long a node may stay silent: four of its lease's renewals.
	grace = 40 * time.Second
	// startGrace is how long a node may that has not said yet whether it is ready, the documented default of
	// --node-startup-grace-period: whoever wrote the object may be faster than the machine is up.
	startGrace = time.Minute
)

// spoken are the conditions only a node itself can know about.
var spoken = []corev1.NodeConditionType{
	corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure,
}

// judgeConditions says what a node's conditions are worth when it has been silent that long: nil while they stand, and
// then again is when it may have been silent for too long.
func judgeConditions(node *corev1.Node, silent time.Duration, now time.Time) (next []corev1.NodeCondition, again time.Duration) {
	allowed := grace
	if condition(node, corev1.NodeReady) == "" {
		allowed = startGrace
	}
	if left := allowed - silent; left > 0 {
		return nil, left
	}
	next = slices.Clone(node.Status.Conditions)
	changed := false
	for _, kind := range spoken {
		at := slices.IndexFunc(next, func(c corev1.NodeCondition) bool { return c.Type == kind })
		if at < 0 {
			next = append(next, corev1.NodeCondition{
				Type: kind, Status: corev1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: node.CreationTimestamp, LastTransitionTime: metav1.NewTime(now),
			})
			changed = true
		} else if c := &next[at]; c.Status != corev1.ConditionUnknown {
			c.Status, c.Reason, c.Message = corev1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status."
			c.LastTransitionTime = metav1.NewTime(now)
			changed = true
		}
	}
	if !changed {
		return nil, 0 // nothing to wait for but the node itself
	}
	return next, 0
}

// kept are the taints this controller sets and removes; all others are someone else's.
var kept = map[string]bool{
	corev1.TaintNodeNotReady:           true,
	corev1.TaintNodeUnreachable:        true,
	corev1.TaintNodeUnschedulable:      true,
	corev1.TaintNodeMemoryPressure:     true,
	corev1.TaintNodeDiskPressure:       true,
	corev1.TaintNodePIDPressure:        true,
	corev1.TaintNodeNetworkUnavailable: true,
}

// judgeTaints mirrors a node's conditions in its taints; nil when they are as they should be. Only with evict a taint
// drives pods away.
func judgeTaints(node *corev1.Node, evict bool, now time.Time) []corev1.Taint {
	var wanted []corev1.Taint
	add := func(key string, effect corev1.TaintEffect) {
		taint := corev1.Taint{Key: key, Effect: effect}
		if effect == corev1.TaintEffectNoExecute {
			at := metav1.NewTime(now)
			taint.TimeAdded = &at
		}
		wanted = append(wanted, taint)
	}
	var gone string
	switch condition(node, corev1.NodeReady) {
	case corev1.ConditionTrue:
	case corev1.ConditionUnknown:
		gone = corev1.TaintNodeUnreachable
	default:
		gone = corev1.TaintNodeNotReady
	}
	if gone != "" {
		add(gone, corev1.TaintEffectNoSchedule)
		if evict {
			add(gone, corev1.TaintEffectNoExecute)
		}
	}
	for kind, key := range map[corev1.NodeConditionType]string{
		corev1.NodeMemoryPressure:     corev1.TaintNodeMemoryPressure,
		corev1.NodeDiskPressure:       corev1.TaintNodeDiskPressure,
		corev1.NodePIDPressure:        corev1.TaintNodePIDPressure,
		corev1.NodeNetworkUnavailable: corev1.TaintNodeNetworkUnavailable,
	} {
		if condition(node, kind) == corev1.ConditionTrue {
			add(key, corev1.TaintEffectNoSchedule)
		}
	}
	if node.Spec.Unschedulable {
		add(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	}
	return merge(node.Spec.Taints, wanted)
}

// merge brings our part of the taints to what is wanted; what stays keeps its place and time.
func merge(taints, wanted []corev1.Taint) []corev1.Taint {
	var next []corev1.Taint
	changed := false
	for _, taint := range taints {
		if kept[taint.Key] && !has(wanted, taint) {
			changed = true
			continue
		}
		next = append(next, taint)
	}
	slices.SortFunc(wanted, func(a, b corev1.Taint) int {
		return slices.Compare([]string{a.Key, string(a.Effect)}, []string{b.Key, string(b.Effect)})
	})
	for _, taint := range wanted {
		if !has(next, taint) {
			next = append(next, taint)
			changed = true
		}
	}
	if !changed {
		return nil
	}
	if next == nil {
		next = []corev1.Taint{}
	}
	return next
}

func has(taints []corev1.Taint, one corev1.Taint) bool {
	return slices.ContainsFunc(taints, func(t corev1.Taint) bool { return t.MatchTaint(&one) })
}

// healthy says whether a node's own word is that it is ready.
func healthy(node *corev1.Node) bool {
	return condition(node, corev1.NodeReady) == corev1.ConditionTrue
}

// condition is a condition's status, "" when the node does not have it.
func condition(node *corev1.Node, kind corev1.NodeConditionType) corev1.ConditionStatus {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == kind {
			return node.Status.Conditions[i].Status
		}
	}
	return ""
}

// since is when a condition last changed.
func since(node *corev1.Node, kind corev1.NodeConditionType) time.Time {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == kind {
			return node.Status.Conditions[i].LastTransitionTime.Time
		}
	}
	return time.Time{}
}
