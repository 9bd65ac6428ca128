package proxy

import (
	"encoding/binary"
	"net"
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// hideMark is the packet mark from the decision to hide a sender to the place where that can be done. It is the bit that
// administrators know from other Kubernetes proxies, and is taken off again before the packet leaves.
const hideMark = 0x4000

// family is where an address family keeps things in a packet and in the registers of the rule machine. Registers are
// words of four bytes from number 8 on; 1 to 4 are names for four words each.
type family struct {
	v6       bool
	number   byte // NFPROTO_
	suffix   string
	src, dst uint32 // offsets in the header
	size     uint32 // of an address
	kind     nftables.SetDatatype
	behind   uint32 // the register after an address in register 1
}

var (
	family4 = family{number: unix.NFPROTO_IPV4, suffix: "4", src: 12, dst: 16, size: 4, kind: nftables.TypeIPAddr, behind: 9}
	family6 = family{v6: true, number: unix.NFPROTO_IPV6, suffix: "6", src: 8, dst: 24, size: 16, kind: nftables.TypeIP6Addr, behind: 12}
)

const (
	regA   = 1 // words 8 to 11
	regA2  = 9 // the word after a short value in regA
	regKey = 3 // words 16 to 19: clear of an address and port in regA
	regNum = 4 // words 20 to 23
)

func familyOf(v6 bool) family {
	if v6 {
		return family6
	}
	return family4
}

// endpointType is an address and a port, where connections go.
func (f family) endpointType() nftables.SetDatatype {
	return nftables.MustConcatSetType(f.kind, nftables.TypeInetService)
}

// --- what rules are made of ---

func source(f family, reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: f.src, Len: f.size}
}

func destination(f family, reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: f.dst, Len: f.size}
}

func protocol(reg uint32) expr.Any { return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg} }

func destinationPort(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

// only lets packets of one family go on.
func only(f family) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: regA}, &expr.Cmp{Op: expr.CmpOpEq, Register: regA, Data: []byte{f.number}}}
}

// within compares the address that load puts into regA with a range.
func within(f family, load expr.Any, r netip.Prefix, op expr.CmpOp) []expr.Any {
	mask := net.CIDRMask(r.Bits(), int(f.size)*8)
	return []expr.Any{
		load,
		&expr.Bitwise{SourceRegister: regA, DestRegister: regA, Len: f.size, Mask: mask, Xor: make([]byte, f.size)},
		&expr.Cmp{Op: op, Register: regA, Data: r.Masked().Addr().AsSlice()},
	}
}

// local matches packets whose source or destination is an address of this node.
func local(fib expr.Fib) []expr.Any {
	fib.Register, fib.ResultADDRTYPE = regA, true
	return []expr.Any{&fib, &expr.Cmp{Op: expr.CmpOpEq, Register: regA, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)}}
}

func verdict(kind expr.VerdictKind, chain string) expr.Any {
	return &expr.Verdict{Kind: kind, Chain: chain}
}

// setMark keeps the bits in mask and flips those in xor.
func setMark(mask, xor uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: regA},
		&expr.Bitwise{
			SourceRegister: regA, DestRegister: regA, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(mask), Xor: binaryutil.NativeEndian.PutUint32(xor),
		},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: regA},
	}
}

func hideSender() []expr.Any { return setMark(^uint32(hideMark), hideMark) }

// sendTo is the end of a rule that has an address and port in regA.
func sendTo(f family) expr.Any {
	return &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.number), RegAddrMin: regA, RegProtoMin: f.behind, Specified: true}
}

// masquerade gives away ports at random: counting up from the client's own loses races between CPUs.
func masquerade() expr.Any { return &expr.Masq{FullyRandom: true} }

func join(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

// --- keys and values of maps ---

func frontendKey(f Frontend) []byte {
	key := append(f.Addr.AsSlice(), f.Proto, 0, 0, 0)
	return append(binary.BigEndian.AppendUint16(key, f.Port), 0, 0)
}

// nodePortKey leaves the address out: any address of the node will do.
func nodePortKey(f Frontend) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{f.Proto, 0, 0, 0}, f.Port), 0, 0)
}

func endpointValue(a netip.AddrPort) []byte {
	return append(binary.BigEndian.AppendUint16(a.Addr().AsSlice(), a.Port()), 0, 0)
}

// --- the rules of a Service's chain ---

