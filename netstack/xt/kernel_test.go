package xt

import (
	"os"
	"slices"
	"strings"
	"testing"

	"knarr.dev/knarr/netstack/netlab"
)

func TestMain(m *testing.M) { os.Exit(netlab.Main(m)) }

func TestOwnersDoNotSeeEachOther(t *testing.T) {
	netlab.NeedKernel(t)
	if err := Probe(false, true); err != nil {
		t.Skip(err)
	}
	names := []string{"KNARR-T", "KNARR-TOO"}
	t.Cleanup(func() {
		for _, name := range names {
			netlab.Check(t, Remove(name))
		}
	})
	rules := func(owner string, drop ...string) map[Place]Rules {
		want := map[Place]Rules{}
		for _, place := range []Place{{false, "nat"}, {false, "mangle"}, {true, "mangle"}} {
			r := Rules{Hooks: []Hook{{"OUTPUT", "-j " + owner}}, Chains: map[string][]string{owner: {"-j RETURN"}}}
			for _, name := range drop {
				r.Chains[owner+"-"+name] = nil
			}
			want[place] = r
		}
		return want
	}
	whole := func(o *Owner, want bool) {
		t.Helper()
		if got, err := o.Intact(); err != nil || got != want {
			t.Errorf("%s is intact: %v, %v; want %v", o.name, got, err, want)
		}
	}
	owner := func(name string) *Owner {
		t.Helper()
		o, err := Open(name, false, true)
		netlab.Check(t, err)
		return o
	}
	one, two := owner(names[0]), owner(names[1])
	for range 2 { // the second time there is nothing to do
		netlab.Check(t, one.Commit(rules(names[0], "A", "B")))
		netlab.Check(t, two.Commit(rules(names[1])))
	}
	whole(one, true) // two came before it since
	whole(two, true)

	again := owner(names[0]) // of another process, which wants less
	netlab.Check(t, again.Commit(rules(names[0], "B")))
	whole(again, true)
	whole(two, true)
	whole(one, false)

	program, err := Find(false)
	netlab.Check(t, err)
	netlab.Check(t, program.ClearChain("nat", "OUTPUT"))
	whole(again, false)
	whole(two, false)
	again.Forget()
	netlab.Check(t, again.Commit(rules(names[0])))
	whole(again, true)

	netlab.Check(t, Remove(names[0]))
	netlab.Check(t, Remove(names[0])) // nothing there is fine
	whole(again, false)
	two.Forget()
	netlab.Check(t, two.Commit(rules(names[1])))
	whole(two, true)
	for _, table := range InUse(false) {
		chains, _, err := program.Dump(table)
		netlab.Check(t, err)
		for name, list := range chains {
			if belongs(name, names[0]) || slices.ContainsFunc(list, func(rule string) bool { return belongs(Target(rule), names[0]) }) {
				t.Errorf("%s: chain %s is left, with %v", table, name, list)
			}
		}
	}
}

func TestAnErrorSaysWhatTheProgramSaid(t *testing.T) {
	netlab.NeedKernel(t)
	o, err := Open("KNARR-T", false)
	if err != nil {
		t.Skip(err)
	}
	want := map[Place]Rules{{false, "nat"}: {Chains: map[string][]string{"KNARR-T": {"-j NOWHERE"}}}}
	if err := o.Commit(want); err == nil || !strings.Contains(err.Error(), "NOWHERE") {
		t.Errorf("a rule to nowhere: %v", err)
	}
	netlab.Check(t, o.Commit(map[Place]Rules{{false, "nat"}: {}}))
}
