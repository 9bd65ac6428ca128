package overlay

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/netstack/dump"
)

// Link is the overlay's link by VXLAN, on every node.
const Link = "knarr-vxlan"

const (
	vni = 1
	// Port is 8472 and not the registered 4789: virtual networks of the machines' own provider often use that one, and
	// some drop it when it comes from a guest.
	Port = 8472
)

// Overhead is what the overlay adds to a packet between nodes with addresses of this family: an outer IP header, UDP, and
// VXLAN with the inner Ethernet header or WireGuard's header and authentication. Plain routes add nothing, but a pod keeps
// the MTU it began with, and the next node may be on another segment.
func Overhead(mode string, nodeIP netip.Addr) int {
	outer, inner := 40+8, 8+14
	if nodeIP.Unmap().Is4() {
		outer = 20 + 8
	}
	if mode == config.WireGuard {
		inner = 16 + 16
	}
	return outer + inner
}

// raise makes the link what it should be. One that was made for another address of this node is made anew.
func raise(self Peer, at place) (netlink.Link, error) {
	mtu, mac := at.mtu-Overhead(config.VXLAN, self.Address), hardwareOf(self.Ranges[0])
	link, err := find(Link)
	if err != nil {
		return nil, err
	}
	if link != nil && !fits(link, self) {
		if err := netlink.LinkDel(link); err != nil {
			return nil, fmt.Errorf("remove outdated link %s: %w", Link, err)
		}
		link = nil
	}
	if link == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr = Link, mtu, mac.addr()
		link = &netlink.Vxlan{LinkAttrs: attrs, VxlanId: vni, Port: Port, SrcAddr: self.Address.AsSlice()}
		if err := netlink.LinkAdd(link); err != nil {
			return nil, fmt.Errorf("add link %s: %w: the kernel needs vxlan, and UDP port %d must be free", Link, err, Port)
		}
	}
	if !bytes.Equal(link.Attrs().HardwareAddr, mac.addr()) {
		if err := netlink.LinkSetHardwareAddr(link, mac.addr()); err != nil {
			return nil, fmt.Errorf("set hardware address of %s: %w", Link, err)
		}
	}
	return link, bringUp(link, self.Ranges, mtu)
}

// find is a link by its name, nil when there is none.
func find(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find link %s: %w", name, err)
	}
	return link, nil
}

// bringUp gives a link its size and addresses, and sees to it that it carries packets.
func bringUp(link netlink.Link, ranges []netip.Prefix, mtu int) error {
	name := link.Attrs().Name
	if link.Attrs().MTU != mtu {
		if err := netlink.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set MTU of %s: %w", name, err)
		}
	}
	if err := addresses(link, ranges); err != nil {
		return err
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring up %s: %w", name, err)
		}
	}
	return nil
}

func fits(link netlink.Link, self Peer) bool {
	vxlan, ok := link.(*netlink.Vxlan)
	return ok && vxlan.VxlanId == vni && vxlan.Port == Port && !vxlan.Learning && vxlan.SrcAddr.Equal(self.Address.AsSlice())
}

// addresses makes the tunnel's ends the link's addresses: what this node itself sends to pods of others comes from them.
func addresses(link netlink.Link, ranges []netip.Prefix) error {
	name := link.Attrs().Name
	present, err := dump.Addresses(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", name, err)
	}
	missing := map[string]*netlink.Addr{}
	for _, r := range ranges {
		end := tunnelEnd(r)
		wanted := &netlink.Addr{IPNet: &net.IPNet{IP: end.AsSlice(), Mask: net.CIDRMask(end.BitLen(), end.BitLen())}}
		if end.Is6() {
			wanted.Flags = unix.IFA_F_NODAD // nobody else has it; asking takes the kernel a second
			if err := allowIPv6(name); err != nil {
				return err
			}
		}
		missing[wanted.IPNet.String()] = wanted
	}
	for _, a := range present {
		if _, wanted := missing[a.IPNet.String()]; wanted || a.IP.IsLinkLocalUnicast() { // which the kernel gave it
			delete(missing, a.IPNet.String())
			continue
		}
		if err := netlink.AddrDel(link, &a); err != nil {
			return fmt.Errorf("take address %s from %s: %w", a.IPNet, name, err)
		}
	}
	for text, a := range missing {
		if err := netlink.AddrAdd(link, a); err != nil {
			return fmt.Errorf("give %s the address %s: %w", name, text, err)
		}
	}
	return nil
}

// allowIPv6 undoes, for the link, what a machine may say of all new links.
func allowIPv6(name string) error {
	setting := "/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6"
	value, err := os.ReadFile(setting)
	if err == nil && strings.TrimSpace(string(value)) != "0" {
		err = os.WriteFile(setting, []byte("0"), 0o644)
	}
	if err != nil {
		return fmt.Errorf("allow IPv6 on %s: %w: pods have IPv6 addresses, so the kernel needs IPv6", name, err)
	}
	return nil
}

// place is the link with this node's address, what fits through it, and the networks it is on.
type place struct {
	link, mtu int
	networks  []netip.Prefix
}

// errElsewhere is normal for a moment: a machine that moved has begun anew, and its node object follows.
var errElsewhere = errors.New("the node object says another address than this machine has")

