package scheduler

import "knarr.dev/knarr/workloads/scheduler/plugins"

// profile is the rules for the pods that name one scheduler.
type profile struct {
	name        string
	filters     []plugins.Filterer
	scorers     []weighed
	reservers   []plugins.Reserver
	postFilters []plugins.PostFilterer
	followers   []follower
	extenders   []*extender
	share       int  // percent of the fitting nodes that are compared; 0 lets the size of the cluster decide
	preempts    bool // less important pods make room
	candidates  candidates

	refusals []refusal // memory each decision uses again
}

// candidates is how many nodes that could be cleared for a pod are compared.
type candidates struct{ percent, least int }

// weighed is a preference and how much it counts.
type weighed struct {
	plugins.Scorer
	weight int64
}

// follower is a plugin that reads kinds most clusters have none of, and these.
type follower struct {
	plugins.Follower
	sources []plugins.Source
}
