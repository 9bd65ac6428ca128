package exclusive

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/cpuset"

	"knarr.dev/knarr/workloads/agent/align"
	"knarr.dev/knarr/workloads/agent/topology"
)

// built is a machine with so many of each in the one before; the second threads of all cores come after the first ones, as
// firmware numbers them. A node has 4 GiB, and distances of 10 within, 20 to those of its socket, 30 to others.
func built(sockets, nodes, caches, cores, threads int) topology.Machine {
	var m topology.Machine
	all := sockets * nodes * caches * cores
	for thread := range threads {
		for core := range all {
			m.CPUs = append(m.CPUs, topology.CPU{
				ID: thread*all + core, Core: core, Cache: core / cores * cores,
				Node: core / (caches * cores), Socket: core / (nodes * caches * cores),
			})
		}
	}
	for id := range sockets * nodes {
		n := topology.Node{ID: id, Memory: map[corev1.ResourceName]uint64{"memory": 4 << 30, "hugepages-2Mi": 64 << 20}, Distances: map[int]int{}}
		for to := range sockets * nodes {
			n.Distances[to] = 30
			if to/nodes == id/nodes {
				n.Distances[to] = 20
			}
		}
		n.Distances[id] = 10
		m.Nodes = append(m.Nodes, n)
	}
	return m
}

func set(t *testing.T, list string) cpuset.CPUSet {
	t.Helper()
	s, err := cpuset.Parse(list)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestChooseCPUs(t *testing.T) {
	// Two sockets of two nodes of two cores of two threads: node 0 has 0,1,8,9, node 1 has 2,3,10,11, socket 1 the rest to 15.
	big := built(2, 2, 1, 2, 2)
	// One node of four caches of two cores, and no second threads.
	cached := built(1, 1, 4, 2, 1)
	tests := map[string]struct {
		machine topology.Machine
		policy  Policy
		n       int
		free    string
		passed  string
		from    align.Nodes // 0: anywhere
		want    string
		err     string
	}{
		"one CPU of an idle machine":                        {machine: big, n: 1, free: "0-15", want: "0"},
		"the two threads of a core":                         {machine: big, n: 2, free: "0-15", want: "0,8"},
		"a core that is broken already goes first":          {machine: big, n: 1, free: "0-6,8-15", want: "15"},
		"a whole core rather than two halves":               {machine: big, n: 2, free: "1-2,10-11", want: "2,10"},
		"two halves where there is no whole core":           {machine: big, n: 2, free: "1,3,5", want: "1,3"},
		"a whole node":                                      {machine: big, n: 4, free: "0-15", want: "0-1,8-9"},
		"a node that is whole, not what is left of another": {machine: big, n: 4, free: "1-15", want: "2-3,10-11"},
		"the smallest room that is enough":                  {machine: big, n: 2, free: "0-5,8-13", want: "4,12"},
		"a whole socket":                                    {machine: big, n: 8, free: "0-15", want: "0-3,8-11"},
		"a socket, and the rest close together":             {machine: big, n: 10, free: "0-15", want: "0-4,8-12"},
		"all there is":                                      {machine: big, n: 16, free: "0-15", want: "0-15"},
		"more than there is":                                {machine: big, n: 3, free: "4,7", err: "not enough cpus available to satisfy request: requested=3, available=2"},
		"on the node that was chosen":                       {machine: big, n: 2, free: "0-15", from: align.Of(3), want: "6,14"},
		"as many as the node has":                           {machine: big, n: 4, free: "0-15", from: align.Of(3), want: "6-7,14-15"},
		"the rest elsewhere where the node has too few":     {machine: big, n: 6, free: "0-15", from: align.Of(3), want: "4,6-7,12,14-15"},
		"what is passed on goes first":                      {machine: big, n: 2, free: "0-4,8-12", passed: "5,13", want: "5,13"},
		"what is passed on and more":                        {machine: big, n: 3, free: "0-4,8-12", passed: "5,13", want: "4-5,13"},
		"no thread of a core that somebody else is on":      {machine: big, policy: Policy{WholeCores: true}, n: 2, free: "0-7,9-15", want: "1,9"},
		"half a core, where cores are not shared": {
			machine: big, policy: Policy{WholeCores: true}, n: 3, free: "0-15", err: "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2",
		},
		"halves only, where cores are not shared": {
			machine: big, policy: Policy{WholeCores: true}, n: 2, free: "0-3",
			err: "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 0, requested CPUs = 2, CPUs per core = 2",
		},
		"packed, without another word":              {machine: big, n: 6, free: "0-15", want: "0-2,8-10"},
		"as many of each node":                      {machine: big, policy: Policy{BalanceNodes: true}, n: 6, free: "0-15", want: "0-3,8,10"},
		"nodes that leave each other as much":       {machine: big, policy: Policy{BalanceNodes: true}, n: 6, free: "0-6,8-15", want: "0-3,8,10"},
		"balanced, in whole cores":                  {machine: big, policy: Policy{BalanceNodes: true, WholeCores: true}, n: 8, free: "1-7,9-15", want: "2-5,10-13"},
		"balanced is one node where one has all":    {machine: big, policy: Policy{BalanceNodes: true}, n: 4, free: "0-15", want: "0-1,8-9"},
		"not balanced where it cannot be":           {machine: big, policy: Policy{BalanceNodes: true}, n: 4, free: "0-1,8,2", want: "0-2,8"},
		"caches do not matter":                      {machine: cached, n: 3, free: "0-7", want: "0-2"},
		"and are cut without a word":                {machine: cached, n: 2, free: "1-7", want: "1-2"},
		"one cache":                                 {machine: cached, policy: Policy{SameCache: true}, n: 2, free: "1-7", want: "2-3"},
		"as few caches as can be":                   {machine: cached, policy: Policy{SameCache: true}, n: 4, free: "1-3,5-7", want: "2-3,6-7"},
		"caches where there are not enough of them": {machine: cached, policy: Policy{SameCache: true}, n: 2, free: "1,3", want: "1,3"},
		"a node of two sockets": {
			machine: func() topology.Machine {
				m := built(2, 1, 1, 2, 1)
				for i := range m.CPUs {
					m.CPUs[i].Node = 0
				}
				m.Nodes = m.Nodes[:1]
				return m
			}(),
			n: 2, free: "1-3", want: "2-3",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if tc.from == 0 {
				tc.from = align.Anywhere
			}
			got, err := newChooser(tc.machine, tc.policy).choose(tc.n, set(t, tc.free), set(t, tc.passed), tc.from)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("choose() = %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil || got.String() != tc.want {
				t.Errorf("choose() = %s, %v; want %s", got, err, tc.want)
			}
		})
	}
}

