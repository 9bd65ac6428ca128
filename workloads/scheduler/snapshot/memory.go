package snapshot

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

const (
	// keptMoves is how far back a count can be brought up to date rather than made anew: more than move between two
	// decisions about pods that are alike, few enough to take in faster than counting all pods.
	keptMoves = 1024
	// keptCounts bounds what is remembered. Pods come in groups that are alike; more groups at once are rare.
	keptCounts = 64
)

// Move is a pod that began (By 1) or ceased (By -1) to count on a node.
type Move struct {
	Pod  *Pod
	Node *Node
	By   int64
}

// memory is what rules counted over all pods, and what moved since, so that the next decision about a pod that is
// alike takes in a few moves and does not count all pods again.
type memory struct {
	counts map[any]*count
	moves  []Move // the latest
	first  int64  // number of the first of them
}

type count struct {
	value any
	seen  int64 // moves up to this number are in it
}

// Recall is what was remembered under a key and the moves since, which the caller takes in; ok is false when nothing is
// known or too much changed. It belongs to the goroutine that owns the snapshot.
func (s *Snapshot) Recall(key any) (value any, since []Move, ok bool) {
	c := s.memory.counts[key]
	if c == nil {
		return nil, nil, false
	}
	if c.seen < s.memory.first {
		delete(s.memory.counts, key)
		return nil, nil, false
	}
	since = s.memory.moves[c.seen-s.memory.first:]
	c.seen = s.memory.end()
	return c.value, since, true
}

// Remember keeps what was counted over all pods as they are now.
func (s *Snapshot) Remember(key, value any) {
	if len(s.memory.counts) >= keptCounts {
		for other := range s.memory.counts {
			delete(s.memory.counts, other)
			break
		}
	}
	s.memory.counts[key] = &count{value, s.memory.end()}
}

func (m *memory) end() int64 { return m.first + int64(len(m.moves)) }

// note adds a move.
func (m *memory) note(move Move) {
	if len(m.counts) == 0 {
		m.first, m.moves = m.end()+1, nil // nobody would ask for it
		return
	}
	if len(m.moves) == 2*keptMoves {
		m.first += keptMoves
		m.moves = slices.Delete(m.moves, 0, keptMoves)
	}
	m.moves = append(m.moves, move)
}

// forget drops everything: where pods count has changed in ways that are not moves.
func (m *memory) forget() { clear(m.counts) }

// alike says whether rules that count pods see the same in two states of a pod.
func alike(a, b *corev1.Pod) bool {
	return (a.DeletionTimestamp == nil) == (b.DeletionTimestamp == nil) && a.Namespace == b.Namespace && maps.Equal(a.Labels, b.Labels)
}