// chainRules renders a chain. newSet makes a set or map that lives as long as the rule that looks into it.
func chainRules(name string, c Chain, pods []netip.Prefix, newSet func(*nftables.Set, []nftables.SetElement) *expr.Lookup) [][]expr.Any {
	f := familyOf(c.V6)
	switch c.Kind {
	case outside:
		return [][]expr.Any{hideSender(), {verdict(expr.VerdictGoto, c.Next)}}
	case guard:
		var rules [][]expr.Any
		for _, r := range c.Sources {
			rules = append(rules, join(within(f, source(f, regA), r, expr.CmpOpEq), []expr.Any{verdict(expr.VerdictGoto, c.Next)}))
		}
		return append(rules, []expr.Any{verdict(expr.VerdictGoto, targetDrop)})
	case outsideHere:
		var rules [][]expr.Any
		for _, r := range podsIn(pods, f) {
			rules = append(rules, join(within(f, source(f, regA), r, expr.CmpOpEq), []expr.Any{verdict(expr.VerdictGoto, c.Next)}))
		}
		rules = append(rules, join(local(expr.Fib{FlagSADDR: true}), []expr.Any{verdict(expr.VerdictGoto, c.Next)}))
		return append(append(rules, pick(f, name, c, newSet)...), []expr.Any{verdict(expr.VerdictGoto, targetDrop)})
	default: // inside
		var notPod []expr.Any
		for _, r := range podsIn(pods, f) {
			notPod = append(notPod, within(f, source(f, regA), r, expr.CmpOpNeq)...)
		}
		return append([][]expr.Any{join(notPod, hideSender())}, pick(f, name, c, newSet)...)
	}
}

// pick sends a connection to one endpoint of the pool. With stickiness, first to the one this client had last; a client
// it knows nothing of, or whose endpoint is gone, gets a new one, which is written down.
func pick(f family, name string, c Chain, newSet func(*nftables.Set, []nftables.SetElement) *expr.Lookup) [][]expr.Any {
	if len(c.Pool) == 0 {
		return nil
	}
	if c.Sticky == 0 {
		return [][]expr.Any{join(draw(f, c.Pool, newSet), []expr.Any{sendTo(f)})}
	}
	remember := func(operation uint32) expr.Any {
		return &expr.Dynset{SrcRegKey: regKey, SrcRegData: regA, SetName: stickySet(name), Operation: operation, Timeout: c.Sticky}
	}
	members := make([]nftables.SetElement, len(c.Pool))
	for i, endpoint := range c.Pool {
		members[i] = nftables.SetElement{Key: endpointValue(endpoint)}
	}
	stillThere := newSet(&nftables.Set{KeyType: f.endpointType()}, members)
	stillThere.SourceRegister = regA
	return [][]expr.Any{
		{
			source(f, regKey),
			&expr.Lookup{SourceRegister: regKey, DestRegister: regA, IsDestRegSet: true, SetName: stickySet(name)},
			stillThere,
			remember(unix.NFT_DYNSET_OP_UPDATE),
			sendTo(f),
		},
		// Updating alone would refresh the time of an entry that points nowhere and keep its endpoint.
		join(draw(f, c.Pool, newSet), []expr.Any{source(f, regKey), remember(dynsetDelete), remember(unix.NFT_DYNSET_OP_UPDATE), sendTo(f)}),
		// The memory is full: better to forget this client than to turn it away.
		join(draw(f, c.Pool, newSet), []expr.Any{sendTo(f)}),
	}
}

// dynsetDelete is NFT_DYNSET_OP_DELETE, which golang.org/x/sys does not name yet.
const dynsetDelete = 2

// draw puts one endpoint of the pool into regA, each as likely as the others.
func draw(f family, pool []netip.AddrPort, newSet func(*nftables.Set, []nftables.SetElement) *expr.Lookup) []expr.Any {
	if len(pool) == 1 {
		value := endpointValue(pool[0])
		return []expr.Any{
			&expr.Immediate{Register: regA, Data: value[:f.size]},
			&expr.Immediate{Register: f.behind, Data: value[f.size : f.size+2]},
		}
	}
	numbered := make([]nftables.SetElement, len(pool))
	for i, endpoint := range pool {
		numbered[i] = nftables.SetElement{Key: binaryutil.NativeEndian.PutUint32(uint32(i)), Val: endpointValue(endpoint)}
	}
	byNumber := newSet(&nftables.Set{
		IsMap: true, KeyType: nftables.TypeInteger, DataType: f.endpointType(), KeyByteOrder: binaryutil.NativeEndian,
	}, numbered)
	byNumber.SourceRegister, byNumber.DestRegister, byNumber.IsDestRegSet = regNum, regA, true
	return []expr.Any{&expr.Numgen{Register: regNum, Modulus: uint32(len(pool)), Type: unix.NFT_NG_RANDOM}, byNumber}
}

func stickySet(chain string) string { return "sticky/" + chain }

// stickyMap remembers which endpoint a client had. Its size bounds what a flood of addresses can cost: a few megabytes.
func stickyMap(t *nftables.Table, chain string, c Chain) *nftables.Set {
	f := familyOf(c.V6)
	return &nftables.Set{
		Table: t, Name: stickySet(chain), IsMap: true, Dynamic: true, HasTimeout: true, Timeout: max(c.Sticky, time.Second),
		Size: 1 << 16, KeyType: f.kind, DataType: f.endpointType(),
	}
}

func podsIn(ranges []netip.Prefix, f family) []netip.Prefix {
	var in []netip.Prefix
	for _, r := range ranges {
		if r.Addr().Is6() == f.v6 {
			in = append(in, r)
		}
	}
	return in
}

func word(n uint32) []byte { return binaryutil.NativeEndian.PutUint32(n) }
