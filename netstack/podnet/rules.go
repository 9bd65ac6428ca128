package podnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/netstack/cni"
	"knarr.dev/knarr/netstack/nft"
	"knarr.dev/knarr/netstack/xt"
)

// Table is the nftables table of this package, in the family ip and, where pods have IPv6 addresses, in ip6; nothing else is
// written to them. Packets see it like this:
//
//	prerouting   drop        from a pod, to 127.0.0.0/8               (ip: route_localnet would let it in)
//	prerouting   dnat        to an address of the node, host port     -> pod : container port
//	output       dnat        the same for the node's own processes
//	output       drop        to pods, redirects                       (ip6: the kernel has no setting that stops them)
//	postrouting  masquerade  a pod to itself through its host port    (it must not see its own address)
//	postrouting  masquerade  127.0.0.0/8 to a pod                     (ip: host port used through the loopback)
//	postrouting  masquerade  from a pod, to outside the cluster range (nobody out there knows the way back)
//
// IPv6 has no route_localnet: host ports are not on ::1.
const Table = "knarr-podnet"

// packetFilter is how the kernel is told of the rules: by nftables (nftRules) or by ip_tables (tables).
type packetFilter interface {
	// write makes all of them anew.
	write(ranges, cluster []netip.Prefix, all []forward) error
	// writePorts changes the host ports: the usual case when a pod comes or goes.
	writePorts(ranges, cluster []netip.Prefix, all []forward) error
	// intact tells whether they are all there.
	intact(ranges, cluster []netip.Prefix) (bool, error)
	// guard calls wake when some of them may have gone.
	guard(ctx context.Context, wake func()) error
}

// open is the kernel for the configuration, and what takes away what the other kind left.
func (c Config) open() (rules packetFilter, leave func() error, err error) {
	if c.IPTables {
		rules, err = openTables(c.ClusterRanges)
		return rules, removeNftables, err
	}
	return nftRules{}, func() error { return xt.Remove(ownerName) }, nil
}

// nftRules is a kernel with nftables.
type nftRules struct{}

// forward is one host port: what arrives for it, and where it goes. An invalid address means every address of the node.
type forward struct {
	address  netip.Addr
	protocol uint8
	port     uint16
	pod      netip.AddrPort
}

var protocols = map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}

// forwards are a pod's host ports, of each of its addresses.
func (l Lease) forwards() ([]forward, error) {
	var all []forward
	for _, address := range l.addresses() {
		fs, err := forwards(address, l.Ports)
		if err != nil {
			return nil, err
		}
		all = append(all, fs...)
	}
	return all, nil
}

// forwards reads port mappings for one address of a pod.
func forwards(pod netip.Addr, mappings []cni.PortMapping) ([]forward, error) {
	var all []forward
	for _, m := range mappings {
		if m.HostPort == 0 {
			continue
		}
		protocol, known := protocols[strings.ToLower(m.Protocol)]
		if !known {
			return nil, cni.Errorf(cni.CodeConfig, "protocol %q of host port %d is not tcp, udp or sctp", m.Protocol, m.HostPort)
		}
		f := forward{protocol: protocol, port: m.HostPort, pod: netip.AddrPortFrom(pod, m.ContainerPort)}
		if m.HostIP != "" {
			address, err := netip.ParseAddr(m.HostIP)
			if err != nil {
				return nil, cni.Errorf(cni.CodeConfig, "address %q of host port %d is not an IP address", m.HostIP, m.HostPort)
			}
			address = address.Unmap()
			if !address.IsUnspecified() { // that of either family is every address of both
				if address.Is6() != pod.Is6() {
					continue
				}
				f.address = address
			}
		}
		all = append(all, f)
	}
	return all, nil
}

// hostPorts are the forwards of all leases. While a pod that is going away still holds a port that its successor asks
// for, it keeps it: the rules can only say it once.
func hostPorts(held []Lease) []forward {
	type key struct {
		v6       bool
		address  netip.Addr
		protocol uint8
		port     uint16
	}
	seen := map[key]bool{}
	var all []forward
	for _, lease := range held {
		fs, err := lease.forwards()
		if err != nil {
			continue // refused when it was asked for
		}
		for _, f := range fs {
			k := key{f.pod.Addr().Is6(), f.address, f.protocol, f.port}
			if !seen[k] {
				seen[k] = true
				all = append(all, f)
			}
		}
	}
	return all
}

// family is the table of one family.
type family struct {
	nft.Family
	table *nftables.Table
	// anyPorts and ports map host ports to pods; hairpins are the pods with host ports, each twice.
	anyPorts, ports, hairpins *nftables.Set
}

