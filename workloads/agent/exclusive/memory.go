package exclusive

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"knarr.dev/knarr/workloads/agent/align"
	"knarr.dev/knarr/workloads/agent/topology"
)

// Block is memory of one type that a container has from some nodes.
type Block struct {
	Type  corev1.ResourceName `json:"type"` // memory, hugepages-2Mi ...
	Size  uint64              `json:"size"` // bytes
	Nodes align.Nodes         `json:"nodes"`
}

// Amounts are bytes of each type of memory.
type Amounts map[corev1.ResourceName]uint64

// memory is what pods may have of each node.
type memory struct {
	nodes align.Nodes
	has   map[int]Amounts
}

// held is what is taken, by the nodes it was taken from. The kernel takes from any of them, so memory of two nodes together
// cannot be had beside memory of one of them alone: sets of nodes in use are the same or have nothing in common (KEP-1769).
type held map[align.Nodes]Amounts

func (h held) add(b Block) {
	if h[b.Nodes] == nil {
		h[b.Nodes] = Amounts{}
	}
	h[b.Nodes][b.Type] += b.Size
}

// newMemory keeps from pods what is reserved, which must be what the node keeps from its allocatable, all nodes together.
func newMemory(m topology.Machine, reserved map[int]Amounts, kept uint64) (memory, error) {
	out := memory{nodes: m.NUMA(), has: map[int]Amounts{}}
	for _, n := range m.Nodes {
		out.has[n.ID] = maps.Clone(Amounts(n.Memory))
	}
	sum := uint64(0)
	for _, id := range slices.Sorted(maps.Keys(reserved)) {
		for _, name := range slices.Sorted(maps.Keys(reserved[id])) {
			size := reserved[id][name]
			has, there := out.has[id][name]
			switch {
			case !there:
				return out, fmt.Errorf("reservedMemory: NUMA node %d of this machine has no %s: it has nodes %s", id, name, out.nodes)
			case size > has:
				return out, fmt.Errorf("reservedMemory: NUMA node %d has %s of %s, and %s is to be reserved", id, bytes(has), name, bytes(size))
			}
			out.has[id][name] -= size
			if name == corev1.ResourceMemory {
				sum += size
			}
		}
	}
	if sum != kept {
		return out, fmt.Errorf("reservedMemory reserves %s of memory on all NUMA nodes together, and kubeReserved, systemReserved and evictionHard keep %s: "+
			"they have to be the same", bytes(sum), bytes(kept))
	}
	return out, nil
}

func bytes(n uint64) string { return resource.NewQuantity(int64(n), resource.BinarySI).String() }

// of some nodes together.
func (m memory) of(nodes align.Nodes, name corev1.ResourceName) uint64 {
	sum := uint64(0)
	for _, id := range nodes.List() {
		sum += m.has[id][name]
	}
	return sum
}

// fits says whether nodes can give so much; passed is what the pod had there and needs no more.
func (m memory) fits(nodes align.Nodes, need Amounts, taken, passed held) bool {
	for other := range taken {
		if other != nodes && other&nodes != 0 {
			return false
		}
	}
	for name, size := range need {
		if taken[nodes][name]+size > m.of(nodes, name)+min(size, passed[nodes][name]) {
			return false
		}
	}
	return true
}

// hints are the nodes so much memory could come from.
func (m memory) hints(need Amounts, taken, passed held) []align.Hint {
	return align.Hints(m.nodes,
		func(nodes align.Nodes) bool { return m.fits(nodes, need, nil, nil) },
		func(nodes align.Nodes) bool { return m.fits(nodes, need, taken, passed) })
}

// choose the nodes for so much memory: those it is to come from, or else the fewest that have them among them, or the
// fewest at all.
func (m memory) choose(need Amounts, taken, passed held, from align.Nodes) ([]Block, error) {
	if from&m.nodes == m.nodes {
		from = 0 // it does not matter
	}
	var chosen align.Nodes
	for _, nodes := range m.nodes.Subsets() {
		if (chosen == 0 || nodes&from == from) && m.fits(nodes, need, taken, passed) {
			if chosen = nodes; chosen&from == from {
				break
			}
		}
	}
	if chosen == 0 {
		return nil, fmt.Errorf("no NUMA nodes with enough memory: the container asks for %s", need)
	}
	var blocks []Block
	for _, name := range slices.Sorted(maps.Keys(need)) {
		blocks = append(blocks, Block{Type: name, Size: need[name], Nodes: chosen})
	}
	return blocks, nil
}

// String lists them.
func (a Amounts) String() string {
	text := ""
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if text != "" {
			text += ", "
		}
		text += bytes(a[name]) + " of " + string(name)
	}
	return text
}
