package overlay

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/netstack/dump"
)

// routeProtocol marks our routes on links that are everybody's: any number that nobody else uses.
const routeProtocol = 108

// lastResort is the metric of the routes that lead nowhere: every other route for the same addresses comes first.
const lastResort = 1 << 30

// route is the way to a range of pods: by a machine on the same segment, into a link, or, if it names neither, nowhere.
type route struct {
	via  netip.Addr
	link int
}

// kernel is the route in netlink's words.
func (r route) kernel(pods netip.Prefix) *netlink.Route {
	k := &netlink.Route{
		Dst:   &net.IPNet{IP: pods.Addr().AsSlice(), Mask: net.CIDRMask(pods.Bits(), pods.Addr().BitLen())},
		Table: unix.RT_TABLE_MAIN, Protocol: routeProtocol, LinkIndex: r.link,
	}
	switch {
	case r.via.IsValid():
		k.Gw = r.via.AsSlice()
	case r.link != 0:
		k.Scope = netlink.SCOPE_LINK
	default:
		k.Type, k.Priority = unix.RTN_BLACKHOLE, lastResort
	}
	return k
}

// readRoutes are the routes of ours that are there.
func readRoutes() (map[netip.Prefix]route, error) {
	have := map[netip.Prefix]route{}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		routes, err := dump.Routes(family, &netlink.Route{Table: unix.RT_TABLE_MAIN, Protocol: routeProtocol}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
		if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
			continue // a kernel without this family
		}
		if err != nil {
			return nil, fmt.Errorf("list routes to pods: %w", err)
		}
		for _, k := range routes {
			if k.Dst == nil {
				continue
			}
			pods, err := netip.ParsePrefix(k.Dst.String())
			if err != nil {
				return nil, fmt.Errorf("read route to pods: %w", err)
			}
			way := route{}
			if k.Type != unix.RTN_BLACKHOLE {
				via, _ := netip.AddrFromSlice(k.Gw)
				way = route{via: via.Unmap(), link: k.LinkIndex}
			}
			have[pods] = way
		}
	}
	return have, nil
}

func setRoutes(ways map[netip.Prefix]route) error {
	for pods, way := range ways {
		if err := netlink.RouteReplace(way.kernel(pods)); err != nil {
			return fmt.Errorf("set route to pods %s: %w", pods, err)
		}
	}
	return nil
}

// reroute makes the wanted ways of those that are there.
func reroute(want, have map[netip.Prefix]route) error {
	set, remove := difference(want, have)
	if err := setRoutes(set); err != nil {
		return err
	}
	for _, pods := range remove {
		if err := removeRoute(pods, have[pods]); err != nil {
			return err
		}
	}
	return nil
}

func removeRoute(pods netip.Prefix, way route) error {
	if err := netlink.RouteDel(way.kernel(pods)); gone(err) != nil {
		return fmt.Errorf("remove route to pods %s: %w", pods, err)
	}
	return nil
}
