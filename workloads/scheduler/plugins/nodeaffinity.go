package plugins

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// NodeAffinity keeps a pod to the nodes its selector and affinity ask for, and weighs those it prefers. A profile may
// ask for more, of all of its pods.
type NodeAffinity struct {
	required  *nodeaffinity.NodeSelector
	preferred *nodeaffinity.PreferredSchedulingTerms
}

// newNodeAffinity reads the affinity that is added to that of every pod.
func newNodeAffinity(args *configv1.NodeAffinityArgs) (Plugin, error) {
	rule := NodeAffinity{}
	added := args.AddedAffinity
	if added == nil {
		return rule, nil
	}
	var err error
	if added.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		if rule.required, err = nodeaffinity.NewNodeSelector(added.RequiredDuringSchedulingIgnoredDuringExecution); err != nil {
			return nil, fmt.Errorf("addedAffinity.requiredDuringSchedulingIgnoredDuringExecution: %w", err)
		}
	}
	if len(added.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		if rule.preferred, err = nodeaffinity.NewPreferredSchedulingTerms(added.PreferredDuringSchedulingIgnoredDuringExecution); err != nil {
			return nil, fmt.Errorf("addedAffinity.preferredDuringSchedulingIgnoredDuringExecution: %w", err)
		}
	}
	return rule, nil
}

// Name of the rule.
func (NodeAffinity) Name() string { return "NodeAffinity" }

// Filter implements Filterer.
func (a NodeAffinity) Filter(pod *snapshot.Pod, _ *snapshot.Snapshot) (Filter, *Refusal) {
	if !choosy(pod.Object) && a.required == nil {
		return nil, nil
	}
	required := nodeaffinity.GetRequiredNodeAffinity(pod.Object)
	enforced := &Refusal{Reasons: []string{"node(s) didn't match scheduler-enforced node affinity"}, Final: true}
	refusal := &Refusal{Reasons: []string{"node(s) didn't match Pod's node affinity/selector"}, Final: true}
	return func(n *snapshot.Node) *Refusal {
		if a.required != nil && !a.required.Match(n.Object) {
			return enforced
		}
		if matches, err := required.Match(n.Object); err != nil || !matches {
			return refusal
		}
		return nil
	}, nil
}

// LocalFilter implements LocalFilterer.
func (NodeAffinity) LocalFilter() {}

// Helps implements Filterer.
func (a NodeAffinity) Helps(pod *snapshot.Pod, _ *snapshot.Snapshot, change snapshot.Change) bool {
	if !isNode(change) || (a.required != nil && !a.required.Match(change.Node)) {
		return false
	}
	matches, err := nodeaffinity.GetRequiredNodeAffinity(pod.Object).Match(change.Node)
	return err == nil && matches
}

// Score implements Scorer.
func (a NodeAffinity) Score(pod *snapshot.Pod, _ *snapshot.Snapshot, _ []*snapshot.Node) Score {
	var preferred *nodeaffinity.PreferredSchedulingTerms
	if affinity := pod.Object.Spec.Affinity; affinity != nil && affinity.NodeAffinity != nil && len(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) > 0 {
		// A wish that cannot be read must not keep the pod from running.
		preferred, _ = nodeaffinity.NewPreferredSchedulingTerms(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if preferred == nil && a.preferred == nil {
		return nil
	}
	return func(n *snapshot.Node) (sum int64) {
		for _, wishes := range []*nodeaffinity.PreferredSchedulingTerms{preferred, a.preferred} {
			if wishes != nil {
				sum += wishes.Score(n.Object)
			}
		}
		return sum
	}
}

// Normalize implements Scorer.
func (NodeAffinity) Normalize(scores []int64) { largestWins(scores, false) }

// choosy says whether a pod names any condition on its node.
func choosy(pod *corev1.Pod) bool {
	return len(pod.Spec.NodeSelector) > 0 || (pod.Spec.Affinity != nil && pod.Spec.Affinity.NodeAffinity != nil &&
		pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil)
}
