package proxy

import (
	"encoding/binary"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/netstack/nft"
)

// hideMark is the packet mark from the decision to hide a sender to the place where that can be done. It is the bit that
// administrators know from other Kubernetes proxies, and is taken off again before the packet leaves.
const hideMark = 0x4000

// The registers of rules, by word. Words that make up a key lie behind one another.
const (
	regA      = nft.Scratch
	regA2     = unix.NFT_REG32_01
	regPool   = unix.NFT_REG32_00 // a pool's number; then the number of a slot, or an endpoint
	regTo     = unix.NFT_REG32_01 // an endpoint: its address, then its port
	regMember = unix.NFT_REG32_08 // a member's number, then a client's address
	regClient = unix.NFT_REG32_09
)

// local matches packets whose source or destination is an address of this node.
func local(fib expr.Fib) []expr.Any {
	fib.Register, fib.ResultADDRTYPE = regA, true
	return []expr.Any{&fib, &expr.Cmp{Op: expr.CmpOpEq, Register: regA, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)}}
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
func sendTo(f nft.Family) expr.Any {
	return &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(f.Number), RegAddrMin: regTo, RegProtoMin: regTo + f.Words, Specified: true}
}

// masquerade gives away ports at random: counting up from the client's own loses races between CPUs.
func masquerade() expr.Any { return &expr.Masq{FullyRandom: true} }

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

func slotKey(pool, slot uint32) []byte { return append(nft.Word(pool), nft.Word(slot)...) }

// --- the rules of a Service's chain ---

// chainRules renders a chain whose endpoints are held in slots. A connection that falls off its end is dropped.
func chainRules(c Chain, held held, pods []netip.Prefix) [][]expr.Any {
	f := nft.FamilyOf(c.V6)
	onward := []expr.Any{nft.Verdict(expr.VerdictGoto, c.Next)}
	from := func(r netip.Prefix) []expr.Any {
		return nft.Join(nft.Only(f), nft.Within(f, nft.Source(f, regA), r, expr.CmpOpEq), onward)
	}
	var rules [][]expr.Any
	switch c.Kind {
	case inside:
		notPod := nft.Only(f)
		for _, r := range podsIn(pods, f) {
			notPod = append(notPod, nft.Within(f, nft.Source(f, regA), r, expr.CmpOpNeq)...)
		}
		return append([][]expr.Any{nft.Join(notPod, hideSender())}, pick(f, c, held)...)
	case outside:
		return [][]expr.Any{nft.Join(hideSender(), onward)}
	case outsideHere:
		for _, r := range podsIn(pods, f) {
			rules = append(rules, from(r))
		}
		rules = append(rules, nft.Join(local(expr.Fib{FlagSADDR: true}), onward))
		return append(rules, pick(f, c, held)...)
	case guard:
		for _, r := range c.Sources {
			rules = append(rules, from(r))
		}
	}
	return rules
}

// pick sends a connection to one endpoint of the pool, each as likely as the others.
func pick(f nft.Family, c Chain, held held) [][]expr.Any {
	if len(c.Pool) == 0 {
		return nil
	}
	return append(stick(f, c, held), []expr.Any{
		&expr.Immediate{Register: regPool, Data: nft.Word(held.number)},
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
func stick(f nft.Family, c Chain, held held) [][]expr.Any {
	if c.Sticky == 0 {
		return nil
	}
	var again, first [][]expr.Any
	for i, endpoint := range c.Pool {
		value := endpointValue(endpoint)
		client := []expr.Any{&expr.Immediate{Register: regMember, Data: nft.Word(held.members[endpoint])}, nft.Source(f, regClient)}
		send := []expr.Any{
			&expr.Dynset{SrcRegKey: regMember, SetName: stickySet.name(f), Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: c.Sticky},
			&expr.Immediate{Register: regTo, Data: value[:f.Size]},
			&expr.Immediate{Register: regTo + f.Words, Data: value[f.Size : f.Size+2]},
			sendTo(f),
		}
		known := []expr.Any{&expr.Lookup{SourceRegister: regMember, SetName: stickySet.name(f)}}
		// The first of n takes one in n, the next one in n-1 of the rest, the last all that are left.
		drawn := []expr.Any{
			&expr.Numgen{Register: regA, Modulus: uint32(len(c.Pool) - i), Type: unix.NFT_NG_RANDOM},
			&expr.Cmp{Op: expr.CmpOpEq, Register: regA, Data: nft.Word(0)},
		}
		again = append(again, nft.Join(nft.Only(f), client, known, send))
		first = append(first, nft.Join(nft.Only(f), drawn, client, send))
	}
	return append(again, first...)
}

func podsIn(ranges []netip.Prefix, f nft.Family) []netip.Prefix {
	var in []netip.Prefix
	for _, r := range ranges {
		if r.Addr().Is6() == f.V6 {
			in = append(in, r)
		}
	}
	return in
}
