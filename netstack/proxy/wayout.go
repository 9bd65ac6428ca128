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

// The kernel looks for a route before our output chain may turn a cluster address into an endpoint's. A machine without
// a default route would refuse its own programs every Service. So there is a route of last resort.
//
// For IPv4 it is in the table that the kernel asks after main: a machine with a default route never gets there. IPv6 has
// no such table, so there it is in main. A table of our own would take a routing rule, and with the first rule that is
// not the kernel's own every packet that a machine forwards costs two walks through all of them (TestNoRoutingRules).
func wayOutTable(family int) int {
	if family == unix.AF_INET6 {
		return unix.RT_TABLE_MAIN
	}
	return unix.RT_TABLE_DEFAULT
}

// wayOutProtocol marks our routes in tables that are everybody's: any number that nobody else uses.
const wayOutProtocol = 107

func addWayOut(ranges []netip.Prefix) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback interface: %w", err)
	}
	for _, r := range ranges {
		// The interface only has to be up: the packet is on its way to an endpoint before it gets there.
		route := &netlink.Route{
			LinkIndex: lo.Attrs().Index, Dst: network(r), Table: wayOutTable(familyFor(r)), Protocol: wayOutProtocol, Scope: netlink.SCOPE_LINK,
		}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("add the route of last resort for %s: %w", r, err)
		}
	}
	return nil
}

func removeWayOut() error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		ours := &netlink.Route{Table: wayOutTable(family), Protocol: wayOutProtocol}
		routes, err := dump.Routes(family, ours, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // a kernel without this family
		}
		if err != nil {
			return fmt.Errorf("list routes of last resort: %w", err)
		}
		for i := range routes {
			if err := netlink.RouteDel(&routes[i]); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("delete the route of last resort for %s: %w", routes[i].Dst, err)
			}
		}
	}
	return nil
}

func familyFor(r netip.Prefix) int { return int(inetFamily(r.Addr())) }

func network(r netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: r.Masked().Addr().AsSlice(), Mask: net.CIDRMask(r.Bits(), r.Addr().BitLen())}
}
