package plugins

import (
	"strings"

	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/component-helpers/nodedeclaredfeatures"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// served is the version of the API whose pods are placed.
var served = version.MustParse("1.37.0")

// Declared keeps pods to nodes that declare the features the pods make use of (KEP-5328).
type Declared struct{}

// Name of the rule.
func (Declared) Name() string { return "NodeDeclaredFeatures" }

// Filter implements Filterer.
func (Declared) Filter(pod *snapshot.Pod, _ *snapshot.Snapshot) (Filter, *Refusal) {
	needs, err := needed(pod)
	if err != nil {
		return nil, &Refusal{Err: err}
	}
	if needs.IsEmpty() {
		return nil, nil
	}
	return func(n *snapshot.Node) *Refusal {
		match, err := nodedeclaredfeatures.DefaultFramework.MatchNode(needs, n.Object)
		switch {
		case err != nil:
			return &Refusal{Err: err}
		case !match.IsMatch:
			return &Refusal{Reasons: []string{"node declared features check failed - unsatisfied requirements: " + strings.Join(match.UnsatisfiedRequirements, ", ")}, Final: true}
		}
		return nil
	}, nil
}

func needed(pod *snapshot.Pod) (nodedeclaredfeatures.FeatureSet, error) {
	return nodedeclaredfeatures.DefaultFramework.InferForPodScheduling(&nodedeclaredfeatures.PodInfo{Spec: &pod.Object.Spec, Status: &pod.Object.Status}, served)
}

// Helps implements Filterer.
func (Declared) Helps(pod *snapshot.Pod, _ *snapshot.Snapshot, change snapshot.Change) bool {
	if !isNode(change) {
		return false
	}
	needs, err := needed(pod)
	if err != nil {
		return true
	}
	match, err := nodedeclaredfeatures.DefaultFramework.MatchNode(needs, change.Node)
	return err != nil || match.IsMatch
}
