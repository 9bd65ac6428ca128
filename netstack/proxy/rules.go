package proxy

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// hideMark is the packet mark from the decision to hide a sender to the place where that can be done. It is the bit that
// administrators know from other Kubernetes proxies, and is taken off again before the packet leaves.
const hideMark = 0x4000

// family is where an address family keeps things in a packet, and how long they are.
type family struct {
	v6       bool
	number   byte // NFPROTO_
	suffix   string
	src, dst uint32 // offsets in the header
	size     uint32 // of an address
	kind     nftables.SetDatatype
	words    uint32 // that many registers
}

var (
	family4 = family{number: unix.NFPROTO_IPV4, suffix: "4", src: 12, dst: 16, size: 4, kind: nftables.TypeIPAddr, words: 1}
	family6 = family{v6: true, number: unix.NFPROTO_IPV6, suffix: "6", src: 8, dst: 24, size: 16, kind: nftables.TypeIP6Addr, words: 4}
)

// The registers of rules, by word. Words that make up a key lie behind one another.
const (
	regA      = unix.NFT_REG32_00 // anything short-lived
	regA2     = unix.NFT_REG32_01
	regPool   = unix.NFT_REG32_00 // a pool's number; then the number of a slot, or an endpoint
	regTo     = unix.NFT_REG32_01 // an endpoint: its address, then its port
	regMember = unix.NFT_REG32_08 // a member's number, then a client's address
	regClient = unix.NFT_REG32_09
)

func familyOf(v6 bool) family {
	if v6 {
		return family6
	}
	return family4
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

// sendTo is the end of a rule that has an endpoint in regTo.
func sendTo(f family) expr.Any {
	return &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.number), RegAddrMin: regTo, RegProtoMin: regTo + f.words, Specified: true}
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

func slotKey(pool, slot uint32) []byte { return append(word(pool), word(slot)...) }

func word(n uint32) []byte { return binaryutil.NativeEndian.PutUint32(n) }

// --- the rules of a Service's chain ---

// chainRules renders a chain whose endpoints are held in slots. A connection that falls off its end is dropped.
func chainRules(c Chain, held held, pods []netip.Prefix) [][]expr.Any {
	f := familyOf(c.V6)
	onward := []expr.Any{verdict(expr.VerdictGoto, c.Next)}
	from := func(r netip.Prefix) []expr.Any {
		return join(only(f), within(f, source(f, regA), r, expr.CmpOpEq), onward)
	}
	var rules [][]expr.Any
	switch c.Kind {
	case inside:
		notPod := only(f)
		for _, r := range podsIn(pods, f) {
			notPod = append(notPod, within(f, source(f, regA), r, expr.CmpOpNeq)...)
		}
		return append([][]expr.Any{join(notPod, hideSender())}, pick(f, c, held)...)
	case outside:
		return [][]expr.Any{join(hideSender(), onward)}
	case outsideHere:
		for _, r := range podsIn(pods, f) {
			rules = append(rules, from(r))
		}
		rules = append(rules, join(local(expr.Fib{FlagSADDR: true}), onward))
		return append(rules, pick(f, c, held)...)
	case guard:
		for _, r := range c.Sources {
			rules = append(rules, from(r))
		}
	}
	return rules
}

// pick sends a connection to one endpoint of the pool, each as likely as the others.
func pick(f family, c Chain, held held) [][]expr.Any {
	if len(c.Pool) == 0 {
		return nil
	}
	return append(stick(f, c, held), []expr.Any{
		&expr.Immediate{Register: regPool, Data: word(held.number)},
		&expr.Numgen{Register: regTo, Modulus: uint32(len(c.Pool)), Type: unix.NFT_NG_RANDOM},
		&expr.Lookup{SourceRegister: regPool, DestRegister: regTo, IsDestRegSet: true, SetName: slotMap(held.number).name(f)},
		sendTo(f),
	})
}

// stick sends clients back to the endpoint they had; who had none gets one, and that is written down. When there is no
// room to write, the connection goes on to be sent anywhere: better to forget a client than to turn it away.
//
// There are two rules for each endpoint, where a map from client to endpoint would need two in all; but the nft program
// (1.0.6) crashes on a rule that uses what it found in a map as a key or as a value, and with it every list of a host's
// rules.
func stick(f family, c Chain, held held) [][]expr.Any {
	if c.Sticky == 0 {
		return nil
	}
	var again, first [][]expr.Any
	for i, endpoint := range c.Pool {
		value := endpointValue(endpoint)
		client := []expr.Any{&expr.Immediate{Register: regMember, Data: word(held.members[endpoint])}, source(f, regClient)}
		send := []expr.Any{
			&expr.Dynset{SrcRegKey: regMember, SetName: stickySet.name(f), Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: c.Sticky},
			&expr.Immediate{Register: regTo, Data: value[:f.size]},
			&expr.Immediate{Register: regTo + f.words, Data: value[f.size : f.size+2]},
			sendTo(f),
		}
		known := []expr.Any{&expr.Lookup{SourceRegister: regMember, SetName: stickySet.name(f)}}
		// The first of n takes one in n, the next one in n-1 of the rest, the last all that are left.
		drawn := []expr.Any{
			&expr.Numgen{Register: regA, Modulus: uint32(len(c.Pool) - i), Type: unix.NFT_NG_RANDOM},
			&expr.Cmp{Op: expr.CmpOpEq, Register: regA, Data: word(0)},
		}
		again = append(again, join(only(f), client, known, send))
		first = append(first, join(only(f), drawn, client, send))
	}
	return append(again, first...)
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
