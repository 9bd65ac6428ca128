package announce

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/netstack/dump"
)

// segment is the network a node's address is on.
type segment struct {
	name   string // of the link
	index  int
	mac    net.HardwareAddr
	prefix netip.Prefix
}

func (s segment) same(o segment) bool { return s.index == o.index && bytes.Equal(s.mac, o.mac) }

// segmentOf looks up the link that has an address.
func segmentOf(ip netip.Addr) (segment, error) {
	all, err := dump.Addresses(nil, netlink.FAMILY_V4)
	if err != nil {
		return segment{}, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range all {
		if addr, ok := netip.AddrFromSlice(a.IP.To4()); !ok || addr != ip {
			continue
		}
		link, err := netlink.LinkByIndex(a.LinkIndex)
		if err != nil {
			return segment{}, fmt.Errorf("find the link of %s: %w", ip, err)
		}
		ones, _ := a.Mask.Size()
		attrs := link.Attrs()
		return segment{attrs.Name, attrs.Index, attrs.HardwareAddr, netip.PrefixFrom(ip, ones).Masked()}, nil
	}
	return segment{}, fmt.Errorf("no link has the node's address %s", ip)
}

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

// speaker answers questions for addresses on a segment, and announces them.
type speaker struct {
	at   segment
	file *os.File
	mine atomic.Pointer[map[netip.Addr]bool]

	answering sync.WaitGroup
	failure   atomic.Pointer[error]
}

// openSpeaker opens a packet socket for ARP on a link. It has to be answered and closed.
func openSpeaker(at segment) (*speaker, error) {
	if len(at.mac) != len(nobody) {
		return nil, fmt.Errorf("announce on link %s: it is no Ethernet link; route the load balancers' addresses to the nodes instead", at.name)
	}
	protocol := binary.NativeEndian.Uint16([]byte{unix.ETH_P_ARP >> 8, unix.ETH_P_ARP & 0xff})
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0) // 0: nothing arrives before it is bound
	if err != nil {
		return nil, fmt.Errorf("open a socket for ARP: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: at.index}); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("listen for ARP on link %s: %w", at.name, err)
	}
	s := &speaker{at: at, file: os.NewFile(uintptr(fd), "arp on "+at.name)}
	s.answering.Add(1)
	s.speakFor(map[netip.Addr]bool{})
	return s, nil
}

// speakFor replaces the addresses that are answered for, and returns those before. The map is not changed afterwards.
func (s *speaker) speakFor(mine map[netip.Addr]bool) (before map[netip.Addr]bool) {
	if old := s.mine.Swap(&mine); old != nil {
		return *old
	}
	return nil
}

// answer until close; lost is called if it ends before.
func (s *speaker) answer(lost func()) {
	defer s.answering.Done()
	buffer := make([]byte, 128) // the rest of a longer frame is of no interest
	for {
		n, err := s.file.Read(buffer)
		if err == nil {
			err = s.reply(buffer[:n])
		}
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			err = fmt.Errorf("answer ARP on link %s: %w", s.at.name, err)
			s.failure.Store(&err)
			lost()
			return
		}
	}
}

// reply to a frame that asks for one of ours. Who only checks that an address is free is told that it is not.
func (s *speaker) reply(frame []byte) error {
	p, ok := parse(frame)
	if !ok || p.operation != request || !(*s.mine.Load())[p.targetAddr] || p.senderAddr == p.targetAddr {
		return nil
	}
	answer := packet{reply, s.at.mac, p.senderMAC, p.targetAddr, p.senderAddr}
	_, err := s.file.Write(answer.frame(p.senderMAC))
	return err
}

// announce an address to everybody: who knew it elsewhere learns better.
func (s *speaker) announce(addr netip.Addr) error {
	p := packet{request, s.at.mac, nobody, addr, addr}
	if _, err := s.file.Write(p.frame(broadcast)); err != nil {
		return fmt.Errorf("announce %s on link %s: %w", addr, s.at.name, err)
	}
	return nil
}

// ended is why answering ended too early, or nil.
func (s *speaker) ended() error {
	if err := s.failure.Load(); err != nil {
		return *err
	}
	return nil
}

func (s *speaker) close() {
	_ = s.file.Close()
	s.answering.Wait()
}