func placeOf(nodeIP netip.Addr) (place, error) {
	present, err := dump.Addresses(nil, netlink.FAMILY_ALL)
	if err != nil {
		return place{}, fmt.Errorf("list this machine's addresses: %w", err)
	}
	at, networks := place{}, map[int][]netip.Prefix{}
	for _, a := range present {
		if network, err := netip.ParsePrefix(a.IPNet.String()); err == nil {
			networks[a.LinkIndex] = append(networks[a.LinkIndex], network.Masked())
		}
		if ip, ok := netip.AddrFromSlice(a.IP); ok && ip.Unmap() == nodeIP {
			at.link = a.LinkIndex
		}
	}
	if at.link == 0 {
		return place{}, fmt.Errorf("%w: %s is on none of its links", errElsewhere, nodeIP)
	}
	link, err := netlink.LinkByIndex(at.link)
	if err != nil {
		return place{}, fmt.Errorf("find the link with address %s: %w", nodeIP, err)
	}
	at.mtu, at.networks = min(link.Attrs().MTU, 65535), networks[at.link]
	return at, nil
}

// read is what the link's tables hold in the families of this node's pods.
func read(link netlink.Link, self Peer) (tables, error) {
	have := plan(nil, self, nil)
	index := link.Attrs().Index
	for _, r := range self.Ranges {
		family := unix.AF_INET
		if r.Addr().Is6() {
			family = unix.AF_INET6
		}
		routes, err := dump.Routes(family,
			&netlink.Route{LinkIndex: index, Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
		if err != nil {
			return tables{}, fmt.Errorf("list routes of %s: %w", Link, err)
		}
		for _, route := range routes {
			if route.Dst == nil || route.Protocol == unix.RTPROT_KERNEL { // its own, for the link's addresses
				continue
			}
			dst, err := netip.ParsePrefix(route.Dst.String())
			if err != nil {
				return tables{}, fmt.Errorf("read route of %s: %w", Link, err)
			}
			gw, _ := netip.AddrFromSlice(route.Gw)
			have.routes[dst] = gw.Unmap()
		}
		neighbours, err := dump.Neighbours(index, family)
		if err != nil {
			return tables{}, fmt.Errorf("list neighbours of %s: %w", Link, err)
		}
		for _, n := range neighbours {
			ip, _ := netip.AddrFromSlice(n.IP)
			if n.State&unix.NUD_PERMANENT != 0 { // the others are the kernel's own
				have.neighbours[ip.Unmap()] = key(n.HardwareAddr)
			}
		}
	}
	forwarding, err := dump.Neighbours(index, unix.AF_BRIDGE)
	if err != nil {
		return tables{}, fmt.Errorf("list forwarding entries of %s: %w", Link, err)
	}
	for _, n := range forwarding {
		ip, _ := netip.AddrFromSlice(n.IP)
		have.forwarding[key(n.HardwareAddr)] = ip.Unmap()
	}
	return have, nil
}

func key(mac net.HardwareAddr) (h hardware) {
	copy(h[:], mac)
	return h
}

// write changes what differs. A way is opened from its far end and closed from its near end, so that no packet finds
// half of one.
func write(link netlink.Link, want, have tables) error {
	index := link.Attrs().Index
	forwarding := func(mac hardware, machine netip.Addr) *netlink.Neigh {
		return &netlink.Neigh{LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF,
			IP: machine.AsSlice(), HardwareAddr: mac.addr()}
	}
	neighbour := func(end netip.Addr, mac hardware) *netlink.Neigh {
		return &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: end.AsSlice(), HardwareAddr: mac.addr()}
	}
	route := func(pods netip.Prefix, end netip.Addr) *netlink.Route {
		return &netlink.Route{LinkIndex: index, Flags: int(netlink.FLAG_ONLINK), Gw: end.AsSlice(),
			Dst: &net.IPNet{IP: pods.Addr().AsSlice(), Mask: net.CIDRMask(pods.Bits(), pods.Addr().BitLen())}}
	}
	setRoutes, removeRoutes := difference(want.routes, have.routes)
	setNeighbours, removeNeighbours := difference(want.neighbours, have.neighbours)
	setForwarding, removeForwarding := difference(want.forwarding, have.forwarding)

	for _, pods := range removeRoutes {
		if err := netlink.RouteDel(route(pods, have.routes[pods])); gone(err) != nil {
			return fmt.Errorf("remove route to pods %s: %w", pods, err)
		}
	}
	for _, end := range removeNeighbours {
		if err := netlink.NeighDel(neighbour(end, have.neighbours[end])); gone(err) != nil {
			return fmt.Errorf("remove neighbour %s: %w", end, err)
		}
	}
	for _, mac := range removeForwarding {
		if err := netlink.NeighDel(forwarding(mac, have.forwarding[mac])); gone(err) != nil {
			return fmt.Errorf("remove way to machine %s: %w", have.forwarding[mac], err)
		}
	}
	for mac, machine := range setForwarding {
		if err := netlink.NeighSet(forwarding(mac, machine)); err != nil {
			return fmt.Errorf("set way to machine %s: %w", machine, err)
		}
	}
	for end, mac := range setNeighbours {
		if err := netlink.NeighSet(neighbour(end, mac)); err != nil {
			return fmt.Errorf("set neighbour %s: %w", end, err)
		}
	}
	for pods, end := range setRoutes {
		if err := netlink.RouteReplace(route(pods, end)); err != nil {
			return fmt.Errorf("set route to pods %s: %w", pods, err)
		}
	}
	return nil
}

// gone takes away the error of what was not there any more.
func gone(err error) error {
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// Remove takes the overlay off this machine's kernel: the links, with everything that hangs on them, and the routes.
func Remove() error {
	errs := []error{removeLink(Link), removeLink(Tunnel)}
	routes, err := readRoutes()
	errs = append(errs, err)
	for pods, way := range routes {
		errs = append(errs, removeRoute(pods, way))
	}
	return errors.Join(errs...)
}

func removeLink(name string) error {
	link, err := find(name)
	if err != nil || link == nil {
		return err
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}
