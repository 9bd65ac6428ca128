// Package firewall has a machine's own firewall let the packets of pods pass.
//
// In:       base chains that others made: iptables, Docker, ufw, firewalld, an administrator's rules.
// Out:      at the top of those that drop what they do not know, rules that accept what comes in or goes out by our links.
// Promise:  every such rule carries our comment; Remove takes all of them away, and nothing else of others' is touched.
// Not here: rules of our own tables. What one base chain accepts, others still judge: network policies hold all the same.
//
// In nftables a packet has to be accepted by every base chain of a hook, so no table of ours could speak for it. The older
// ip_tables (iptables.go) are one more of these, with chains of the same names.
package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sync/errgroup"

	"knarr.dev/knarr/netstack/nft"
	"knarr.dev/knarr/netstack/xt"
)

// comment is how our rules are known, by people and by Remove.
const comment = "knarr: pods"

// links is how the names of all links of ours begin that packets of pods are routed by.
const links = "knarr"

// pause is between two passes: some firewalls change their rules many times a second.
const pause = time.Second

// Firewall is the component.
type Firewall struct {
	log      *slog.Logger
	nftables bool          // the kernel has them
	kick     chan struct{} // others changed theirs
	look     chan struct{} // it is time to see whether others changed ip_tables, of which the kernel tells nobody
	sizes    xt.Changed
	blind    bool // it was said already that ip_tables cannot be seen
}

// New is idle until Run.
func New(log *slog.Logger) *Firewall {
	return &Firewall{log: log, kick: make(chan struct{}, 1), look: make(chan struct{}, 1), sizes: xt.Changed{}}
}

// Name of the component.
func (f *Firewall) Name() string { return "firewall" }

// Run looks again whenever others change their rules. What it put there stays when it ends.
func (f *Firewall) Run(ctx context.Context, ready func()) error {
	group, ctx := errgroup.WithContext(ctx)
	wake := func(what chan struct{}) func() {
		return func() {
			select {
			case what <- struct{}{}:
			default: // the pass that is due will see this change too
			}
		}
	}
	if f.nftables = nft.Available() == nil; f.nftables {
		events, err := nft.OpenOthersEvents()
		if err != nil {
			return err
		}
		group.Go(func() error { return events.Run(ctx, func(nft.Event) { wake(f.kick)() }, wake(f.kick)) })
		f.pass()
	}
	f.passTables()
	ready()
	group.Go(func() error { return xt.Watch(ctx, wake(f.look)) })
	group.Go(func() error { return f.follow(ctx) })
	return group.Wait()
}

