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
	all, err := dump.Addresses(nil, netlink.FAMILY_ALL)
	if err != nil {
		return segment{}, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range all {
		if addr, ok := netip.AddrFromSlice(a.IP); !ok || addr.Unmap() != ip {
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

// tongue is how neighbours of a family find each other.
type tongue struct {
	name         string
	protocol     uint16 // of Ethernet
	filter       []unix.SockFilter
	answer       func(frame []byte, at segment, mine map[netip.Addr]bool) []byte // nil is none
	announcement func(at segment, addr netip.Addr) []byte
	group        func(netip.Addr) netip.Addr // to which questions for an address are sent; nil: to everybody
}

func tongueOf(v6 bool) tongue {
	if v6 {
		return ndp
	}
	return arp
}

// speaker answers questions for addresses on a segment, and announces them.
type speaker struct {
	tongue
	at     segment
	file   *os.File
	groups *os.File // through which groups are joined; nil where questions go to everybody
	mine   atomic.Pointer[map[netip.Addr]bool]

	answering sync.WaitGroup
	failure   atomic.Pointer[error]
}

// openSpeaker opens a packet socket on a link. It has to be answered and closed.
func openSpeaker(at segment) (*speaker, error) {
	speaks := tongueOf(at.prefix.Addr().Is6())
	if len(at.mac) != len(nobody) {
		return nil, fmt.Errorf("announce on link %s: it is no Ethernet link; route the load balancers' addresses to the nodes instead", at.name)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0) // 0: nothing arrives before it is bound
	if err != nil {
		return nil, fmt.Errorf("open a socket for %s: %w", speaks.name, err)
	}
	if len(speaks.filter) > 0 {
		err = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(speaks.filter)), Filter: &speaks.filter[0]})
	}
	if err == nil {
		protocol := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, speaks.protocol))
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: at.index})
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("listen for %s on link %s: %w", speaks.name, at.name, err)
	}
	s := &speaker{tongue: speaks, at: at, file: os.NewFile(uintptr(fd), speaks.name+" on "+at.name)}
	if speaks.group != nil {
		if fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			_ = s.file.Close()
			return nil, fmt.Errorf("open a socket for groups of %s: %w", speaks.name, err)
		}
		s.groups = os.NewFile(uintptr(fd), "groups on "+at.name)
	}
	s.mine.Store(&map[netip.Addr]bool{})
	s.answering.Add(1)
	return s, nil
}

// speakFor replaces the addresses that are answered for, and returns those before. The map is not changed afterwards.
func (s *speaker) speakFor(mine map[netip.Addr]bool) (before map[netip.Addr]bool, err error) {
	before = *s.mine.Load()
	if err := s.listen(before, mine); err != nil {
		return nil, err
	}
	s.mine.Store(&mine)
	return before, nil
}

// listen has the link take in, and switches pass on, what is asked about some addresses and no longer what was asked about
// those before.
func (s *speaker) listen(before, mine map[netip.Addr]bool) error {
	if s.group == nil {
		return nil
	}
	had, wants := s.groupsOf(before), s.groupsOf(mine)
	change := func(option int, group netip.Addr) error {
		err := unix.SetsockoptIPv6Mreq(int(s.groups.Fd()), unix.IPPROTO_IPV6, option, &unix.IPv6Mreq{Multiaddr: group.As16(), Interface: uint32(s.at.index)})
		if err != nil {
			return fmt.Errorf("listen to %s on link %s: %w", group, s.at.name, err)
		}
		return nil
	}
	for group := range wants {
		if !had[group] {
			if err := change(unix.IPV6_JOIN_GROUP, group); err != nil {
				return err // the speaker is closed, and with it goes what was joined
			}
		}
	}
	for group := range had {
		if !wants[group] {
			if err := change(unix.IPV6_LEAVE_GROUP, group); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *speaker) groupsOf(addresses map[netip.Addr]bool) map[netip.Addr]bool {
	groups := map[netip.Addr]bool{}
	for addr := range addresses {
		groups[s.group(addr)] = true
	}
	return groups
}

// talk answers until close; lost is called if it ends before.
func (s *speaker) talk(lost func()) {
	defer s.answering.Done()
	buffer := make([]byte, 128) // the rest of a longer frame is of no interest
	for {
		n, err := s.file.Read(buffer)
		if err == nil {
			if answer := s.answer(buffer[:n], s.at, *s.mine.Load()); answer != nil {
				_, err = s.file.Write(answer)
			}
		}
		if errors.Is(err, os.ErrClosed) {
			return
		}
		if err != nil {
			err = fmt.Errorf("answer %s on link %s: %w", s.name, s.at.name, err)
			s.failure.Store(&err)
			lost()
			return
		}
	}
}

// announce an address to everybody.
func (s *speaker) announce(addr netip.Addr) error {
	if _, err := s.file.Write(s.announcement(s.at, addr)); err != nil {
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
	if s.groups != nil {
		_ = s.groups.Close()
	}
	s.answering.Wait()
}
