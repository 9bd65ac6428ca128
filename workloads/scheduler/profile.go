package scheduler

import (
	"knarr.dev/knarr/workloads/scheduler/plugins"
	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// profile is the rules for the pods that name one scheduler.
type profile struct {
	name        string
	filters     []plugins.Filterer
	scorers     []weighed
	reservers   []plugins.Reserver
	postFilters []plugins.PostFilterer
	followers   []plugins.Follower
	extenders   []*extender
	share       int  // percent of the fitting nodes that are compared; 0 lets the size of the cluster decide
	preempts    bool // less important pods make room
	candidates  candidates

	// The filters and scorers once more: those whose verdicts are kept (the filters: as far as no other is asked before
	// them), and the rest.
	local, far               []plugins.Filterer
	localScorers, farScorers []weighed

	verdicts map[string]*verdicts // by what pods want
	scratch  scratch
}

// scratch is memory each decision uses again.
type scratch struct {
	refusals []refusal
	refused  bool // there are any
	passed   []bool
	fit      []*snapshot.Node
	totals   []int64
	scores   []int64
}

// split tells the rules whose verdicts are kept from the rest.
func (p *profile) split() {
	for i, f := range p.filters {
		if _, ok := f.(plugins.LocalFilterer); !ok {
			p.far = p.filters[i:]
			break
		}
		p.local = p.filters[:i+1]
	}
	for _, s := range p.scorers {
		if _, ok := s.Scorer.(plugins.LocalScorer); ok {
			p.localScorers = append(p.localScorers, s)
		} else {
			p.farScorers = append(p.farScorers, s)
		}
	}
}

// candidates is how many nodes that could be cleared for a pod are compared.
type candidates struct{ percent, least int }

// weighed is a preference and how much it counts.
type weighed struct {
	plugins.Scorer
	weight int64
}
