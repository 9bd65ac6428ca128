package scheduler

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/scheduler/plugins"
)

// profile is the rules for the pods that name one scheduler.
type profile struct {
	name        string
	filters     []plugins.Filterer
	scorers     []weighed
	reservers   []plugins.Reserver
	postFilters []plugins.PostFilterer
	followers   []follower
	preempts    bool // less important pods make room
}

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

// standard is what pods get that nobody configured anything for.
func standard() (*profile, error) {
	p := &profile{name: corev1.DefaultSchedulerName, preempts: true}
	for _, rule := range plugins.Rules() {
		plugin, err := rule.New(nil)
		if err != nil {
			return nil, fmt.Errorf("make %s: %w", rule.Name, err)
		}
		p.add(plugin, rule.Weight)
	}
	return p, nil
}

// add makes a plugin part of everything it has a say in.
func (p *profile) add(plugin plugins.Plugin, weight int64) {
	if f, ok := plugin.(plugins.Filterer); ok {
		p.filters = append(p.filters, f)
	}
	if s, ok := plugin.(plugins.Scorer); ok {
		p.scorers = append(p.scorers, weighed{s, weight})
	}
	if r, ok := plugin.(plugins.Reserver); ok {
		p.reservers = append(p.reservers, r)
	}
	if f, ok := plugin.(plugins.PostFilterer); ok {
		p.postFilters = append(p.postFilters, f)
	}
	if f, ok := plugin.(plugins.Follower); ok {
		p.followers = append(p.followers, follower{f, f.Sources()})
	}
}
