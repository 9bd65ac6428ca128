// Package align decides from which NUMA nodes a container gets what it has to itself, so that its CPUs, its memory and its
// devices are close to each other.
//
// In:       hints: for each resource, the sets of nodes it could come from.
// Out:      one set of nodes for all of them, and whether the node's policy lets the pod in with it.
// Promise:  pure; the work grows with the number of sets of nodes, not with the number of combinations of resources.
// Not here: where hints come from (workloads/agent/exclusive, workloads/agent/devices), what is taken from the nodes.
//
// Policies and their names are upstream's
// (https://kubernetes.io/docs/tasks/administer-cluster/topology-manager/, KEP-693).
package align

import (
	"fmt"
	"math/bits"
	"slices"

	"k8s.io/utils/cpuset"
)

// Nodes is a set of NUMA nodes, a bit each.
type Nodes uint64

// Anywhere is for what may come from any node.
const Anywhere = ^Nodes(0)

// MaxNode is the highest number of a node a set can hold.
const MaxNode = 63

// Of makes a set.
func Of(ids ...int) Nodes {
	var n Nodes
	for _, id := range ids {
		n |= 1 << id
	}
	return n
}

// Count is how many nodes there are.
func (n Nodes) Count() int { return bits.OnesCount64(uint64(n)) }

// Has says whether a node is one of them.
func (n Nodes) Has(id int) bool { return n&(1<<id) != 0 }

// List is the nodes in order.
func (n Nodes) List() []int {
	var ids []int
	for id := range MaxNode + 1 {
		if n.Has(id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// String is the kernel's way to write them: 0-1,3.
func (n Nodes) String() string { return cpuset.New(n.List()...).String() }

// MarshalText writes a set into files.
func (n Nodes) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (n *Nodes) UnmarshalText(text []byte) error {
	set, err := cpuset.Parse(string(text))
	if err != nil {
		return err
	}
	for _, id := range set.List() {
		if id > MaxNode {
			return fmt.Errorf("there is no NUMA node %d", id)
		}
	}
	*n = Of(set.List()...)
	return nil
}

// Subsets are all sets of some of these nodes, small ones first, each size in order.
func (n Nodes) Subsets() []Nodes {
	var out []Nodes
	for sub := n; sub > 0; sub = (sub - 1) & n {
		out = append(out, sub)
	}
	slices.SortFunc(out, func(a, b Nodes) int {
		if a.Count() != b.Count() {
			return a.Count() - b.Count()
		}
		if a < b {
			return -1
		}
		return 1
	})
	return out
}

// Hint is one set of nodes a resource could come from.
type Hint struct {
	Nodes     Nodes
	Preferred bool // no smaller set could ever do
}

// Hints of a resource: the sets that can give it now, preferred where none smaller could if all of it were free.
func Hints(machine Nodes, could, can func(Nodes) bool) []Hint {
	var out []Hint
	least := 0
	for _, nodes := range machine.Subsets() {
		if least == 0 && could(nodes) {
			least = nodes.Count()
		}
		if can(nodes) {
			out = append(out, Hint{Nodes: nodes, Preferred: nodes.Count() == least})
		}
	}
	return out
}

// The policies, by upstream's names.
const (
	None       = "none"
	BestEffort = "best-effort"
	Restricted = "restricted"
	SingleNode = "single-numa-node"
)

// Policy of a node.
type Policy struct {
	Name     string // "" is None
	Pods     bool   // a pod's containers have the same nodes, not each its own
	Closest  bool   // of sets of the same size, the one whose nodes are closest to each other
	MaxNodes int    // of a machine
}

// On says whether anything is decided at all.
func (p Policy) On() bool { return p.Name != "" && p.Name != None }

// Decide which nodes a container's resources come from: each of hints is the sets of one resource, which is empty when
// there is not enough of it anywhere. far says how far the nodes of a set are from each other. What is not let in has no
// nodes.
func (p Policy) Decide(machine Nodes, hints [][]Hint, far func(Nodes) float64) (Nodes, bool) {
	if p.Name == SingleNode {
		hints = single(hints)
	}
	best := p.best(merge(machine, hints), aim(hints), far)
	switch {
	case best.Preferred, p.Name == BestEffort && best.Nodes != 0:
		return best.Nodes, true
	case p.Name == BestEffort:
		return machine, true
	}
	return 0, false
}

// single keeps the hints of one node.
func single(hints [][]Hint) [][]Hint {
	out := make([][]Hint, len(hints))
	for i, list := range hints {
		for _, h := range list {
			if h.Preferred && h.Nodes.Count() == 1 {
				out[i] = append(out[i], h)
			}
		}
	}
	return out
}

// merge is what all resources have in common, each set once: it is preferred when all of them prefer just that one.
func merge(machine Nodes, hints [][]Hint) map[Hint]bool {
	if len(hints) == 0 {
		return map[Hint]bool{{Nodes: machine, Preferred: true}: true}
	}
	merged := map[Hint]bool{}
	for i, list := range hints {
		next := map[Hint]bool{}
		for _, h := range list {
			if i == 0 {
				next[h] = true
				continue
			}
			for before := range merged {
				if both := before.Nodes & h.Nodes; both != 0 {
					next[Hint{Nodes: both, Preferred: before.Preferred && h.Preferred && before.Nodes == h.Nodes}] = true
				}
			}
		}
		merged = next
	}
	return merged
}

// aim is how many nodes the resource needs that needs most: a smaller set than that divides it anyway.
func aim(hints [][]Hint) int {
	most := 0
	for _, list := range hints {
		for _, h := range list {
			if h.Preferred {
				most = max(most, h.Nodes.Count())
				break
			}
		}
	}
	return most
}

// best of what was merged. Where nothing is preferred, what is closest to the size that is needed.
func (p Policy) best(merged map[Hint]bool, aim int, far func(Nodes) float64) Hint {
	var best Hint
	for h := range merged {
		if best.Nodes == 0 || p.better(h, best, aim, far) {
			best = h
		}
	}
	return best
}

func (p Policy) better(a, b Hint, aim int, far func(Nodes) float64) bool {
	if a.Preferred != b.Preferred {
		return a.Preferred
	}
	off := func(h Hint) int {
		if h.Preferred || aim == 0 {
			return h.Nodes.Count()
		}
		return max(h.Nodes.Count()-aim, aim-h.Nodes.Count())
	}
	if off(a) != off(b) {
		return off(a) < off(b)
	}
	if a.Nodes.Count() != b.Nodes.Count() {
		return a.Nodes.Count() < b.Nodes.Count()
	}
	if p.Closest && far(a.Nodes) != far(b.Nodes) {
		return far(a.Nodes) < far(b.Nodes)
	}
	return a.Nodes < b.Nodes
}
