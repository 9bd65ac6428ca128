package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"knarr.dev/knarr/netstack/nft"
	"knarr.dev/knarr/netstack/xt"
)

// Where the kernel has no nftables, the same rules become chains of ip_tables. For each family, in the table mangle:
//
//	FORWARD, INPUT   KNARR-POL-OUT    new connections only: sender -> chain of a local pod that a policy selects for egress
//	FORWARD          KNARR-POL-IN     the same again for whom it is for
//	                 KNARR-POL-XXXX   of all pods with the same policies: what any of them allows goes back, the rest is dropped
//
// The table is mangle because what a rule of filter accepts no other rule of filter sees any more, and a machine's firewall
// may accept what it likes there. For the same reason nothing is accepted here: a packet that may pass goes back to where it
// came from, and on to other people's rules. That takes the policies of a pod in one chain, not in a chain each.
//
// Pods are named by sets (ipset), by which a pod that comes or goes changes no rule.
const (
	ownerName = "KNARR-POL"
	chainOut  = ownerName + "-OUT"
	chainIn   = ownerName + "-IN"
)

var protocolNames = map[uint8]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_SCTP: "sctp"}

// tables is a kernel with ip_tables.
type tables struct {
	owner    *xt.Owner
	families []nft.Family
	sets     map[string]ipset // as installed; nil if that is not known
}

func openTables(families []nft.Family) (*tables, error) {
	t := &tables{families: families}
	var v6 []bool
	for _, f := range families {
		v6 = append(v6, f.V6)
	}
	var err error
	if t.owner, err = xt.Open(ownerName, v6...); err != nil {
		return nil, err
	}
	return t, nil
}

func (t *tables) close() error { return nil }

// commit makes the tables what rules say. Sets are there before the rules that name them, and go after those.
func (t *tables) commit(rules Rules) error {
	want, sets := render(rules, t.families)
	has := t.sets
	t.sets = nil // until the kernel has agreed
	if has == nil {
		var err error
		if has, err = readSets(); err != nil && len(sets) > 0 {
			return err
		}
	}
	if err := settleSets(has, sets); err != nil {
		return err
	}
	if err := t.owner.Commit(want); err != nil {
		return fmt.Errorf("write the policy rules: %w", err)
	}
	if err := dropSets(has, sets); err != nil {
		return err
	}
	t.sets = sets
	return nil
}

// doubt looks whether what was installed is there.
func (t *tables) doubt() bool {
	whole, err := t.owner.Intact()
	if err == nil && whole && len(t.sets) > 0 {
		var there map[string]ipset
		if there, err = readSets(); err == nil {
			whole = maps.EqualFunc(t.sets, there, ipset.equal)
		}
	}
	if err != nil || whole { // what cannot be seen is looked at again
		return false
	}
	t.owner.Forget()
	t.sets = nil
	return true
}

// render puts rules into iptables' words.
func render(rules Rules, families []nft.Family) (map[xt.Place]xt.Rules, map[string]ipset) {
	want, sets := map[xt.Place]xt.Rules{}, map[string]ipset{}
	for _, f := range families {
		place := xt.Place{V6: f.V6, Table: "mangle"}
		if len(rules.Chains) == 0 {
			want[place] = xt.Rules{}
			continue
		}
		w := writer{family: f, rules: rules, sets: sets, chains: map[string][]string{}}
		w.dispatch(chainOut, rules.Egress, "-s %[1]s ! -d %[1]s -j %[2]s") // no pod is kept from itself
		w.dispatch(chainIn, rules.Ingress, "-d %[1]s ! -s %[1]s -j %[2]s")
		want[place] = xt.Rules{Chains: w.chains, Hooks: []xt.Hook{
			{Chain: "FORWARD", Rule: "-j " + chainOut}, {Chain: "FORWARD", Rule: "-j " + chainIn}, {Chain: "INPUT", Rule: "-j " + chainOut},
		}}
	}
	return want, sets
}

