package scheduler

import (
	"knarr.dev/knarr/workloads/scheduler/plugins"
	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// keptVerdicts bounds for how many sorts of pods verdicts are kept; more at once are rare.
const keptVerdicts = 16

// verdicts is what the local rules said about nodes for pods that want the same. One holds until its node changes, so that
// of a thousand replicas only the first few pay for asking about every node.
type verdicts struct {
	filters []prepared
	scores  []rated
	order   int64     // of the snapshot's nodes
	of      []verdict // by the node's place in that order
	open    int       // nodes nobody has asked about yet
	cleared []cleared // by the node's place, too; nil until pods have to make room
}

// cleared is who must leave a node for a pod of a priority.
type cleared struct {
	version  uint64
	priority int32
	clearing *clearing
	why      refusal
}

type verdict struct {
	version uint64 // of the node; 0 is before its first
	refusal refusal
	score   int64 // the weighted sum
	// expecting is what the rules say with those on the node that wait for room there; nil when nobody asked.
	expecting *expecting
}

type expecting struct {
	priority int32 // of the pod that asked; less important ones that wait do not count for it
	why      refusal
}

// rated is a score with its rule's weight.
type rated struct {
	score  plugins.Score
	weight int64
}

// verdictsFor finds what is known for pods like this one, or begins anew. A refusal is one of all nodes.
func (p *profile) verdictsFor(pod *snapshot.Pod, snap *snapshot.Snapshot) (*verdicts, *refusal) {
	wants := pod.Wants()
	v := p.verdicts[wants]
	if v == nil {
		filters, refused := prepare(pod, snap, p.local)
		if refused != nil {
			return nil, refused
		}
		v = &verdicts{filters: filters}
		for _, s := range p.localScorers {
			if score := s.Score(pod, snap, nil); score != nil {
				v.scores = append(v.scores, rated{score, s.weight})
			}
		}
		p.keep(wants, v)
	}
	if v.order != snap.Order() {
		v.order, v.open = snap.Order(), len(snap.Nodes())
		v.of, v.cleared = make([]verdict, v.open), nil
	}
	return v, nil
}

func (p *profile) keep(wants string, v *verdicts) {
	if p.verdicts == nil {
		p.verdicts = map[string]*verdicts{}
	}
	if len(p.verdicts) >= keptVerdicts {
		for other := range p.verdicts {
			delete(p.verdicts, other)
			break
		}
	}
	p.verdicts[wants] = v
}

// about is the verdict on a node; fresh says that nobody had asked about it before. Goroutines may ask about different nodes
// at once.
func (v *verdicts) about(n *snapshot.Node) (known *verdict, fresh bool) {
	known = &v.of[n.Place]
	if known.version == n.Version {
		return known, false
	}
	fresh = known.version == 0
	*known = verdict{version: n.Version}
	var fits bool
	if known.refusal, fits = ask(n, v.filters); fits {
		for _, s := range v.scores {
			known.score += s.score(n) * s.weight
		}
	}
	return known, fresh
}

func (v *verdicts) makeCleared() {
	if v.cleared == nil {
		v.cleared = make([]cleared, len(v.of))
	}
}

// clear is what try says, or said of the node as it is.
func (v *verdicts) clear(pod *snapshot.Pod, n *snapshot.Node, try trial) (*clearing, refusal) {
	known := &v.cleared[n.Place]
	if known.version != n.Version || known.priority != pod.Priority {
		*known = cleared{version: n.Version, priority: pod.Priority}
		known.clearing, known.why = try(n)
	}
	return known.clearing, known.why
}
