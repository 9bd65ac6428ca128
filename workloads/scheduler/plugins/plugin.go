// Package plugins is the scheduler's rules, one a file.
//
// In:       a pod and a snapshot of the cluster.
// Out:      a refusal with its reason or a score for each node; whether a change could lift a refusal.
// Promise:  rules only read; refusals are worded as upstream's, because people and programs match on them.
// Not here: the order pods are tried in (scheduler/queue), the choice among scores (scheduler).
package plugins

import "knarr.dev/knarr/workloads/scheduler/snapshot"

// MaxScore is what the best node of a rule gets.
const MaxScore = 100

// Refusal is why a node will not do.
type Refusal struct {
	Reasons []string
	Final   bool // also if pods left the node
	// Anywhere says that the pod itself is the reason, whatever the node.
	Anywhere bool
}

// Filter judges one node, or a trial of one, for the pod it was made for; nil lets the pod pass. Many goroutines may
// call it.
type Filter func(*snapshot.Node) *Refusal

// Filterer refuses nodes.
type Filterer interface {
	Name() string
	// Filter prepares to judge nodes for a pod; nil when the rule has nothing to say about it.
	Filter(pod *snapshot.Pod, snap *snapshot.Snapshot) Filter
	// Helps says whether a change could lift a refusal of this rule.
	Helps(pod *snapshot.Pod, snap *snapshot.Snapshot, change snapshot.Change) bool
}

// Score rates one node for the pod it was made for, on a scale of the rule's own.
type Score func(*snapshot.Node) int64

// Scorer prefers nodes.
type Scorer interface {
	Name() string
	Weight() int64
	// Score prepares to rate the nodes that passed the filters; nil when all are alike to the rule.
	Score(pod *snapshot.Pod, snap *snapshot.Snapshot, nodes []*snapshot.Node) Score
	// Normalize brings the rule's own scale to 0..MaxScore, in place.
	Normalize(scores []int64)
}

// Filters are the rules in the order they are asked: cheap ones, and ones that refuse for good, first.
func Filters() []Filterer {
	return []Filterer{Claims{}, Unschedulable{}, NodeName{}, Taints{}, NodeAffinity{}, Ports{}, Resources{}, SoleUse{}, Volumes{}, Spread{}, PodAffinity{}}
}

// Scorers are the preferences, with upstream's weights.
func Scorers() []Scorer {
	return []Scorer{Taints{}, NodeAffinity{}, Spread{}, PodAffinity{}, Resources{}, Balance{}, Images{}}
}

// largestWins scales scores so that the largest becomes MaxScore; reverse turns them around.
func largestWins(scores []int64, reverse bool) {
	var largest int64
	for _, s := range scores {
		largest = max(largest, s)
	}
	for i := range scores {
		if largest > 0 {
			scores[i] = scores[i] * MaxScore / largest
		}
		if reverse {
			scores[i] = MaxScore - scores[i]
		}
	}
}
