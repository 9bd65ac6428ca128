package podnet

import (
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
)

// Table is the nftables table of this package, family ip; nothing else is written to it. Packets see it like this:
//
//	prerouting   drop        from a pod, to 127.0.0.0/8               (route_localnet would let it in)
//	prerouting   dnat        to an address of the node, host port     -> pod : container port
//	output       dnat        the same for the node's own processes
//	postrouting  masquerade  a pod to itself through its host port    (it must not see its own address)
//	postrouting  masquerade  127.0.0.0/8 to a pod                     (host port used through the loopback)
//	postrouting  masquerade  from a pod, to outside the cluster range (nobody out there knows the way back)
const Table = "knarr-podnet"

// forward is one host port: what arrives for it, and where it goes. An invalid address means every address of the node.
type forward struct {
	address  netip.Addr
	protocol uint8
	port     uint16
	pod      netip.AddrPort
}

var protocols = map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}

// forwards reads a pod's port mappings.
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
			if address = address.Unmap(); address.Is6() && !address.IsUnspecified() {
				continue // pods have IPv4 addresses only
			}
			if !address.IsUnspecified() {
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
		address  netip.Addr
		protocol uint8
		port     uint16
	}
	seen := map[key]bool{}
	var all []forward
	for _, lease := range held {
		fs, err := forwards(lease.Address, lease.Ports)
		if err != nil {
			continue // refused when it was asked for
		}
		for _, f := range fs {
			k := key{f.address, f.protocol, f.port}
			if !seen[k] {
				seen[k] = true
				all = append(all, f)
			}
		}
	}
	return all
}

var (
	table = &nftables.Table{Name: Table, Family: nftables.TableFamilyIPv4}

	targetType = nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	// anyPorts and ports map host ports to pods; hairpins are the pods with host ports, each twice.
	anyPorts = &nftables.Set{Table: table, Name: "hostports-any", IsMap: true, Concatenation: true, DataType: targetType,
		KeyType: nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)}
	ports = &nftables.Set{Table: table, Name: "hostports", IsMap: true, Concatenation: true, DataType: targetType,
		KeyType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)}
	hairpins = &nftables.Set{Table: table, Name: "hairpins", Concatenation: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr)}
)

// elements are the contents of the three sets.
func elements(all []forward) (anyAddress, byAddress, hairpin []nftables.SetElement) {
	pods := map[netip.Addr]bool{}
	for _, f := range all {
		key := slices.Concat(word(f.protocol), word(binaryutil.BigEndian.PutUint16(f.port)...))
		target := slices.Concat(f.pod.Addr().AsSlice(), word(binaryutil.BigEndian.PutUint16(f.pod.Port())...))
		if f.address.IsValid() {
			byAddress = append(byAddress, nftables.SetElement{Key: slices.Concat(f.address.AsSlice(), key), Val: target})
		} else {
			anyAddress = append(anyAddress, nftables.SetElement{Key: key, Val: target})
		}
		if pod := f.pod.Addr(); !pods[pod] {
			pods[pod] = true
			hairpin = append(hairpin, nftables.SetElement{Key: slices.Concat(pod.AsSlice(), pod.AsSlice())})
		}
	}
	return anyAddress, byAddress, hairpin
}

// word pads a value to a register of four bytes, as concatenations want.
func word(value ...byte) []byte { return append(value, make([]byte, 4-len(value))...) }

// writeRules replaces the whole table in one transaction.
func writeRules(podRange, clusterRange netip.Prefix, all []forward) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	conn.AddTable(table) // so that deleting it cannot fail
	conn.DelTable(table)
	conn.AddTable(table)
	anyAddress, byAddress, hairpin := elements(all)
	for _, s := range []struct {
		set      *nftables.Set
		elements []nftables.SetElement
	}{{anyPorts, anyAddress}, {ports, byAddress}, {hairpins, hairpin}} {
		if err := conn.AddSet(s.set, s.elements); err != nil {
			return fmt.Errorf("write nftables set %s: %w", s.set.Name, err)
		}
	}
	for _, c := range chains(podRange, clusterRange) {
		conn.AddChain(c.Chain)
		for _, exprs := range c.rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: c.Chain, Exprs: exprs})
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w: the kernel needs nf_tables with nat, masquerade and fib", Table, err)
	}
	return nil
}

