package proxy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// table is the wanted state of the kernel: every Service's plan, and who gets what two of them want.
type table struct {
	plans  map[types.NamespacedName]Plan
	claims map[Frontend][]types.NamespacedName // the first one has it
	loops  map[netip.Addr]int                  // by how many Services
}

// Change is a difference between two states of the table, and becomes one transaction.
type Change struct {
	Add  map[string]Chain    // chains that did not exist
	Set  map[string][2]Chain // chains with other contents: before and after
	Drop map[string]Chain    // chains to remove

	Frontends map[Frontend]Move
	Loops     map[netip.Addr]bool // true: add; false: remove

	// Flows are UDP frontends whose endpoints changed, with the endpoints that remain. The kernel remembers flows to the
	// others, and would keep sending a client that never falls silent to where nobody is.
	Flows map[Frontend][]netip.AddrPort
}

// Move is a frontend's target before and after; "" for none.
type Move struct{ From, To string }

func newTable() *table {
	return &table{
		plans:  map[types.NamespacedName]Plan{},
		claims: map[Frontend][]types.NamespacedName{},
		loops:  map[netip.Addr]int{},
	}
}

func newChange() Change {
	return Change{
		Add: map[string]Chain{}, Set: map[string][2]Chain{}, Drop: map[string]Chain{},
		Frontends: map[Frontend]Move{}, Loops: map[netip.Addr]bool{}, Flows: map[Frontend][]netip.AddrPort{},
	}
}

// empty tells that the kernel has nothing to do.
func (c Change) empty() bool {
	return len(c.Add)+len(c.Set)+len(c.Drop)+len(c.Frontends)+len(c.Loops) == 0
}

// apply takes new plans in and returns what they change. A plan without frontends removes its Service.
func (t *table) apply(plans map[types.NamespacedName]Plan) Change {
	c := newChange()
	targets := map[Frontend]string{} // of everything touched, before
	loops := map[netip.Addr]int{}
	touch := func(p Plan) {
		for f := range p.Frontends {
			targets[f] = t.target(f)
		}
		for _, addr := range p.Loops {
			loops[addr] = t.loops[addr]
		}
	}
	for key, after := range plans {
		touch(t.plans[key])
		touch(after)
	}
	for _, key := range slices.SortedFunc(maps.Keys(plans), compareKeys) {
		before, after := t.plans[key], plans[key]
		c.chains(before.Chains, after.Chains)
		c.flows(before.Live, after.Live)
		t.replace(key, before, after)
	}
	for f, before := range targets {
		if after := t.target(f); after != before {
			c.Frontends[f] = Move{From: before, To: after}
		}
	}
	for addr, before := range loops {
		if after := t.loops[addr]; (after > 0) != (before > 0) {
			c.Loops[addr] = after > 0
		}
		if t.loops[addr] == 0 {
			delete(t.loops, addr)
		}
	}
	return c
}

// all is the change from an empty kernel to the wanted state.
func (t *table) all() Change {
	c := newChange()
	for _, p := range t.plans {
		maps.Copy(c.Add, p.Chains)
	}
	for f := range t.claims {
		c.Frontends[f] = Move{To: t.target(f)}
	}
	for addr := range t.loops {
		c.Loops[addr] = true
	}
	return c
}

// target is where connections to f go now.
func (t *table) target(f Frontend) string {
	holders := t.claims[f]
	if len(holders) == 0 {
		return ""
	}
	return t.plans[holders[0]].Frontends[f]
}

func (t *table) replace(key types.NamespacedName, before, after Plan) {
	for f := range before.Frontends {
		if rest := slices.DeleteFunc(t.claims[f], func(k types.NamespacedName) bool { return k == key }); len(rest) > 0 {
			t.claims[f] = rest
		} else {
			delete(t.claims, f)
		}
	}
	for _, addr := range before.Loops {
		t.loops[addr]--
	}
	if len(after.Frontends) == 0 && len(after.Chains) == 0 {
		delete(t.plans, key)
		return
	}
	t.plans[key] = after
	for f := range after.Frontends {
		t.claims[f] = append(t.claims[f], key)
		slices.SortFunc(t.claims[f], func(a, b types.NamespacedName) int {
			return cmp.Or(t.plans[a].Created.Compare(t.plans[b].Created), compareKeys(a, b))
		})
	}
	for _, addr := range after.Loops {
		t.loops[addr]++
	}
}

// chains belong to one Service alone, so its own before and after say it all.
func (c Change) chains(before, after map[string]Chain) {
	for name, chain := range after {
		switch old, existed := before[name]; {
		case !existed:
			c.Add[name] = chain
		case !old.equal(chain):
			c.Set[name] = [2]Chain{old, chain}
		}
	}
	for name, chain := range before {
		if _, stays := after[name]; !stays {
			c.Drop[name] = chain
		}
	}
}

// flows notes UDP frontends that lost an endpoint, or got their first one: before that, clients talked to nobody.
func (c Change) flows(before, after map[Frontend][]netip.AddrPort) {
	for f, live := range before {
		lost := slices.ContainsFunc(live, func(a netip.AddrPort) bool { return !has(after[f], a) })
		if lost || len(live) == 0 && len(after[f]) > 0 {
			c.Flows[f] = after[f]
		}
	}
	for f, live := range after {
		if _, existed := before[f]; !existed {
			c.Flows[f] = live
		}
	}
}

// has searches a sorted pool.
func has(pool []netip.AddrPort, addr netip.AddrPort) bool {
	_, found := slices.BinarySearchFunc(pool, addr, netip.AddrPort.Compare)
	return found
}

func compareKeys(a, b types.NamespacedName) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
