package podnet

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/netstack/dump"
)

// Bridge is the link every pod of this node hangs on. Its first address of each family is the pods' gateway; the cluster's
// DNS address is another.
const Bridge = "knarr0"

// raiseBridge makes the bridge what it should be; a second pass changes nothing.
func raiseBridge(ranges []netip.Prefix, dns netip.Addr, mtu int, nodeIPs []netip.Addr) error {
	mac := hardware(gateway(ranges[0]))
	link, err := netlink.LinkByName(Bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr, attrs.MTU = Bridge, mac, mtu
		link = &netlink.Bridge{LinkAttrs: attrs}
		if err := netlink.LinkAdd(link); err != nil {
			return fmt.Errorf("add bridge %s: %w", Bridge, err)
		}
		if err := replug(link); err != nil {
			return err
		}
	} else if err != nil {
		return fmt.Errorf("find bridge %s: %w", Bridge, err)
	}
	if link.Type() != "bridge" {
		return fmt.Errorf("link %s exists and is a %s, not knarr's bridge: remove or rename it", Bridge, link.Type())
	}
	// Set even when it fits already: a bridge whose address was never set takes that of one of its ports, and
	// changes it when the port goes.
	if !bytes.Equal(link.Attrs().HardwareAddr, mac) {
		if err := netlink.LinkSetHardwareAddr(link, mac); err != nil {
			return fmt.Errorf("set hardware address of %s: %w", Bridge, err)
		}
	}
	if link.Attrs().MTU != mtu {
		if err := netlink.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("set MTU of %s: %w", Bridge, err)
		}
	}
	if hasIPv6(ranges) {
		if err := keepAdvertised(nodeIPs); err != nil {
			return err
		}
	}
	if err := settle(bridgeSettings(ranges)); err != nil {
		return err
	}
	if err := addresses(link, bridgeAddresses(ranges, dns)); err != nil {
		return err
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring up %s: %w", Bridge, err)
		}
	}
	return nil
}

// replug puts the pods there are on a new bridge: somebody took the old one away.
func replug(bridge netlink.Link) error {
	links, err := dump.Links()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, link := range links {
		if !strings.HasPrefix(link.Attrs().Name, linkPrefix) {
			continue
		}
		if err := plug(link, bridge); err != nil {
			return err
		}
	}
	return nil
}

