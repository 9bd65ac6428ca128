// Package plugins is the scheduler's rules, one a file.
//
// In:       a pod and a snapshot of the cluster; a rule's arguments from the scheduler's configuration.
// Out:      a refusal with its reason or a score for each node; whether a change could lift a refusal; what is taken on
// the chosen node before the pod is bound.
// Promise:  rules only read, but for Reserve; refusals are worded as upstream's, because people and programs match on them.
// Not here: the order pods are tried in (scheduler/queue), the choice among scores, who leaves for whom (scheduler).
//
// A rule is a Plugin and any of Filterer, Scorer, Reserver, Follower and PostFilterer. What upstream asks of a plugin in
// PreFilter and PreScore it does here when it prepares a Filter or a Score: state of one decision lives in the closure.
package plugins

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// MaxScore is what the best node of a rule gets.
const MaxScore = 100

// Refusal is why a node will not do, or all of them.
type Refusal struct {
	Reasons []string
	Final   bool // also if pods left the node
	// Err is why the rule could not judge. The decision is given up and tried again after a rest.
	Err error
}

// Plugin is a rule.
type Plugin interface{ Name() string }

// Filter judges one node, or a trial of one, for the pod it was made for; nil lets the pod pass. Many goroutines may
// call it at once.
type Filter func(*snapshot.Node) *Refusal

// Filterer refuses nodes.
type Filterer interface {
	Plugin
	// Filter prepares to judge nodes for a pod; nil when the rule has nothing to say about it. A refusal is one of all
	// nodes: the pod itself is the reason.
	Filter(pod *snapshot.Pod, snap *snapshot.Snapshot) (Filter, *Refusal)
	// Helps says whether a change could lift a refusal of this rule. To be sure when in doubt is right: a pod woken in
	// vain costs a decision, one left asleep minutes.
	Helps(pod *snapshot.Pod, snap *snapshot.Snapshot, change snapshot.Change) bool
}

// LocalFilterer is a Filterer that judges a node by what the pod wants (snapshot.Pod.Wants) and by the node itself, nothing
// else: what it said holds for every pod that wants the same, until the node changes (snapshot.Node.Version).
type LocalFilterer interface {
	Filterer
	LocalFilter()
}

// LocalScorer is the same of a Scorer, whose scale is 0..MaxScore already: Normalize does nothing.
type LocalScorer interface {
	Scorer
	LocalScore()
}

// Score rates one node for the pod it was made for, on a scale of the rule's own. Many goroutines may call it at once.
type Score func(*snapshot.Node) int64

// Scorer prefers nodes.
type Scorer interface {
	Plugin
	// Score prepares to rate the nodes that passed the filters; nil when all are alike to the rule.
	Score(pod *snapshot.Pod, snap *snapshot.Snapshot, nodes []*snapshot.Node) Score
	// Normalize brings the rule's own scale to 0..MaxScore, in place.
	Normalize(scores []int64)
}

// Reserver takes something for a pod on its node before it is bound: volumes, devices.
type Reserver interface {
	Plugin
	// Reserve takes it in the snapshot, so that the next decision knows. It runs on the deciding goroutine and must
	// not wait. nil is nothing to reserve; an error sends the pod back, nothing reserved.
	Reserve(pod *snapshot.Pod, snap *snapshot.Snapshot, node *snapshot.Node) (*Reservation, error)
}

// Reservation is what a rule took for a pod on its way to a node. Any function may be nil.
type Reservation struct {
	// PreBind makes it true in the API. It runs on a goroutine of its own and may take its time.
	PreBind func(ctx context.Context, api client.Client) error
	// Permit says whether the pod may be bound by now. It runs on the deciding goroutine: once PreBind is done, and
	// then after each change of the kinds that are followed. An error sends the pod back.
	Permit func(*snapshot.Snapshot) (bool, error)
	// Patience is how long Permit may say no; 0 is ten minutes.
	Patience time.Duration
	// Undo gives back in the snapshot what was taken there, when the pod is not bound after all. It runs on the
	// deciding goroutine; what that frees for others is the Change.
	Undo func(*snapshot.Snapshot) snapshot.Change
	// GiveBack is what to do in the API, on a goroutine of its own, when Permit has said no for good or for too long; it
	// is asked on the deciding goroutine after Undo, and nil is nothing.
	GiveBack func(*snapshot.Snapshot) func(ctx context.Context, api client.Client) error
}

// PostFilterer knows what else may be done for a pod that no node will take, before others are sent away for it.
type PostFilterer interface {
	Plugin
	// PostFilter is what to do, on a goroutine of its own; nil for nothing. When it is done no pod is sent away.
	PostFilter(pod *snapshot.Pod, snap *snapshot.Snapshot) func(ctx context.Context, api client.Client) error
}

// Follower reads kinds of objects that many clusters have none of. They are followed from the first pod on that needs
// them, and that pod waits until all there are are known.
type Follower interface {
	Plugin
	// Needs are the kinds that have to be known before a pod is decided about, as far as can be said by what is known; nil
	// for most pods.
	Needs(pod *snapshot.Pod, snap *snapshot.Snapshot) []Source
}

// Source is a kind of object to follow into the snapshot. Kinds are followed once, whoever asks.
type Source struct {
	Object      client.Object
	Set, Remove func(*snapshot.Snapshot, client.Object) snapshot.Change
}

// SourceOf is the source of a kind whose objects go through set and remove.
func SourceOf[T client.Object](object T, set, remove func(*snapshot.Snapshot, T) snapshot.Change) Source {
	return Source{
		Object: object,
		Set:    func(s *snapshot.Snapshot, o client.Object) snapshot.Change { return set(s, o.(T)) },
		Remove: func(s *snapshot.Snapshot, o client.Object) snapshot.Change { return remove(s, o.(T)) },
	}
}

// Rule is how a plugin is made.
type Rule struct {
	Name   string
	Weight int64 // of its scores, unless configured
	// New makes it from its arguments, an object of kubescheduler.config.k8s.io/v1 (*configv1.NodeAffinityArgs for
	// NodeAffinity), or nil for upstream's defaults. Errors name the field below args.
	New func(args runtime.Object) (Plugin, error)
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
