package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/netstack/dump"
)

// stale matches UDP flows to a frontend whose packets the kernel still sends to an endpoint that is not behind it any more.
type stale struct {
	frontends map[Frontend][]netip.AddrPort
	node      map[netip.Addr]bool // this node's addresses
}

// MatchConntrackFlow is netlink's CustomConntrackFilter.
func (s stale) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	dialed := Frontend{Addr: addrOf(flow.Forward.DstIP), Proto: flow.Forward.Protocol, Port: flow.Forward.DstPort}
	live, ours := s.frontends[dialed]
	if !ours && s.node[dialed.Addr] {
		dialed.Addr = anywhere(dialed.Addr.Is6())
		live, ours = s.frontends[dialed]
	}
	return ours && !has(live, netip.AddrPortFrom(addrOf(flow.Reverse.SrcIP), flow.Reverse.SrcPort))
}

// dropFlows makes the kernel forget flows to endpoints that went away, so that the next packet is decided anew.
func dropFlows(frontends map[Frontend][]netip.AddrPort) error {
	if len(frontends) == 0 {
		return nil
	}
	filter := stale{frontends: frontends, node: map[netip.Addr]bool{}}
	families := map[netlink.InetFamily]bool{}
	for f := range frontends {
		families[inetFamily(f.Addr)] = true
	}
	for family := range families {
		addrs, err := dump.Addresses(nil, int(family))
		if err != nil {
			return fmt.Errorf("list addresses: %w", err)
		}
		for _, a := range addrs {
			filter.node[addrOf(a.IP)] = true
		}
	}
	var failed error
	for family := range families {
		_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, filter)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			failed = errors.Join(failed, fmt.Errorf("delete stale UDP flows: %w", err))
		}
	}
	return failed
}

func inetFamily(addr netip.Addr) netlink.InetFamily {
	if addr.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func addrOf(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}
