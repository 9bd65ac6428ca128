package announce

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// ndp is how neighbours of IPv6 find each other (RFC 4861). Questions about an address go to a group that few addresses share.
var ndp = tongue{name: "neighbour discovery", protocol: unix.ETH_P_IPV6, filter: solicitations, answer: answerNDP, announcement: announcementNDP, group: solicitedNode}

// Where the parts of a solicitation or an advertisement are in its frame: Ethernet, IPv6, ICMPv6.
const (
	atNextHeader = 14 + 6
	atHopLimit   = 14 + 7
	atSource     = 14 + 8
	atReceiver   = 14 + 24
	atType       = 14 + 40
	atCode       = atType + 1
	atTarget     = atType + 8
	solicitSize  = atTarget + 16

	solicitation, advertisement = 135, 136
	// hops is what a neighbour's packet has and none that was forwarded can have.
	hops = 255

	solicited = 0x40 // flags of an advertisement: an answer,
	override  = 0x20 // which is to replace what was known before
)

// solicitations of all that the link carries. What comes from neighbours has no headers in between.
var solicitations = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: atNextHeader},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.IPPROTO_ICMPV6, Jf: 3},
	{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: atType},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: solicitation, Jf: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0xffff},
	{Code: unix.BPF_RET | unix.BPF_K, K: 0},
}

var (
	allNodes    = netip.MustParseAddr("ff02::1")
	allNodesMAC = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
)

// solicitedNode is the group for questions about an address (RFC 4291, 2.7.1).
func solicitedNode(addr netip.Addr) netip.Addr {
	group, a := netip.MustParseAddr("ff02::1:ff00:0").As16(), addr.As16()
	copy(group[13:], a[13:])
	return netip.AddrFrom16(group)
}

// answerNDP is what to say to a frame that asks for one of ours. Who asks without an address checks that the one it asks for is
// free: everybody is told that it is not.
func answerNDP(frame []byte, at segment, mine map[netip.Addr]bool) []byte {
	if len(frame) < solicitSize || !bytes.Equal(frame[12:14], []byte{0x86, 0xdd}) || frame[atNextHeader] != unix.IPPROTO_ICMPV6 ||
		frame[atHopLimit] != hops || frame[atType] != solicitation || frame[atCode] != 0 {
		return nil
	}
	target, source := netip.AddrFrom16([16]byte(frame[atTarget:solicitSize])), netip.AddrFrom16([16]byte(frame[atSource:atReceiver]))
	if !mine[target] || source.IsMulticast() {
		return nil
	}
	if source.IsUnspecified() {
		return announcementNDP(at, target)
	}
	return advertise(at, target, source, bytes.Clone(frame[6:12]), solicited|override)
}

// announcementNDP is for everybody: who knew an address elsewhere learns better.
func announcementNDP(at segment, addr netip.Addr) []byte {
	return advertise(at, addr, allNodes, allNodesMAC, override)
}

// advertise says to somebody that a target is at this link.
func advertise(at segment, target, to netip.Addr, mac net.HardwareAddr, flags byte) []byte {
	from, receiver := target.As16(), to.As16()
	body := bytes.Join([][]byte{{advertisement, 0, 0, 0, flags, 0, 0, 0}, from[:], {2, 1}, at.mac}, nil) // option 2: the target's hardware address
	binary.BigEndian.PutUint16(body[2:], checksum(from, receiver, body))
	length := binary.BigEndian.AppendUint16(nil, uint16(len(body)))
	return bytes.Join([][]byte{mac, at.mac, {0x86, 0xdd, 0x60, 0, 0, 0}, length, {unix.IPPROTO_ICMPV6, hops}, from[:], receiver[:], body}, nil)
}

// checksum of an ICMPv6 message, with the addresses it goes between (RFC 8200, 8.1).
func checksum(from, to [16]byte, body []byte) uint16 {
	var sum uint32
	for _, part := range [][]byte{from[:], to[:], binary.BigEndian.AppendUint32(nil, uint32(len(body))), {0, 0, 0, unix.IPPROTO_ICMPV6}, body} {
		for i := 0; i+1 < len(part); i += 2 { // all parts are even
			sum += uint32(part[i])<<8 | uint32(part[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
