package align

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDecide(t *testing.T) {
	good := func(sets ...Nodes) (out []Hint) {
		for _, s := range sets {
			out = append(out, Hint{Nodes: s, Preferred: true})
		}
		return out
	}
	poor := func(sets ...Nodes) (out []Hint) {
		for _, s := range sets {
			out = append(out, Hint{Nodes: s})
		}
		return out
	}
	with := func(a, b []Hint) []Hint { return append(a, b...) }
	type verdict struct {
		nodes Nodes
		in    bool
	}
	all := map[string]Nodes{BestEffort: 0, Restricted: 0, SingleNode: 0}
	tests := map[string]struct {
		machine Nodes
		hints   [][]Hint
		closest bool
		far     map[Nodes]float64
		want    map[string]verdict
	}{
		"who asks for nothing may be anywhere": {
			machine: 3, want: map[string]verdict{BestEffort: {3, true}, Restricted: {3, true}, SingleNode: {3, true}},
		},
		"one resource has its first choice": {
			machine: 3, hints: [][]Hint{with(good(1, 2), poor(3))},
			want: map[string]verdict{BestEffort: {1, true}, Restricted: {1, true}, SingleNode: {1, true}},
		},
		"two resources meet where both can be": {
			machine: 3, hints: [][]Hint{with(good(1, 2), poor(3)), with(good(2), poor(3))},
			want: map[string]verdict{BestEffort: {2, true}, Restricted: {2, true}, SingleNode: {2, true}},
		},
		"resources that cannot meet are apart, if that is allowed": {
			machine: 3, hints: [][]Hint{with(good(1), poor(3)), with(good(2), poor(3))},
			want: map[string]verdict{BestEffort: {1, true}, Restricted: {0, false}, SingleNode: {0, false}},
		},
		"what needs two nodes can have them, though not as one": {
			machine: 3, hints: [][]Hint{good(3)},
			want: map[string]verdict{BestEffort: {3, true}, Restricted: {3, true}, SingleNode: {0, false}},
		},
		"one that needs two nodes and one that needs one do not agree": {
			machine: 3, hints: [][]Hint{good(3), with(good(1, 2), poor(3))},
			want: map[string]verdict{BestEffort: {3, true}, Restricted: {0, false}, SingleNode: {0, false}},
		},
		"a resource there is too little of": {
			machine: 3, hints: [][]Hint{with(good(1), poor(3)), nil},
			want: map[string]verdict{BestEffort: {3, true}, Restricted: {0, false}, SingleNode: {0, false}},
		},
		"only what is spread though it need not be": {
			machine: 3, hints: [][]Hint{poor(3)},
			want: map[string]verdict{BestEffort: {3, true}, Restricted: {0, false}, SingleNode: {0, false}},
		},
		"of equal sets the first": {
			machine: 15, hints: [][]Hint{good(3, 5, 6, 12)},
			want: map[string]verdict{BestEffort: {3, true}, Restricted: {3, true}},
		},
		"of equal sets the closest": {
			machine: 15, hints: [][]Hint{good(3, 5, 6, 12)}, closest: true, far: map[Nodes]float64{3: 20, 5: 15, 6: 15, 12: 11},
			want: map[string]verdict{BestEffort: {12, true}, Restricted: {12, true}},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			for policy := range all {
				want, said := tc.want[policy]
				if !said {
					continue
				}
				p := Policy{Name: policy, Closest: tc.closest}
				nodes, in := p.Decide(tc.machine, tc.hints, func(n Nodes) float64 { return tc.far[n] })
				if nodes != want.nodes || in != want.in {
					t.Errorf("%s: Decide() = %s, %v; want %s, %v", policy, nodes, in, want.nodes, want.in)
				}
			}
		})
	}
}

func TestHints(t *testing.T) {
	has := map[int]int{0: 4, 1: 4, 2: 4}  // all there is
	left := map[int]int{0: 1, 1: 4, 2: 3} // what is free
	enough := func(of map[int]int, n int) func(Nodes) bool {
		return func(nodes Nodes) bool {
			sum := 0
			for _, id := range nodes.List() {
				sum += of[id]
			}
			return sum >= n
		}
	}
	tests := map[string]struct {
		n    int
		want []Hint
	}{
		"a node that can is preferred":         {n: 4, want: []Hint{{2, true}, {3, false}, {5, false}, {6, false}, {7, false}}},
		"two nodes are, where one never could": {n: 5, want: []Hint{{3, true}, {6, true}, {7, false}}},
		"more than is free":                    {n: 9},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, Hints(7, enough(has, tc.n), enough(left, tc.n))); diff != "" {
				t.Errorf("Hints() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestNodesInFiles(t *testing.T) {
	text, err := json.Marshal([]Nodes{Of(0, 1, 3), 0})
	if err != nil || string(text) != `["0-1,3",""]` {
		t.Fatalf("Marshal() = %s, %v", text, err)
	}
	var back []Nodes
	if err := json.Unmarshal(text, &back); err != nil || back[0] != Of(0, 1, 3) || back[1] != 0 {
		t.Errorf("Unmarshal() = %v, %v", back, err)
	}
	if err := json.Unmarshal([]byte(`["64"]`), &back); err == nil {
		t.Error("a node that cannot be in a set was read")
	}
}