func (f *Firewall) follow(ctx context.Context) error {
	for {
		select {
		case <-f.kick:
			f.pass()
		case <-f.look:
			f.passTables()
		case <-ctx.Done():
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// pass is about nftables.
func (f *Firewall) pass() {
	opened, err := settle(wanted)
	f.report(opened, err)
}

// passTables is about ip_tables, if anybody changed those.
func (f *Firewall) passTables() {
	changed := false
	for _, v6 := range []bool{false, true} {
		changed = slices.Contains(xt.InUse(v6), filter) && f.sizes.Look(xt.Place{V6: v6, Table: filter}) || changed
	}
	if !changed {
		return
	}
	opened, err := settleTables(wantedInTables)
	if len(opened) > 0 {
		clear(f.sizes) // a table that is emptied before the next look would be as large as it was
	}
	if errors.Is(err, xt.ErrNoProgram) {
		if f.blind {
			return
		}
		f.blind = true
	}
	f.report(opened, err)
}

func (f *Firewall) report(opened []string, err error) {
	for _, chain := range opened {
		f.log.Info("a firewall on this machine drops what it does not know; pods' packets pass it now", "component", f.Name(), "chain", chain)
	}
	if err != nil {
		f.log.Warn("a firewall on this machine may drop packets of pods: have it accept what comes in and goes out by links "+links+"*",
			"component", f.Name(), "error", err)
	}
}

// Remove takes our rules out of everybody's chains. None there is fine.
func Remove() error {
	var errs []error
	if nft.Available() == nil {
		_, err := settle(func(rules) bool { return false })
		errs = append(errs, err)
	}
	if _, err := settleTables(func(string, []string) bool { return false }); !errors.Is(err, xt.ErrNoProgram) { // nor was it there to write
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// rules are what is to be decided about: one base chain of somebody else's.
type rules struct {
	drops bool // what no rule decides
	all   [][]expr.Any
}

// wanted tells whether a chain drops what it does not know: by its policy, or by a last rule that spares nothing.
func wanted(r rules) bool {
	if r.drops {
		return true
	}
	if len(r.all) == 0 {
		return false
	}
	ends := false
	for _, e := range r.all[len(r.all)-1] {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Verdict:
			ends = e.Kind == expr.VerdictDrop
		case *expr.Reject:
			ends = true
		default:
			return false // it asks something first
		}
	}
	return ends
}

// settle gives every base chain of others our rules if it wants them, and takes them away else.
func settle(wants func(rules) bool) (opened []string, err error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("open nftables: %w", err)
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	var errs []error
	for _, chain := range chains {
		ours := passes(chain)
		if ours == nil || nft.Ours(chain.Table.Name) {
			continue
		}
		changed, err := settleChain(conn, chain, ours, wants)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // it went while we looked
			errs = append(errs, fmt.Errorf("chain %s of table %s: %w", chain.Name, chain.Table.Name, err))
		}
		if changed {
			opened = append(opened, chain.Table.Name+" "+chain.Name)
		}
	}
	return opened, errors.Join(errs...)
}

// passes are the rules that a base chain needs for pods; nil if it is none that could drop their packets.
func passes(c *nftables.Chain) [][]expr.Any {
	routed := []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6, nftables.TableFamilyINet}
	if c.Hooknum == nil || c.Type != nftables.ChainTypeFilter || !slices.Contains(routed, c.Table.Family) {
		return nil
	}
	in, out := link(expr.MetaKeyIIFNAME), link(expr.MetaKeyOIFNAME)
	switch *c.Hooknum {
	case *nftables.ChainHookForward:
		return [][]expr.Any{in, out}
	case *nftables.ChainHookInput: // to this node: the cluster's DNS, its API
		return [][]expr.Any{in}
	case *nftables.ChainHookOutput:
		return [][]expr.Any{out}
	}
	return nil
}

// link accepts what has one of our links. It is put as iptables-nft would put it, which then can list it.
func link(key expr.MetaKey) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(links)}, // the beginning of a name
		&expr.Counter{},
		nft.Verdict(expr.VerdictAccept, ""),
	}
}

func settleChain(conn *nftables.Conn, chain *nftables.Chain, ours [][]expr.Any, wants func(rules) bool) (opened bool, err error) {
	present, err := conn.GetRules(chain.Table, chain)
	if err != nil {
		return false, fmt.Errorf("list rules: %w", err)
	}
	r := rules{drops: chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop}
	var marked []*nftables.Rule
	for _, rule := range present {
		if text, _ := userdata.GetString(rule.UserData, userdata.TypeComment); text == comment {
			marked = append(marked, rule)
			continue
		}
		r.all = append(r.all, rule.Exprs)
	}
	want := wants(r)
	if want && len(marked) == len(ours) || !want && len(marked) == 0 {
		return false, nil
	}
	for _, rule := range marked {
		if err := conn.DelRule(rule); err != nil {
			return false, err
		}
	}
	if want {
		for _, exprs := range ours {
			conn.InsertRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: exprs, UserData: userdata.AppendString(nil, userdata.TypeComment, comment)})
		}
	}
	if err := conn.Flush(); err != nil {
		return false, fmt.Errorf("change rules: %w", err)
	}
	return want, nil
}