// writer writes the rules of one family.
type writer struct {
	family nft.Family
	rules  Rules
	sets   map[string]ipset
	chains map[string][]string
}

// dispatch leads the packets of local pods to their chains.
func (w writer) dispatch(name string, pods map[netip.Addr]string, rule string) {
	// Answers, and what was allowed when it began, go on.
	list := []string{"-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"}
	if w.family.V6 {
		for kind := 133; kind <= 137; kind++ { // neighbour discovery: IPv6's ARP
			list = append(list, fmt.Sprintf("-p icmpv6 -m icmp6 --icmpv6-type %d -j RETURN", kind))
		}
	}
	for _, address := range slices.SortedFunc(maps.Keys(pods), netip.Addr.Compare) {
		if address.Is6() != w.family.V6 {
			continue
		}
		chain := xt.Name(ownerName, pods[address])
		list = append(list, fmt.Sprintf(rule, address, chain))
		w.chains[chain] = w.pod(w.rules.Chains[pods[address]])
	}
	w.chains[name] = list
}

// pod is the chain of pods with the same policies.
func (w writer) pod(steps []Step) (list []string) {
	for _, s := range steps {
		switch {
		case s.Jump != "":
			list = append(list, w.pod(w.rules.Chains[s.Jump])...)
		case s.Drop:
			list = append(list, "-j DROP")
		case !s.Block.IsValid() || s.Block.Addr().Is6() == w.family.V6:
			list = append(list, w.allow(s))
		}
	}
	return list
}

// allow sends back what a step allows.
func (w writer) allow(s Step) string {
	var words []string
	option, peer := "-s", "src"
	if s.Out {
		option, peer = "-d", "dst"
	}
	if s.Block.IsValid() {
		words = append(words, option+" "+s.Block.String())
	}
	if s.Protocol != 0 {
		words = append(words, "-p "+protocolNames[s.Protocol])
	}
	switch {
	case s.To == 0:
	case s.From == s.To:
		words = append(words, fmt.Sprintf("-m %s --dport %d", protocolNames[s.Protocol], s.To))
	default:
		words = append(words, fmt.Sprintf("-m %s --dport %d:%d", protocolNames[s.Protocol], s.From, s.To))
	}
	if len(s.Except) > 0 {
		words = append(words, "-m set ! --match-set "+w.except(s.Except)+" "+peer)
	}
	if s.Set != "" {
		if s.Named {
			peer += ",dst" // a port of whom it is for
		}
		words = append(words, "-m set --match-set "+w.set(s)+" "+peer)
	}
	return strings.Join(append(words, "-j RETURN"), " ")
}

// set is the name of the set of a step's peers in this family.
func (w writer) set(s Step) string {
	set := ipset{kind: "hash:ip", v6: w.family.V6, members: map[member]bool{}}
	for m := range w.rules.Sets[s.Set].Members {
		switch {
		case m.Addr.Is6() != w.family.V6:
		case s.Named:
			set.members[member{netip.PrefixFrom(m.Addr, m.Addr.BitLen()), s.Protocol, m.Port}] = true
		default:
			set.members[member{prefix: netip.PrefixFrom(m.Addr, m.Addr.BitLen())}] = true
		}
	}
	if s.Named {
		set.kind = "hash:ip,port"
	}
	return w.add(s.Set, set)
}

// except is the name of a set of ranges.
func (w writer) except(ranges []netip.Prefix) string {
	set := ipset{kind: "hash:net", v6: w.family.V6, members: map[member]bool{}}
	for _, r := range ranges {
		if r.Addr().Is6() == w.family.V6 && r.Bits() > 0 { // such a set has no range of everything; nor can it be an exception
			set.members[member{prefix: r}] = true
		}
	}
	return w.add("except "+digest(ranges), set)
}

func (w writer) add(of string, set ipset) string {
	name := xt.Name(ownerName, of) + w.family.Suffix
	w.sets[name] = set
	return name
}
