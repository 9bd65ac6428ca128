// Package xt is what the owners of chains in ip_tables share, where the kernel has no nftables.
//
// In:       what an owner wants of each table, as a value, in the words of iptables-restore; the programs iptables-legacy and,
// where pods have IPv6, ip6tables-legacy.
// Out:      for each family one run of iptables-restore with what differs; each table of it changes in one step.
// Promise:  an owner touches chains whose names begin with its own name, and in the kernel's own chains only rules that lead
// there. Nothing is written when nothing differs, and no program is run while nobody changes anything.
// Not here: what the rules say (netstack/proxy, netstack/podnet, netstack/policy).
//
// # Why both programs
//
// The kernel takes and gives ip_tables only whole, so a change of one rule costs as much as one of a thousand, and a list of
// changes has to go in one transaction, or packets meet half of it. github.com/coreos/go-iptables runs one program for each
// rule: it finds the program and its version here, and puts single rules into others' chains (netstack/firewall).
package xt

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Interval is how often tables are looked at: ip_tables tell nobody that they were changed. A look is one system call.
const Interval = 10 * time.Second

// Place is one table of one family.
type Place struct {
	V6    bool
	Table string // nat, filter, mangle
}

// Rules are what an owner has in one table.
type Rules struct {
	Hooks  []Hook              // at the top of the kernel's own chains, in this order
	Chains map[string][]string // of the owner, by name: "-s 10.42.0.9 -j DROP"
}

// Hook is a rule in one of the kernel's own chains that leads to a chain of the owner.
type Hook struct{ Chain, Rule string }

func (r Rules) empty() bool { return len(r.Hooks)+len(r.Chains) == 0 }

// Owner writes the chains of one name.
type Owner struct {
	name     string
	programs map[bool]*Program

	mu    sync.Mutex
	has   map[Place]Rules // as installed; a place of which nothing is known is not there
	sizes map[Place]size  // when what is installed was last seen to be there
}

// Open finds the programs for the families. All chains of an owner begin with its name.
func Open(name string, families ...bool) (*Owner, error) {
	o := &Owner{name: name, programs: map[bool]*Program{}, has: map[Place]Rules{}, sizes: map[Place]size{}}
	for _, v6 := range families {
		p, err := Find(v6)
		if err != nil {
			return nil, err
		}
		o.programs[v6] = p
	}
	return o, nil
}

// Name is what a chain or set of an owner is called for something with a longer name: the kernel takes 28 characters.
func Name(owner, of string) string {
	sum := sha256.Sum256([]byte(of))
	return owner + "-" + base32.StdEncoding.EncodeToString(sum[:10])
}

// Forget what is installed: the next Commit writes everything.
func (o *Owner) Forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.has)
}

// Commit makes the owner's part of every place in want what it says.
func (o *Owner) Commit(want map[Place]Rules) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for v6, program := range o.programs {
		var text strings.Builder
		var changed []Place
		for _, place := range inOrder(want) {
			if place.V6 != v6 {
				continue
			}
			has, known := o.has[place]
			if !known {
				there, err := program.read(place.Table)
				if err != nil {
					return err
				}
				has = there.of(o.name)
			}
			lines := difference(has, want[place], known)
			if len(lines) == 0 {
				o.has[place] = want[place]
				continue
			}
			changed = append(changed, place)
			fmt.Fprintf(&text, "*%s\n%s\nCOMMIT\n", place.Table, strings.Join(lines, "\n"))
		}
		if len(changed) == 0 {
			continue
		}
		for _, place := range changed {
			delete(o.has, place) // until the kernel has agreed
		}
		if err := program.restore(text.String()); err != nil {
			return err
		}
		for _, place := range changed {
			o.has[place] = want[place]
			delete(o.sizes, place) // of what is read: somebody may have been here already
		}
	}
	return nil
}

// Intact tells whether what was installed is still there, and before everybody else's rules.
func (o *Owner) Intact() (bool, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for place, want := range o.has {
		if want.empty() {
			continue
		}
		now, err := sizeOf(place)
		if err != nil {
			return false, err
		}
		if now == o.sizes[place] {
			continue
		}
		there, err := o.programs[place.V6].read(place.Table)
		if err != nil {
			return false, err
		}
		if !there.hold(want, o.name) {
			return false, nil
		}
		o.sizes[place] = now
	}
	return true, nil
}

// Watch calls look every Interval until ctx ends.
func Watch(ctx context.Context, look func()) error {
	ticks := time.NewTicker(Interval)
	defer ticks.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticks.C:
			look()
		}
	}
}

// Remove takes away everything of an owner. Where no tables are in use nothing is, and without the program nothing was written.
func Remove(name string) error {
	var errs []error
	for _, v6 := range []bool{false, true} {
		tables := InUse(v6)
		if len(tables) == 0 {
			continue
		}
		program, err := Find(v6)
		if errors.Is(err, ErrNoProgram) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		o := &Owner{name: name, programs: map[bool]*Program{v6: program}, has: map[Place]Rules{}, sizes: map[Place]size{}}
		nothing := map[Place]Rules{}
		for _, table := range tables {
			nothing[Place{v6, table}] = Rules{}
		}
		errs = append(errs, o.Commit(nothing))
	}
	return errors.Join(errs...)
}

// difference is what iptables-restore has to be told. Chains are made or emptied first, so that rules find them, and go
// last, when no rule leads there any more. Of what was read, only the names are compared: the kernel words rules anew.
func difference(has, want Rules, known bool) []string {
	var lines, rules []string
	for _, name := range slices.Sorted(maps.Keys(want.Chains)) {
		if before, there := has.Chains[name]; known && there && slices.Equal(before, want.Chains[name]) {
			continue
		}
		lines = append(lines, ":"+name+" - [0:0]")
		for _, rule := range want.Chains[name] {
			rules = append(rules, "-A "+name+" "+rule)
		}
	}
	lines = append(lines, rules...)
	if !known || !slices.Equal(has.Hooks, want.Hooks) {
		for _, hook := range has.Hooks {
			lines = append(lines, "-D "+hook.Chain+" "+hook.Rule)
		}
		for _, hook := range slices.Backward(want.Hooks) {
			lines = append(lines, "-I "+hook.Chain+" 1 "+hook.Rule)
		}
	}
	var gone []string
	for _, name := range slices.Sorted(maps.Keys(has.Chains)) {
		if _, stays := want.Chains[name]; !stays {
			lines = append(lines, "-F "+name)
			gone = append(gone, "-X "+name)
		}
	}
	return append(lines, gone...)
}

// inOrder is by table; families have programs of their own.
func inOrder(of map[Place]Rules) []Place {
	return slices.SortedFunc(maps.Keys(of), func(a, b Place) int { return cmp.Compare(a.Table, b.Table) })
}
