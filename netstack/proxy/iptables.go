package proxy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"knarr.dev/knarr/netstack/xt"
)

// Where the kernel has no nftables, the same plans become chains of ip_tables. For each family:
//
//	nat     PREROUTING, OUTPUT   KNARR-SVC         address, protocol, port -> chain of the port; to the node:
//	                             KNARR-SVC-NODE    protocol, port -> chain of the port
//	                             KNARR-SVC-XXXX    of one port (a Chain): mark who is to be hidden, draw an endpoint
//	        POSTROUTING          KNARR-SVC-OUT     a pod that reached itself, and what was marked: masquerade
//	filter  INPUT, FORWARD,      KNARR-SVC         what nobody answers for, and what found no endpoint though there are some
//	        OUTPUT               KNARR-SVC-NODE    the same for node ports
//
// The table nat may not refuse packets. But what it sent to no endpoint still has the Service's address when it comes to the
// table filter, and that is how it is known there. A new connection is compared with one frontend after the other: its
// first packet costs what the number of Services is.
const (
	ownerName    = "KNARR-SVC"
	chainNode    = ownerName + "-NODE"
	chainOut     = ownerName + "-OUT"
	chainHide    = ownerName + "-HIDE"    // mark, for the masquerade on the way out
	chainForeign = ownerName + "-FOREIGN" // mark who is no pod
)

const toNode = "-m addrtype --dst-type LOCAL -j " + chainNode

// Words of rules. The mark is that of the nftables rules.
var (
	hideRule = fmt.Sprintf("-j MARK --or-mark %#x", hideMark)
	// The mark is taken off: it would come along into a tunnel's outer packet.
	unhideRule     = fmt.Sprintf("-j MARK --xor-mark %#x", hideMark)
	unmarkedRule   = fmt.Sprintf("-m mark ! --mark %#x/%#x -j RETURN", hideMark, hideMark)
	masqueradeRule = "-j MASQUERADE --random-fully"
)

var protocolNames = map[uint8]string{6: "tcp", 17: "udp", 132: "sctp"}

// tables is a kernel with ip_tables. It is told the whole wanted state; what differs is found in netstack/xt.
type tables struct {
	owner    *xt.Owner
	site     Site
	ranges   []netip.Prefix
	families []bool // V6
}

func openTables(site Site, serviceRanges []netip.Prefix) (*tables, error) {
	t := newTables(site, serviceRanges)
	var err error
	if t.owner, err = xt.Open(ownerName, t.families...); err != nil {
		return nil, err
	}
	return t, nil
}

func newTables(site Site, serviceRanges []netip.Prefix) *tables {
	t := &tables{site: site, ranges: serviceRanges}
	for _, r := range serviceRanges {
		if v6 := r.Addr().Is6(); !slices.Contains(t.families, v6) {
			t.families = append(t.families, v6)
		}
	}
	return t
}

func (t *tables) close() error { return nil }

func (t *tables) rebuild(all Change) error {
	t.owner.Forget()
	return t.write(all)
}

func (t *tables) commit(c Change, all func() Change) error {
	if c.empty() {
		return nil
	}
	return t.write(all())
}

func (t *tables) intact(Change) (bool, error) { return t.owner.Intact() }

func (t *tables) write(all Change) error {
	if err := t.owner.Commit(t.rules(all)); err != nil {
		return fmt.Errorf("change the service rules: %w", err)
	}
	return nil
}

// rules say all there is to say.
func (t *tables) rules(all Change) map[xt.Place]xt.Rules {
	want := map[xt.Place]xt.Rules{}
	for _, v6 := range t.families {
		want[xt.Place{V6: v6, Table: "nat"}] = t.nat(all, v6)
		want[xt.Place{V6: v6, Table: "filter"}] = t.filter(all, v6)
	}
	return want
}

// nat sends connections to endpoints.
func (t *tables) nat(all Change, v6 bool) xt.Rules {
	var services []string
	nodePorts, chains := t.notNodePorts(v6), map[string][]string{}
	for _, f := range frontends(all, v6) {
		target := all.Frontends[f].To
		if target == targetReject || target == targetDrop {
			continue
		}
		rule := f.match() + " -g " + chainFor(target)
		if f.Addr.IsUnspecified() {
			nodePorts = append(nodePorts, rule)
		} else {
			services = append(services, rule)
		}
		for name := target; name != ""; name = all.Add[name].Next {
			chains[chainFor(name)] = t.chain(name, all.Add[name], protocolNames[f.Proto])
		}
	}
	var foreign []string
	for _, r := range t.site.Pods {
		if r.Addr().Is6() == v6 {
			foreign = append(foreign, "-s "+r.String()+" -j RETURN")
		}
	}
	out := []string{"-o lo -j RETURN"} // a node that talks to itself needs no other source, and lo has none to give
	for _, addr := range slices.SortedFunc(maps.Keys(all.Loops), netip.Addr.Compare) {
		if addr.Is6() == v6 {
			out = append(out, fmt.Sprintf("-s %s -d %s %s", addr, addr, masqueradeRule))
		}
	}
	chains[ownerName] = append(services, toNode)
	chains[chainNode] = nodePorts
	chains[chainHide] = []string{hideRule}
	chains[chainForeign] = append(foreign, "-j "+chainHide)
	chains[chainOut] = append(out, unmarkedRule, unhideRule, masqueradeRule)
	return xt.Rules{Chains: chains, Hooks: []xt.Hook{
		{Chain: "PREROUTING", Rule: "-j " + ownerName}, {Chain: "OUTPUT", Rule: "-j " + ownerName}, {Chain: "POSTROUTING", Rule: "-j " + chainOut},
	}}
}

