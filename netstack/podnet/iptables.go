package podnet

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"knarr.dev/knarr/netstack/xt"
)

// Where the kernel has no nftables, the same rules (see Table) become chains of ip_tables, for each family that pods have:
//
//	nat     PREROUTING, OUTPUT   KNARR-POD-PORTS   to an address of the node, host port: to the pod
//	        POSTROUTING          KNARR-POD-OUT     masquerade
//	mangle  PREROUTING           KNARR-POD-GUARD   drop what pods send to 127.0.0.0/8; or, for IPv6, in OUTPUT, redirects
const (
	ownerName  = "KNARR-POD"
	chainPorts = ownerName + "-PORTS"
	chainOut   = ownerName + "-OUT"
	chainGuard = ownerName + "-GUARD"
)

var protocolNames = map[uint8]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_SCTP: "sctp"}

const masqueradeRule = "-j MASQUERADE --random-fully"

// tables is a kernel with ip_tables.
type tables struct{ owner *xt.Owner }

func openTables(cluster []netip.Prefix) (tables, error) {
	var families []bool
	for _, r := range cluster {
		families = append(families, r.Addr().Is6())
	}
	owner, err := xt.Open(ownerName, families...)
	return tables{owner}, err
}

func (t tables) write(ranges, cluster []netip.Prefix, all []forward) error {
	t.owner.Forget()
	return t.writePorts(ranges, cluster, all)
}

func (t tables) writePorts(ranges, cluster []netip.Prefix, all []forward) error {
	want := map[xt.Place]xt.Rules{}
	for _, r := range ranges {
		v6 := r.Addr().Is6()
		want[xt.Place{V6: v6, Table: "nat"}] = natRules(r, cluster, all)
		want[xt.Place{V6: v6, Table: "mangle"}] = guardRules(v6)
	}
	if err := t.owner.Commit(want); err != nil {
		return fmt.Errorf("write the rules of the pod network: %w", err)
	}
	return nil
}

func (t tables) intact([]netip.Prefix, []netip.Prefix) (bool, error) { return t.owner.Intact() }

// guard wakes only when something is wrong: a pass looks at more than rules.
func (t tables) guard(ctx context.Context, wake func()) error {
	return xt.Watch(ctx, func() {
		if whole, err := t.owner.Intact(); err != nil || !whole {
			wake()
		}
	})
}

// natRules are those of one family.
func natRules(podRange netip.Prefix, cluster []netip.Prefix, all []forward) xt.Rules {
	v6 := podRange.Addr().Is6()
	toNode := "-m addrtype --dst-type LOCAL -j " + chainPorts
	if v6 {
		toNode = "! -d ::1/128 " + toNode
	}
	var byAddress, anyAddress, out []string
	pods := map[netip.Addr]bool{}
	for _, f := range all {
		if f.pod.Addr().Is6() != v6 {
			continue
		}
		rule := fmt.Sprintf("-p %[1]s -m %[1]s --dport %[2]d -j DNAT --to-destination %[3]s", protocolNames[f.protocol], f.port, f.pod)
		if f.address.IsValid() {
			byAddress = append(byAddress, "-d "+f.address.String()+" "+rule)
		} else {
			anyAddress = append(anyAddress, rule)
		}
		pods[f.pod.Addr()] = true
	}
	for _, pod := range slices.SortedFunc(maps.Keys(pods), netip.Addr.Compare) {
		out = append(out, fmt.Sprintf("-s %[1]s -d %[1]s %[2]s", pod, masqueradeRule))
	}
	if !v6 {
		out = append(out, fmt.Sprintf("-s %s -o %s %s", loopback, Bridge, masqueradeRule))
	}
	for _, r := range cluster {
		if r.Addr().Is6() == v6 {
			out = append(out, fmt.Sprintf("-s %s ! -d %s ! -o %s %s", podRange, r, Bridge, masqueradeRule))
		}
	}
	return xt.Rules{
		Hooks:  []xt.Hook{{Chain: "PREROUTING", Rule: toNode}, {Chain: "OUTPUT", Rule: toNode}, {Chain: "POSTROUTING", Rule: "-j " + chainOut}},
		Chains: map[string][]string{chainPorts: append(byAddress, anyAddress...), chainOut: out},
	}
}

// guardRules keep pods from what they must not see.
func guardRules(v6 bool) xt.Rules {
	hook := xt.Hook{Chain: "PREROUTING", Rule: fmt.Sprintf("-i %s -d %s -j %s", Bridge, loopback, chainGuard)}
	if v6 {
		hook = xt.Hook{Chain: "OUTPUT", Rule: fmt.Sprintf("-o %s -p icmpv6 -m icmp6 --icmpv6-type redirect -j %s", Bridge, chainGuard)}
	}
	return xt.Rules{Hooks: []xt.Hook{hook}, Chains: map[string][]string{chainGuard: {"-j DROP"}}}
}
