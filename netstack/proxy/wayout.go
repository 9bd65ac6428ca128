package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The kernel looks for a route before our output chain may turn a cluster address into an endpoint's. A machine without
// a default route would refuse its own programs every Service. So there is a route of last resort, in a table that is
// asked after all others: a machine with a default route never gets there.
const (
	wayOutTable    = 27502 // any number that nobody else uses
	wayOutPriority = 40000 // after main (32766) and default (32767)
)

func addWayOut(ranges []netip.Prefix) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the loopback interface: %w", err)
	}
	for _, r := range ranges {
		// The interface only has to be up: the packet is on its way to an endpoint before it gets there.
		route := &netlink.Route{LinkIndex: lo.Attrs().Index, Dst: network(r), Table: wayOutTable, Scope: netlink.SCOPE_LINK}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("add the route of last resort for %s: %w", r, err)
		}
		if err := netlink.RuleAdd(wayOutRule(familyFor(r))); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("add the routing rule of last resort: %w", err)
		}
	}
	return nil
}

func removeWayOut() error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Table: wayOutTable}, netlink.RT_FILTER_TABLE)
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
		if err := netlink.RuleDel(wayOutRule(family)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("delete the routing rule of last resort: %w", err)
		}
	}
	return nil
}

func wayOutRule(family int) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family, rule.Table, rule.Priority = family, wayOutTable, wayOutPriority
	return rule
}

func familyFor(r netip.Prefix) int { return int(inetFamily(r.Addr())) }

func network(r netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: r.Masked().Addr().AsSlice(), Mask: net.CIDRMask(r.Bits(), r.Addr().BitLen())}
}