// intact says whether the table still has its chains with their rules. Those who manage a machine's firewall begin by
// flushing what there is.
func intact(podRange, clusterRange netip.Prefix) (bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	for _, c := range chains(podRange, clusterRange) {
		rules, err := conn.GetRules(table, c.Chain)
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
	return true, nil
}

// chain is a chain with its rules; one that is jumped to comes before those that do.
type chain struct {
	*nftables.Chain
	rules [][]expr.Any
}

func chains(podRange, clusterRange netip.Prefix) []chain {
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
		return &nftables.Chain{Name: name, Table: table, Type: kind, Hooknum: hook, Priority: priority}
	}
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	target := &nftables.Chain{Name: "host-ports", Table: table}
	return []chain{
		{target, [][]expr.Any{
			join(lookUp(ports, destination, protocol, port), dnat),
			join(lookUp(anyPorts, protocol, port), dnat),
		}},
		{base("guard", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw), [][]expr.Any{
			join(fromLink(Bridge), within(destination, loopback, true), drop),
		}},
		{base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest), [][]expr.Any{
			join(toNode, jump(target)),
		}},
		{base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest), [][]expr.Any{
			join(toNode, jump(target)),
		}},
		{base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource), [][]expr.Any{
			join(lookUp(hairpins, source, destination), masquerade),
			join(within(source, loopback, true), toLink(Bridge, true), masquerade),
			join(within(source, podRange, true), within(destination, clusterRange, false), toLink(Bridge, false), masquerade),
		}},
	}
}

func join(parts ...[]expr.Any) []expr.Any { return slices.Concat(parts...) }

// writeHostPorts replaces the host ports alone: the usual case when a pod comes or goes.
func writeHostPorts(all []forward) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	anyAddress, byAddress, hairpin := elements(all)
	for _, s := range []struct {
		set      *nftables.Set
		elements []nftables.SetElement
	}{{anyPorts, anyAddress}, {ports, byAddress}, {hairpins, hairpin}} {
		conn.FlushSet(s.set)
		if len(s.elements) == 0 {
			continue
		}
		if err := conn.SetAddElements(s.set, s.elements); err != nil {
			return fmt.Errorf("write nftables set %s: %w", s.set.Name, err)
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
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filter); err != nil {
			return fmt.Errorf("forget flows of UDP host port %d: %w", f.port, err)
		}
	}
	return nil
}

// The parts of rules. A field is loaded into the register that the rule gives it: registers are four bytes wide, and a
// concatenation lies in consecutive ones.
type field func(register uint32) []expr.Any

var (
	source      = ipField(12)
	destination = ipField(16)
	protocol    = field(func(r uint32) []expr.Any {
		return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: r}}
	})
	port = field(func(r uint32) []expr.Any {
		return []expr.Any{&expr.Payload{DestRegister: r, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}}
	})
)

func ipField(offset uint32) field {
	return func(r uint32) []expr.Any {
		return []expr.Any{&expr.Payload{DestRegister: r, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}}
	}
}

// lookUp finds the fields, concatenated, in a set; a map's value goes to the first register.
func lookUp(set *nftables.Set, fields ...field) []expr.Any {
	var all []expr.Any
	for i, load := range fields {
		all = append(all, load(unix.NFT_REG32_00+uint32(i))...)
	}
	return append(all, &expr.Lookup{
		SourceRegister: unix.NFT_REG32_00, IsDestRegSet: set.IsMap, DestRegister: destinationOf(set),
		SetName: set.Name, SetID: set.ID,
	})
}

func destinationOf(set *nftables.Set) uint32 {
	if set.IsMap {
		return unix.NFT_REG32_00
	}
	return 0
}

func within(load field, network netip.Prefix, inside bool) []expr.Any {
	mask := netmask(network)
	return append(load(unix.NFT_REG_1),
		&expr.Bitwise{SourceRegister: unix.NFT_REG_1, DestRegister: unix.NFT_REG_1, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: equal(inside), Register: unix.NFT_REG_1, Data: network.Masked().Addr().AsSlice()})
}

func netmask(network netip.Prefix) []byte {
	return binaryutil.BigEndian.PutUint32(uint32(^uint64(0) << (32 - network.Bits())))
}

func equal(yes bool) expr.CmpOp {
	if yes {
		return expr.CmpOpEq
	}
	return expr.CmpOpNeq
}

func fromLink(name string) []expr.Any { return ofLink(expr.MetaKeyIIFNAME, name, true) }

func toLink(name string, is bool) []expr.Any { return ofLink(expr.MetaKeyOIFNAME, name, is) }

func ofLink(key expr.MetaKey, name string, is bool) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{
		&expr.Meta{Key: key, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: equal(is), Register: unix.NFT_REG_1, Data: padded},
	}
}

func jump(chain *nftables.Chain) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain.Name}}
}

var (
	drop = []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}
	// fully random source ports: two pods that ask one server at the same moment would otherwise race for one port.
	masquerade = []expr.Any{&expr.Masq{FullyRandom: true}}
	toNode     = []expr.Any{
		&expr.Fib{Register: unix.NFT_REG_1, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: unix.NFT_REG_1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
	// dnat takes what lookUp found: an address in the first register, a port in the second.
	dnat = []expr.Any{&expr.NAT{
		Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: unix.NFT_REG32_00, RegProtoMin: unix.NFT_REG32_00 + 1,
	}}
)