func familyOf(r netip.Prefix) family {
	f := family{Family: nft.FamilyOf(r.Addr().Is6()), table: &nftables.Table{Name: Table, Family: nftables.TableFamilyIPv4}}
	if f.V6 {
		f.table.Family = nftables.TableFamilyIPv6
	}
	target := nftables.MustConcatSetType(f.Kind, nftables.TypeInetService)
	f.anyPorts = &nftables.Set{Table: f.table, Name: "hostports-any", IsMap: true, Concatenation: true, DataType: target,
		KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)}
	f.ports = &nftables.Set{Table: f.table, Name: "hostports", IsMap: true, Concatenation: true, DataType: target,
		KeyType: nftables.MustConcatSetType(f.Kind, nftables.TypeInetProto, nftables.TypeInetService)}
	f.hairpins = &nftables.Set{Table: f.table, Name: "hairpins", Concatenation: true, KeyType: nftables.MustConcatSetType(f.Kind, f.Kind)}
	return f
}

// content is a set with what is in it.
type content struct {
	*nftables.Set
	elements []nftables.SetElement
}

// contents are the three sets, filled with the forwards to pods of this family.
func (f family) contents(all []forward) []content {
	var anyAddress, byAddress, hairpin []nftables.SetElement
	pods := map[netip.Addr]bool{}
	for _, to := range all {
		if to.pod.Addr().Is6() != f.V6 {
			continue
		}
		key := slices.Concat(word(to.protocol), word(binaryutil.BigEndian.PutUint16(to.port)...))
		target := slices.Concat(to.pod.Addr().AsSlice(), word(binaryutil.BigEndian.PutUint16(to.pod.Port())...))
		if to.address.IsValid() {
			byAddress = append(byAddress, nftables.SetElement{Key: slices.Concat(to.address.AsSlice(), key), Val: target})
		} else {
			anyAddress = append(anyAddress, nftables.SetElement{Key: key, Val: target})
		}
		if pod := to.pod.Addr(); !pods[pod] {
			pods[pod] = true
			hairpin = append(hairpin, nftables.SetElement{Key: slices.Concat(pod.AsSlice(), pod.AsSlice())})
		}
	}
	return []content{{f.anyPorts, anyAddress}, {f.ports, byAddress}, {f.hairpins, hairpin}}
}

// word pads a value to a register of four bytes, as concatenations want.
func word(value ...byte) []byte { return append(value, make([]byte, 4-len(value))...) }

// write replaces the whole tables in one transaction.
func (nftRules) write(ranges, cluster []netip.Prefix, all []forward) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for _, r := range ranges {
		f := familyOf(r)
		conn.AddTable(f.table) // so that deleting it cannot fail
		conn.DelTable(f.table)
		conn.AddTable(f.table)
		for _, c := range f.contents(all) {
			if err := conn.AddSet(c.Set, c.elements); err != nil {
				return fmt.Errorf("write nftables set %s: %w", c.Name, err)
			}
		}
		for _, c := range f.chains(r, cluster) {
			conn.AddChain(c.Chain)
			for _, exprs := range c.rules {
				conn.AddRule(&nftables.Rule{Table: f.table, Chain: c.Chain, Exprs: exprs})
			}
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w: the kernel needs nf_tables with nat, masquerade and fib", Table, err)
	}
	return nil
}

// intact says whether the tables still have their chains with their rules. Those who manage a machine's firewall begin by
// flushing what there is.
func (nftRules) intact(ranges, cluster []netip.Prefix) (bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	for _, r := range ranges {
		f := familyOf(r)
		for _, c := range f.chains(r, cluster) {
			rules, err := conn.GetRules(f.table, c.Chain)
			if errors.Is(err, os.ErrNotExist) {
				return false, nil
			}
			if err != nil {
				return false, fmt.Errorf("list nftables rules of %s: %w", Table, err)
			}
			if len(rules) != len(c.rules) {
				return false, nil
			}
		}
	}
	return true, nil
}

// chain is a chain with its rules; one that is jumped to comes before those that do.
type chain struct {
	*nftables.Chain
	rules [][]expr.Any
}

func (f family) chains(podRange netip.Prefix, cluster []netip.Prefix) []chain {
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
		return &nftables.Chain{Name: name, Table: f.table, Type: kind, Hooknum: hook, Priority: priority}
	}
	target := &nftables.Chain{Name: "host-ports", Table: f.table}
	to, from := f.field(nft.Destination), f.field(nft.Source)
	toHostPorts := [][]expr.Any{nft.Join(f.toNode(), []expr.Any{nft.Verdict(expr.VerdictJump, target.Name)})}
	hide := [][]expr.Any{nft.Join(lookUp(f.hairpins, from, to), masquerade)}
	guard := chain{
		base("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw),
		[][]expr.Any{nft.Join(fromLink(Bridge), f.within(nft.Destination, loopback, expr.CmpOpEq), drop)},
	}
	if f.V6 {
		guard = chain{
			base("guard", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityRaw),
			[][]expr.Any{nft.Join(toLink(Bridge, expr.CmpOpEq), redirects, drop)},
		}
	} else {
		hide = append(hide, nft.Join(f.within(nft.Source, loopback, expr.CmpOpEq), toLink(Bridge, expr.CmpOpEq), masquerade))
	}
	for _, all := range cluster {
		if all.Addr().Is6() == f.V6 {
			hide = append(hide, nft.Join(f.within(nft.Source, podRange, expr.CmpOpEq), f.within(nft.Destination, all, expr.CmpOpNeq), toLink(Bridge, expr.CmpOpNeq), masquerade))
		}
	}
	return []chain{
		{target, [][]expr.Any{
			nft.Join(lookUp(f.ports, to, protocol, port), f.dnat()),
			nft.Join(lookUp(f.anyPorts, protocol, port), f.dnat()),
		}},
		guard,
		{base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest), toHostPorts},
		{base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest), toHostPorts},
		{base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource), hide},
	}
}

