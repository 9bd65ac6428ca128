package proxy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
)

func serviceKey(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "shop", Name: name}
}

func udp(port uint16) Frontend {
	return Frontend{Addr: netip.MustParseAddr("10.43.0.1"), Proto: 17, Port: port}
}

func TestApply(t *testing.T) {
	f, g := tcp("10.43.0.1", 80), tcp("10.43.0.2", 80)
	one, two := Chain{Pool: pool("10.42.0.1:80")}, Chain{Pool: pool("10.42.0.1:80", "10.42.0.2:80")}
	early, late := time.Unix(1, 0), time.Unix(2, 0)
	loop := netip.MustParseAddr("10.42.0.1")
	a, b := serviceKey("a"), serviceKey("b")
	type plans = map[types.NamespacedName]Plan
	cases := map[string]struct {
		before, now plans
		want        Change
	}{
		"a new service is added": {
			now: plans{a: {Frontends: map[Frontend]string{f: "x"}, Chains: map[string]Chain{"x": one}, Loops: []netip.Addr{loop}}},
			want: Change{
				Add: map[string]Chain{"x": one}, Frontends: map[Frontend]Move{f: {To: "x"}}, Loops: map[netip.Addr]bool{loop: true},
			},
		},
		"the same again changes nothing": {
			before: plans{a: {Frontends: map[Frontend]string{f: "x"}, Chains: map[string]Chain{"x": one}, Loops: []netip.Addr{loop}}},
			now:    plans{a: {Frontends: map[Frontend]string{f: "x"}, Chains: map[string]Chain{"x": one}, Loops: []netip.Addr{loop}}},
		},
		"another endpoint touches one chain only": {
			before: plans{
				a: {Frontends: map[Frontend]string{f: "x"}, Chains: map[string]Chain{"x": one}},
				b: {Frontends: map[Frontend]string{g: "y"}, Chains: map[string]Chain{"y": one}},
			},
			now:  plans{a: {Frontends: map[Frontend]string{f: "x"}, Chains: map[string]Chain{"x": two}}},
			want: Change{Set: map[string][2]Chain{"x": {one, two}}},
		},
		"the last endpoint goes": {
			before: plans{a: {Frontends: map[Frontend]string{f: "x"}, Chains: map[string]Chain{"x": one}, Loops: []netip.Addr{loop}}},
			now:    plans{a: {Frontends: map[Frontend]string{f: targetReject}}},
			want: Change{
				Drop: map[string]Chain{"x": one}, Frontends: map[Frontend]Move{f: {From: "x", To: targetReject}}, Loops: map[netip.Addr]bool{loop: false},
			},
		},
		"a service goes": {
			before: plans{a: {Frontends: map[Frontend]string{f: "x"}, Chains: map[string]Chain{"x": one}}},
			now:    plans{a: {}},
			want:   Change{Drop: map[string]Chain{"x": one}, Frontends: map[Frontend]Move{f: {From: "x"}}},
		},
		"an address passes from one service to another at once": {
			before: plans{a: {Frontends: map[Frontend]string{f: "x"}}},
			now:    plans{a: {}, b: {Frontends: map[Frontend]string{f: "y"}}},
			want:   Change{Frontends: map[Frontend]Move{f: {From: "x", To: "y"}}},
		},
		"a younger service does not take an address": {
			before: plans{b: {Created: early, Frontends: map[Frontend]string{f: "y"}}},
			now:    plans{a: {Created: late, Frontends: map[Frontend]string{f: "x"}}},
		},
		"but gets it when the older one goes": {
			before: plans{b: {Created: early, Frontends: map[Frontend]string{f: "y"}}, a: {Created: late, Frontends: map[Frontend]string{f: "x"}}},
			now:    plans{b: {}},
			want:   Change{Frontends: map[Frontend]Move{f: {From: "y", To: "x"}}},
		},
		"an endpoint of two services stays while one has it": {
			before: plans{
				a: {Frontends: map[Frontend]string{f: "x"}, Loops: []netip.Addr{loop}},
				b: {Frontends: map[Frontend]string{g: "y"}, Loops: []netip.Addr{loop}},
			},
			now:  plans{a: {}},
			want: Change{Frontends: map[Frontend]Move{f: {From: "x"}}},
		},
		"UDP flows to a lost endpoint are dropped": {
			before: plans{a: {Frontends: map[Frontend]string{udp(53): "x"}, Live: map[Frontend][]netip.AddrPort{udp(53): pool("10.42.0.1:53", "10.42.0.2:53")}}},
			now:    plans{a: {Frontends: map[Frontend]string{udp(53): "x"}, Live: map[Frontend][]netip.AddrPort{udp(53): pool("10.42.0.2:53")}}},
			want:   Change{Flows: map[Frontend][]netip.AddrPort{udp(53): pool("10.42.0.2:53")}},
		},
		"UDP flows from before the first endpoint are dropped": {
			before: plans{a: {Frontends: map[Frontend]string{udp(53): "x"}, Live: map[Frontend][]netip.AddrPort{udp(53): nil}}},
			now:    plans{a: {Frontends: map[Frontend]string{udp(53): "x"}, Live: map[Frontend][]netip.AddrPort{udp(53): pool("10.42.0.2:53")}}},
			want:   Change{Flows: map[Frontend][]netip.AddrPort{udp(53): pool("10.42.0.2:53")}},
		},
		"UDP flows stay when an endpoint is added": {
			before: plans{a: {Frontends: map[Frontend]string{udp(53): "x"}, Live: map[Frontend][]netip.AddrPort{udp(53): pool("10.42.0.1:53")}}},
			now:    plans{a: {Frontends: map[Frontend]string{udp(53): "x"}, Live: map[Frontend][]netip.AddrPort{udp(53): pool("10.42.0.1:53", "10.42.0.2:53")}}},
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			table := newTable()
			table.apply(tc.before)
			if diff := cmp.Diff(tc.want, table.apply(tc.now), same...); diff != "" {
				t.Errorf("apply() (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDifferencesAddUp checks the promise behind every incremental change: whatever happened before, what the kernel was
// told in pieces is what it would be told at once.
func TestDifferencesAddUp(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	incremental, told := newTable(), newChange()
	for range 2000 {
		batch := map[types.NamespacedName]Plan{}
		for range 1 + random.IntN(3) {
			name := fmt.Sprint("s", random.IntN(8))
			p := Plan{Created: time.Unix(int64(random.IntN(3)), 0), Frontends: map[Frontend]string{}, Chains: map[string]Chain{}}
			for range random.IntN(3) {
				chain := fmt.Sprint(name, "/", random.IntN(2))
				p.Chains[chain] = Chain{Pool: pool(fmt.Sprintf("10.42.0.%d:80", 1+random.IntN(3)))}
				p.Frontends[tcp("203.0.113.1", uint16(random.IntN(4)))] = chain
				p.Loops = []netip.Addr{netip.AddrFrom4([4]byte{10, 42, 0, byte(random.IntN(3))})}
			}
			batch[serviceKey(name)] = p
		}
		c := incremental.apply(batch)
		play(t, &told, c)
		if diff := cmp.Diff(incremental.all(), told, same...); diff != "" {
			t.Fatalf("state in pieces differs from the state at once (-at once +in pieces):\n%s", diff)
		}
	}
}

// play does to a state what the kernel does with a change, and is as strict.
func play(t *testing.T, state *Change, c Change) {
	t.Helper()
	for name, chain := range c.Add {
		if _, exists := state.Add[name]; exists {
			t.Fatalf("chain %s added twice", name)
		}
		state.Add[name] = chain
	}
	for name, chain := range c.Set {
		if old, exists := state.Add[name]; !exists || !old.equal(chain[0]) {
			t.Fatalf("chain %s is not what the change believes", name)
		}
		state.Add[name] = chain[1]
	}
	for f, move := range c.Frontends {
		if state.Frontends[f].To != move.From {
			t.Fatalf("frontend %v goes to %q, not %q", f, state.Frontends[f].To, move.From)
		}
		if move.To == "" {
			delete(state.Frontends, f)
			continue
		}
		state.Frontends[f] = Move{To: move.To}
	}
	for name := range c.Drop {
		if _, exists := state.Add[name]; !exists {
			t.Fatalf("chain %s dropped that is not there", name)
		}
		delete(state.Add, name)
	}
	for f, move := range state.Frontends {
		if _, exists := state.Add[move.To]; !exists {
			t.Fatalf("frontend %v goes to chain %q, which is gone", f, move.To)
		}
	}
	for addr, add := range c.Loops {
		if state.Loops[addr] == add {
			t.Fatalf("loop %s set to %v twice", addr, add)
		}
		state.Loops[addr] = add
	}
	maps.DeleteFunc(state.Loops, func(_ netip.Addr, there bool) bool { return !there })
}
