package announce

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// arp is how neighbours of IPv4 find each other.
var arp = tongue{name: "ARP", protocol: unix.ETH_P_ARP, answer: answerARP, announcement: announcementARP}

// The parts of an ARP packet in an Ethernet frame (RFC 826).
const (
	frameSize      = 14 + 28
	request, reply = 1, 2
)

var (
	broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	nobody    = make(net.HardwareAddr, 6)
	// kinds: ARP in Ethernet; hardware Ethernet, protocol IPv4, their lengths.
	etherType = []byte{0x08, 0x06}
	kinds     = []byte{0, 1, 0x08, 0x00, 6, 4}
)

// packet is what matters of an ARP packet for IPv4 on Ethernet.
type packet struct {
	operation              uint16
	senderMAC, targetMAC   net.HardwareAddr
	senderAddr, targetAddr netip.Addr
}

// parse a frame; ok is false for anything that is not ARP for IPv4 on Ethernet.
func parse(frame []byte) (p packet, ok bool) {
	if len(frame) < frameSize || !bytes.Equal(frame[12:14], etherType) || !bytes.Equal(frame[14:20], kinds) {
		return packet{}, false
	}
	return packet{
		operation: binary.BigEndian.Uint16(frame[20:22]),
		senderMAC: frame[22:28], senderAddr: netip.AddrFrom4([4]byte(frame[28:32])),
		targetMAC: frame[32:38], targetAddr: netip.AddrFrom4([4]byte(frame[38:42])),
	}, true
}

// frame is the packet on its way to a machine.
func (p packet) frame(to net.HardwareAddr) []byte {
	sender, target := p.senderAddr.As4(), p.targetAddr.As4()
	operation := binary.BigEndian.AppendUint16(nil, p.operation)
	return bytes.Join([][]byte{to, p.senderMAC, etherType, kinds, operation, p.senderMAC, sender[:], p.targetMAC, target[:]}, nil)
}

// answerARP is what to say to a frame that asks for one of ours. Who only checks that an address is free is told that it is not.
func answerARP(frame []byte, at segment, mine map[netip.Addr]bool) []byte {
	p, ok := parse(frame)
	if !ok || p.operation != request || !mine[p.targetAddr] || p.senderAddr == p.targetAddr {
		return nil
	}
	answer := packet{reply, at.mac, p.senderMAC, p.targetAddr, p.senderAddr}
	return answer.frame(p.senderMAC)
}

// announcementARP is for everybody: who knew an address elsewhere learns better.
func announcementARP(at segment, addr netip.Addr) []byte {
	return packet{request, at.mac, nobody, addr, addr}.frame(broadcast)
}