// writePorts replaces the contents of sets alone.
func (nftRules) writePorts(ranges, _ []netip.Prefix, all []forward) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for _, r := range ranges {
		for _, c := range familyOf(r).contents(all) {
			conn.FlushSet(c.Set)
			if len(c.elements) == 0 {
				continue
			}
			if err := conn.SetAddElements(c.Set, c.elements); err != nil {
				return fmt.Errorf("write nftables set %s: %w", c.Name, err)
			}
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write host ports to nftables table %s: %w", Table, err)
	}
	return nil
}

// forgetFlows drops what connection tracking remembers of UDP host ports: a peer that keeps sending from one port would
// otherwise be sent to where the port led before, for as long as it sends.
func forgetFlows(all []forward) error {
	for _, f := range all {
		if f.protocol != unix.IPPROTO_UDP {
			continue
		}
		filter := &netlink.ConntrackFilter{}
		if err := errors.Join(filter.AddProtocol(f.protocol), filter.AddPort(netlink.ConntrackOrigDstPort, f.port)); err != nil {
			return fmt.Errorf("select flows of UDP host port %d: %w", f.port, err)
		}
		number := netlink.InetFamily(unix.AF_INET)
		if f.pod.Addr().Is6() {
			number = unix.AF_INET6
		}
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, number, filter); err != nil {
			return fmt.Errorf("forget flows of UDP host port %d: %w", f.port, err)
		}
	}
	return nil
}

// The parts of rules. A field is loaded into the register that the rule gives it, and takes so many of them: registers are
// four bytes wide, and a concatenation lies in consecutive ones.
type field struct {
	load  func(register uint32) expr.Any
	words uint32
}

var (
	protocol = field{nft.Protocol, 1}
	port     = field{nft.DestinationPort, 1}
)

func (f family) field(load func(nft.Family, uint32) expr.Any) field {
	return field{func(register uint32) expr.Any { return load(f.Family, register) }, f.Words}
}

// lookUp finds the fields, concatenated, in a set; a map's value goes to the first register.
func lookUp(set *nftables.Set, fields ...field) []expr.Any {
	var all []expr.Any
	register := uint32(unix.NFT_REG32_00)
	for _, field := range fields {
		all = append(all, field.load(register))
		register += field.words
	}
	found := &expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: set.Name, SetID: set.ID}
	if set.IsMap {
		found.IsDestRegSet, found.DestRegister = true, unix.NFT_REG32_00
	}
	return append(all, found)
}

func (f family) within(load func(nft.Family, uint32) expr.Any, network netip.Prefix, op expr.CmpOp) []expr.Any {
	return nft.Within(f.Family, load(f.Family, nft.Scratch), network, op)
}

func fromLink(name string) []expr.Any { return ofLink(expr.MetaKeyIIFNAME, name, expr.CmpOpEq) }

func toLink(name string, op expr.CmpOp) []expr.Any { return ofLink(expr.MetaKeyOIFNAME, name, op) }

func ofLink(key expr.MetaKey, name string, op expr.CmpOp) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{
		&expr.Meta{Key: key, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: op, Register: unix.NFT_REG_1, Data: padded},
	}
}

// toNode matches what is for an address of the node. On ::1 there are no host ports: no answer would come back to it.
func (f family) toNode() []expr.Any {
	local := []expr.Any{
		&expr.Fib{Register: unix.NFT_REG_1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
	if !f.V6 {
		return local
	}
	return nft.Join(local, f.within(nft.Destination, netip.PrefixFrom(netip.IPv6Loopback(), 128), expr.CmpOpNeq))
}

// dnat takes what lookUp found: an address in the first register or registers, a port in the next.
func (f family) dnat() []expr.Any {
	return []expr.Any{&expr.NAT{
		Type: expr.NATTypeDestNAT, Family: uint32(f.Number), RegAddrMin: unix.NFT_REG32_00, RegProtoMin: unix.NFT_REG32_00 + f.Words,
	}}
}

var (
	loopback = netip.MustParsePrefix("127.0.0.0/8")
	drop     = []expr.Any{nft.Verdict(expr.VerdictDrop, "")}
	// fully random source ports: two pods that ask one server at the same moment would otherwise race for one port.
	masquerade = []expr.Any{&expr.Masq{FullyRandom: true}}
	// redirects of ICMPv6: the kernel sends them to pods that it routes back to the link they came by.
	redirects = []expr.Any{
		nft.Protocol(nft.Scratch), &expr.Cmp{Op: expr.CmpOpEq, Register: nft.Scratch, Data: []byte{unix.IPPROTO_ICMPV6}},
		&expr.Payload{DestRegister: nft.Scratch, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: nft.Scratch, Data: []byte{137}},
	}
)