// plug makes a pod's link a port of the bridge. A pod that reaches itself through a service comes back through the port
// it left by, where bridged frames do pass the rules of IP.
func plug(link, bridge netlink.Link) error {
	if err := netlink.LinkSetMaster(link, bridge); err != nil {
		return fmt.Errorf("make %s a port of %s: %w", link.Attrs().Name, Bridge, err)
	}
	if err := netlink.LinkSetHairpin(link, true); err != nil {
		return fmt.Errorf("allow hairpin traffic on %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// bridgeAddresses are the addresses the bridge should have: the gateways with the pod ranges, so that pods are on it, and
// the DNS server's, with nothing around it.
func bridgeAddresses(ranges []netip.Prefix, dns netip.Addr) (wanted []netip.Prefix) {
	for _, r := range ranges {
		wanted = append(wanted, netip.PrefixFrom(gateway(r), r.Bits()))
	}
	if dns.Is4() || dns.Is6() && hasIPv6(ranges) {
		wanted = append(wanted, netip.PrefixFrom(dns, dns.BitLen()))
	}
	return wanted
}

// addresses gives the link the wanted addresses and takes all others away, but for what the kernel itself gave it.
func addresses(link netlink.Link, wanted []netip.Prefix) error {
	present, err := dump.Addresses(link, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", Bridge, err)
	}
	var have []netip.Prefix
	for _, address := range present {
		prefix, err := netip.ParsePrefix(address.IPNet.String())
		if err != nil {
			return fmt.Errorf("read address of %s: %w", Bridge, err)
		}
		have = append(have, prefix)
		if !slices.Contains(wanted, prefix) && !prefix.Addr().IsLinkLocalUnicast() {
			if err := netlink.AddrDel(link, &address); err != nil {
				return fmt.Errorf("take address %s from %s: %w", prefix, Bridge, err)
			}
		}
	}
	for _, prefix := range wanted {
		if slices.Contains(have, prefix) {
			continue
		}
		if err := netlink.AddrAdd(link, addressOf(prefix)); err != nil {
			return fmt.Errorf("give %s the address %s: %w", Bridge, prefix, err)
		}
	}
	return nil
}

// addressOf is an address for a link. One of IPv6 is used at once: that nobody else has it is known, and the kernel
// would take a second to ask.
func addressOf(prefix netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: network(prefix)}
	if prefix.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

func network(prefix netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
}

func hasIPv6(ranges []netip.Prefix) bool {
	return slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return r.Addr().Is6() })
}

// setting is one kernel setting under /proc/sys/net. One that is not needed is passed over where it cannot be made: kernels
// without IPv6 have none of its settings.
type setting struct {
	name, value, why string
	needed           bool
}

// bridgeSettings need the bridge to exist. The kernel takes a redirect as sent when either the link's own or the
// general setting says so, hence both.
func bridgeSettings(ranges []netip.Prefix) []setting {
	v6 := hasIPv6(ranges)
	settings := []setting{
		{"ipv6/conf/" + Bridge + "/accept_ra", "0", "pods must not pose as routers to their node", v6},
	}
	for _, r := range ranges {
		if r.Addr().Is4() {
			settings = append(settings,
				setting{"ipv4/ip_forward", "1", "packets pass between pods and the world", true},
				setting{"ipv4/conf/all/send_redirects", "0", "pods must not be told to reach each other past the rules", true},
				setting{"ipv4/conf/" + Bridge + "/send_redirects", "0", "pods must not be told to reach each other past the rules", true},
				setting{"ipv4/conf/" + Bridge + "/route_localnet", "1", "host ports answer on the node's loopback address", true},
			)
			continue
		}
		settings = append(settings,
			setting{"ipv6/conf/" + Bridge + "/disable_ipv6", "0", "pods have IPv6 addresses", true},
			setting{"ipv6/conf/" + Bridge + "/accept_dad", "0", "nobody is asked for while the bridge's own address is on trial", true},
			setting{"ipv6/conf/all/forwarding", "1", "packets pass between pods and the world", true},
		)
	}
	return settings
}

// podSettings are for a pod's link, before it is up. A pod gets no link-local address: neighbours on one bridge would
// reach each other by it, past the rules. Nor does it believe neighbours who say that they are routers (CVE-2020-10749).
func podSettings(w wire) []setting {
	v6 := slices.ContainsFunc(w.ends, func(e end) bool { return e.address.Is6() })
	at := "ipv6/conf/" + w.ifName + "/"
	settings := []setting{
		{at + "addr_gen_mode", "1", "pods reach each other through the rules alone", v6},
		{at + "accept_ra", "0", "pods must not pose as routers to each other", v6},
	}
	if v6 {
		settings = append(settings,
			setting{at + "disable_ipv6", "0", "pods have IPv6 addresses", true},
			setting{at + "accept_redirects", "0", "pods must not be told to reach each other past the rules", true},
		)
	}
	return settings
}

// keepAdvertised lets the links of the machine's own addresses go on to learn from routers: the kernel stops that, and
// forgets what it learnt, when it begins to forward packets of IPv6 itself.
func keepAdvertised(nodeIPs []netip.Addr) error {
	forwarding, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/forwarding")
	if err != nil || strings.TrimSpace(string(forwarding)) != "0" {
		return nil // a kernel without IPv6 fails at the setting itself; one that forwards already was set up for it
	}
	for _, ip := range nodeIPs {
		link, err := uplink(ip)
		if err != nil {
			continue // the address may be of a machine that was moved; what needs it says so
		}
		name := "ipv6/conf/" + link.Attrs().Name + "/accept_ra"
		if learns, err := os.ReadFile(filepath.Join("/proc/sys/net", name)); err != nil || strings.TrimSpace(string(learns)) != "1" {
			continue
		}
		if err := settle([]setting{{name, "2", "the machine learns its routes from a router", true}}); err != nil {
			return err
		}
	}
	return nil
}

// settle writes the settings that are not as they should be. Reading first matters where /proc/sys is read-only.
func settle(settings []setting) error {
	for _, s := range settings {
		path := filepath.Join("/proc/sys/net", s.name)
		value, err := os.ReadFile(path)
		if err == nil && strings.TrimSpace(string(value)) == s.value {
			continue
		}
		if err == nil {
			err = os.WriteFile(path, []byte(s.value), 0o644)
		}
		if err != nil && s.needed {
			return fmt.Errorf("set net.%s to %s (%s): %w: set it on the host, make /proc/sys writable, and see that the kernel has the family",
				strings.ReplaceAll(s.name, "/", "."), s.value, s.why, err)
		}
	}
	return nil
}

// podMTU is what fits through the link that carries the node's address, less what the overlay adds to each packet.
func podMTU(nodeIP netip.Addr, overhead int, ranges []netip.Prefix) (int, error) {
	uplink, err := uplink(nodeIP)
	if err != nil {
		return 0, err
	}
	mtu := min(uplink.Attrs().MTU, 65535) - overhead // a loopback's MTU is more than a packet can be
	least := 576
	if hasIPv6(ranges) {
		least = 1280 // RFC 8200
	}
	if mtu < least {
		return 0, fmt.Errorf("link %s carries packets of %d bytes, too small for a pod network: raise its MTU",
			uplink.Attrs().Name, uplink.Attrs().MTU)
	}
	return mtu, nil
}

// uplink is the link with the node's address.
func uplink(nodeIP netip.Addr) (netlink.Link, error) {
	present, err := dump.Addresses(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list this machine's addresses: %w", err)
	}
	for _, address := range present {
		if ip, ok := netip.AddrFromSlice(address.IP); ok && ip.Unmap() == nodeIP.Unmap() {
			link, err := netlink.LinkByIndex(address.LinkIndex)
			if err != nil {
				return nil, fmt.Errorf("find the link with address %s: %w", nodeIP, err)
			}
			return link, nil
		}
	}
	return nil, fmt.Errorf("no link of this machine has the node address %s: set --node-ip to an address it has", nodeIP)
}