func TestCPUHints(t *testing.T) {
	big := built(2, 2, 1, 2, 2)
	tests := map[string]struct {
		policy       Policy
		n            int
		free, passed string
		want         string // the preferred sets, and how many others
		others       int
	}{
		"any node can":                         {n: 4, free: "0-15", want: "0 1 2 3", others: 11},
		"one that is half taken cannot":        {n: 4, free: "1-15", want: "1 2 3", others: 11},
		"two nodes are needed":                 {n: 6, free: "0-15", want: "0-1 0,2 1-2 0,3 1,3 2-3", others: 5},
		"only what holds the CPUs of before":   {n: 2, free: "2-7", passed: "0,8", want: "0", others: 7},
		"threads of taken cores are not there": {policy: Policy{WholeCores: true}, n: 4, free: "0-3,4-7,9-15", want: "1 2 3", others: 11},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var preferred []string
			others := 0
			for _, h := range newChooser(big, tc.policy).hints(tc.n, big.All(), set(t, tc.free), set(t, tc.passed)) {
				if h.Preferred {
					preferred = append(preferred, h.Nodes.String())
				} else {
					others++
				}
			}
			if got := strings.Join(preferred, " "); got != tc.want || others != tc.others {
				t.Errorf("hints() = %s and %d others; want %s and %d", got, others, tc.want, tc.others)
			}
		})
	}
}
