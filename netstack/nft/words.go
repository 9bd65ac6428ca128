package nft

import (
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Family is where an address family keeps things in a packet, and how long they are.
type Family struct {
	V6       bool
	Number   byte   // NFPROTO_
	Suffix   string // of names of sets, which exist for each family
	src, dst uint32 // offsets in the header
	Size     uint32 // of an address
	Kind     nftables.SetDatatype
	Words    uint32 // that many registers
}

// The two families.
var (
	IPv4 = Family{Number: unix.NFPROTO_IPV4, Suffix: "4", src: 12, dst: 16, Size: 4, Kind: nftables.TypeIPAddr, Words: 1}
	IPv6 = Family{V6: true, Number: unix.NFPROTO_IPV6, Suffix: "6", src: 8, dst: 24, Size: 16, Kind: nftables.TypeIP6Addr, Words: 4}
)

// FamilyOf is one of them.
func FamilyOf(v6 bool) Family {
	if v6 {
		return IPv6
	}
	return IPv4
}

// Scratch is the register for what is short-lived: a word that is compared in the next breath.
const Scratch = unix.NFT_REG32_00

// Source loads a packet's sender.
func Source(f Family, reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: f.src, Len: f.Size}
}

// Destination loads whom a packet is for.
func Destination(f Family, reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: f.dst, Len: f.Size}
}

// Protocol loads the transport protocol.
func Protocol(reg uint32) expr.Any { return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg} }

// DestinationPort loads a port of TCP, UDP or SCTP.
func DestinationPort(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

// Only lets packets of one family go on.
func Only(f Family) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: Scratch}, &expr.Cmp{Op: expr.CmpOpEq, Register: Scratch, Data: []byte{f.Number}}}
}

// Within compares the address that load puts into Scratch with a range.
func Within(f Family, load expr.Any, r netip.Prefix, op expr.CmpOp) []expr.Any {
	mask := net.CIDRMask(r.Bits(), int(f.Size)*8)
	return []expr.Any{
		load,
		&expr.Bitwise{SourceRegister: Scratch, DestRegister: Scratch, Len: f.Size, Mask: mask, Xor: make([]byte, f.Size)},
		&expr.Cmp{Op: op, Register: Scratch, Data: r.Masked().Addr().AsSlice()},
	}
}

// Verdict ends a rule.
func Verdict(kind expr.VerdictKind, chain string) expr.Any {
	return &expr.Verdict{Kind: kind, Chain: chain}
}

// Join puts parts of a rule behind one another.
func Join(parts ...[]expr.Any) []expr.Any { return slices.Concat(parts...) }

// Word is a number as a register holds it.
func Word(n uint32) []byte { return binaryutil.NativeEndian.PutUint32(n) }
