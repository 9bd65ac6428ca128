package exclusive

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"k8s.io/utils/cpuset"

	"knarr.dev/knarr/workloads/agent/align"
	"knarr.dev/knarr/workloads/agent/topology"
)

// group is CPUs that are close to each other, and the closer groups it is made of. A core is made of nothing else.
type group struct {
	cpus  cpuset.CPUSet
	parts []group
}

// groups is a machine from the whole down to its cores: sockets, nodes, the caches in them where these matter.
func groups(m topology.Machine, caches bool) group {
	socket, node := func(c topology.CPU) int { return c.Socket }, func(c topology.CPU) int { return c.Node }
	levels := []func(topology.CPU) int{socket, node}
	if count(m.CPUs, socket) > count(m.CPUs, node) { // a node of several sockets
		levels = []func(topology.CPU) int{node, socket}
	}
	if caches {
		levels = append(levels, func(c topology.CPU) int { return c.Cache })
	}
	return divide(m.CPUs, append(levels, func(c topology.CPU) int { return c.Core }))
}

func count(cpus []topology.CPU, by func(topology.CPU) int) int {
	seen := map[int]bool{}
	for _, c := range cpus {
		seen[by(c)] = true
	}
	return len(seen)
}

func divide(cpus []topology.CPU, levels []func(topology.CPU) int) group {
	whole := group{cpus: topology.Machine{CPUs: cpus}.All()}
	if len(levels) == 0 {
		return whole
	}
	var order []int
	parts := map[int][]topology.CPU{}
	for _, c := range cpus {
		part := levels[0](c)
		if parts[part] == nil {
			order = append(order, part)
		}
		parts[part] = append(parts[part], c)
	}
	for _, part := range order {
		whole.parts = append(whole.parts, divide(parts[part], levels[1:]))
	}
	return whole
}

// take n of the CPUs that are free, close together: from the smallest part that has them, so that larger ones stay whole
// for who needs more; from as few parts as possible where none has.
func (g group) take(n int, free cpuset.CPUSet) cpuset.CPUSet {
	have := g.cpus.Intersection(free)
	if have.Size() <= n {
		return have
	}
	if n == 0 {
		return cpuset.New()
	}
	if len(g.parts) == 0 {
		return cpuset.New(have.List()[:n]...)
	}
	left := func(part group) int { return part.cpus.Intersection(have).Size() }
	best, most := -1, 0
	for i, part := range g.parts {
		if left(part) >= n && (best < 0 || left(part) < left(g.parts[best])) {
			best = i
		}
		if left(part) > left(g.parts[most]) {
			most = i
		}
	}
	if best >= 0 {
		return g.parts[best].take(n, have)
	}
	got := g.parts[most].cpus.Intersection(have)
	return got.Union(g.take(n-got.Size(), have.Difference(got)))
}

// chooser chooses CPUs on one machine.
type chooser struct {
	machine  topology.Machine
	whole    group
	threads  int  // of a core
	cores    bool // whole cores only
	balanced bool // as many from each node, where one node is too small
}

func newChooser(m topology.Machine, p Policy) chooser {
	threads := map[int]int{}
	for _, c := range m.CPUs {
		threads[c.Core]++
	}
	most := 1
	for _, n := range threads {
		most = max(most, n)
	}
	return chooser{machine: m, whole: groups(m, p.SameCache), threads: most, cores: p.WholeCores, balanced: p.BalanceNodes}
}

// usable is what may be chosen of the free CPUs: with whole cores only, those whose siblings are free as well.
func (c chooser) usable(free cpuset.CPUSet) cpuset.CPUSet {
	if !c.cores {
		return free
	}
	taken := map[int]bool{}
	for _, cpu := range c.machine.CPUs {
		if !free.Contains(cpu.ID) {
			taken[cpu.Core] = true
		}
	}
	return c.machine.Set(func(cpu topology.CPU) bool { return !taken[cpu.Core] })
}

// choose n CPUs of the free ones, on some nodes as long as these have any. What the pod had before, and needs no more, goes
// first: nobody else can have it.
func (c chooser) choose(n int, free, passed cpuset.CPUSet, from align.Nodes) (cpuset.CPUSet, error) {
	if c.cores && n%c.threads != 0 {
		return cpuset.CPUSet{}, Refusal{Reason: reasonThreads, Message: fmt.Sprintf("SMT Alignment Error: requested %d cpus not multiple cpus per core = %d", n, c.threads)}
	}
	have := c.usable(free.Union(passed))
	if have.Size() < n {
		if c.cores && free.Union(passed).Size() >= n {
			return cpuset.CPUSet{}, Refusal{Reason: reasonThreads, Message: fmt.Sprintf(
				"SMT Alignment Error: not enough free physical CPUs: available physical CPUs = %d, requested CPUs = %d, CPUs per core = %d", have.Size(), n, c.threads)}
		}
		return cpuset.CPUSet{}, fmt.Errorf("not enough cpus available to satisfy request: requested=%d, available=%d", n, have.Size())
	}
	near := have.Intersection(c.machine.On(from))
	got := cpuset.New()
	for _, some := range []cpuset.CPUSet{near.Intersection(passed), near, have.Intersection(passed), have} {
		some = some.Difference(got)
		got = got.Union(c.some(min(n-got.Size(), some.Size()), some))
	}
	return got, nil
}

func (c chooser) some(n int, free cpuset.CPUSet) cpuset.CPUSet {
	if c.balanced {
		if even := c.spread(n, free); !even.IsEmpty() {
			return even
		}
	}
	return c.whole.take(n, free)
}

// spread takes as many from each of the fewest nodes that have n; empty where one has them all, or none can be even.
func (c chooser) spread(n int, free cpuset.CPUSet) cpuset.CPUSet {
	unit := 1
	if c.cores {
		unit = c.threads
	}
	left := func(id int) int { return free.Intersection(c.machine.On(align.Of(id))).Size() }
	best, least := cpuset.New(), math.Inf(1)
	size := 0
	for _, nodes := range c.machine.NUMA().Subsets() { // small ones first
		if size > 0 && nodes.Count() > size {
			break
		}
		ids := nodes.List()
		sum := 0
		for _, id := range ids {
			sum += left(id)
		}
		if sum < n {
			continue
		}
		if len(ids) == 1 {
			return cpuset.New()
		}
		slices.SortStableFunc(ids, func(a, b int) int { return cmp.Compare(left(b), left(a)) }) // what is over goes where most is
		got, rest := cpuset.New(), n/unit%len(ids)
		uneven := 0.0 // how different what is left is then
		mean := float64(sum-n) / float64(len(ids))
		for i, id := range ids {
			share := n / unit / len(ids) * unit
			if i < rest {
				share += unit
			}
			if left(id) < share {
				got = cpuset.New()
				break
			}
			got = got.Union(c.whole.take(share, free.Intersection(c.machine.On(align.Of(id)))))
			uneven += math.Pow(float64(left(id)-share)-mean, 2)
		}
		if got.Size() == n && uneven < least {
			best, least, size = got, uneven, len(ids)
		}
	}
	return best
}

// hints are the nodes n CPUs could come from. Those the pod passes on have to be among them.
func (c chooser) hints(n int, all, free, passed cpuset.CPUSet) []align.Hint {
	all, free = c.usable(all), c.usable(free.Union(passed))
	return align.Hints(c.machine.NUMA(),
		func(nodes align.Nodes) bool { return all.Intersection(c.machine.On(nodes)).Size() >= n },
		func(nodes align.Nodes) bool {
			on := c.machine.On(nodes)
			return free.Intersection(on).Size() >= n && passed.IsSubsetOf(on)
		})
}