// filter ends connections that nat sent nowhere.
func (t *tables) filter(all Change, v6 bool) xt.Rules {
	var services []string
	nodePorts := t.notNodePorts(v6)
	for _, f := range frontends(all, v6) {
		end := "-j DROP"
		switch target := all.Frontends[f].To; {
		case target == targetReject:
			end = refuse(f.Proto, v6)
		case target == targetDrop || mayLeave(all.Add[target]):
		default:
			continue // always finds an endpoint
		}
		if f.Addr.IsUnspecified() {
			nodePorts = append(nodePorts, f.match()+" "+end)
		} else {
			services = append(services, f.match()+" "+end)
		}
	}
	services = append(services, toNode)
	for _, addr := range t.site.Reserved {
		if addr.Is6() == v6 {
			services = append(services, "-d "+addr.String()+" -j RETURN")
		}
	}
	// A cluster address that is nobody's must not leave through the default route and time out somewhere outside.
	for _, r := range t.ranges {
		if r.Addr().Is6() == v6 {
			services = append(services, "-d "+r.String()+" -p tcp "+refuse(6, v6), "-d "+r.String()+" "+refuse(0, v6))
		}
	}
	r := xt.Rules{Chains: map[string][]string{ownerName: services, chainNode: nodePorts}}
	for _, chain := range []string{"INPUT", "FORWARD", "OUTPUT"} {
		r.Hooks = append(r.Hooks, xt.Hook{Chain: chain, Rule: "-m conntrack --ctstate NEW -j " + ownerName})
	}
	return r
}

// mayLeave tells that a connection can fall off a chain's end.
func mayLeave(c Chain) bool { return c.Kind == guard || c.Kind == outsideHere && len(c.Pool) == 0 }

// refuse says no at once, in the protocol's own way where it has one.
func refuse(proto uint8, v6 bool) string {
	switch {
	case proto == 6:
		return "-j REJECT --reject-with tcp-reset"
	case v6:
		return "-j REJECT --reject-with icmp6-port-unreachable"
	}
	return "-j REJECT --reject-with icmp-port-unreachable"
}

// notNodePorts are the node's addresses without node ports: loopback, where only programs on this machine could have sent
// from and no answer would find back, and those that something here answers itself.
func (t *tables) notNodePorts(v6 bool) []string {
	rules := []string{"-d 127.0.0.0/8 -j RETURN"}
	if v6 {
		rules = []string{"-d ::1/128 -j RETURN"}
	}
	for _, addr := range t.site.Reserved {
		if addr.Is6() == v6 {
			rules = append(rules, "-d "+addr.String()+" -j RETURN")
		}
	}
	return rules
}

// chain is what happens to connections to one port of one Service.
func (t *tables) chain(name string, c Chain, proto string) []string {
	onward := " -g " + chainFor(c.Next)
	var rules []string
	switch c.Kind {
	case inside:
		rules = []string{"-j " + chainForeign}
	case outside:
		return []string{"-j " + chainHide, onward[1:]}
	case outsideHere:
		for _, r := range t.site.Pods {
			if r.Addr().Is6() == c.V6 {
				rules = append(rules, "-s "+r.String()+onward)
			}
		}
		rules = append(rules, "-m addrtype --src-type LOCAL"+onward)
	case guard:
		for _, r := range c.Sources {
			rules = append(rules, "-s "+r.String()+onward)
		}
	}
	return append(rules, draw(name, c, proto)...)
}

// draw sends a connection to one endpoint of the pool, each as likely as the others: the first of n takes one in n, the next
// one in n-1 of the rest, the last all that are left. Clients of a sticky pool go back to the endpoint they had; of those
// the kernel remembers for each endpoint the last hundred (xt_recent's ip_list_tot).
func draw(name string, c Chain, proto string) []string {
	var again, first []string
	for i, endpoint := range c.Pool {
		match, send := "-p "+proto, " -j DNAT --to-destination "+endpoint.String()
		if left := len(c.Pool) - i; left > 1 {
			match += " -m statistic --mode random --probability " + strconv.FormatFloat(1/float64(left), 'f', 10, 64)
		}
		if c.Sticky > 0 {
			clients := " -m recent --name " + xt.Name("knarr", name+" "+endpoint.String())
			again = append(again, fmt.Sprintf("-p %s%s --update --seconds %d --reap --rsource%s", proto, clients, int(c.Sticky.Seconds()), send))
			match += clients + " --set --rsource"
		}
		first = append(first, match+send)
	}
	return append(again, first...)
}

func chainFor(name string) string { return xt.Name(ownerName, name) }

// match is how a frontend is known; a node port by the port alone.
func (f Frontend) match() string {
	proto := protocolNames[f.Proto]
	port := fmt.Sprintf("-p %s -m %s --dport %d", proto, proto, f.Port)
	if f.Addr.IsUnspecified() {
		return port
	}
	return "-d " + f.Addr.String() + " " + port
}

// frontends are those of a family, in an order that is the same every time.
func frontends(all Change, v6 bool) []Frontend {
	var in []Frontend
	for f := range all.Frontends {
		if f.Addr.Is6() == v6 {
			in = append(in, f)
		}
	}
	slices.SortFunc(in, func(a, b Frontend) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Proto, b.Proto), cmp.Compare(a.Port, b.Port))
	})
	return in
}
