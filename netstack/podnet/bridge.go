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

	"knarr.dev/knarr/netstack/dump"
)

// Bridge is the link every pod of this node hangs on. Its first address is the pods' gateway; the cluster's DNS address
// is another.
const Bridge = "knarr0"

// raiseBridge makes the bridge what it should be; a second pass changes nothing.
func raiseBridge(podRange netip.Prefix, dns netip.Addr, mtu int) error {
	mac := hardware(gateway(podRange))
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
	if err := settle(bridgeSettings); err != nil {
		return err
	}
	if err := addresses(link, bridgeAddresses(podRange, dns)); err != nil {
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

// bridgeAddresses are the addresses the bridge should have: the gateway with the pod range, so that pods are on it, and
// the DNS server's, with nothing around it.
func bridgeAddresses(podRange netip.Prefix, dns netip.Addr) []netip.Prefix {
	wanted := []netip.Prefix{netip.PrefixFrom(gateway(podRange), podRange.Bits())}
	if dns.Is4() {
		wanted = append(wanted, netip.PrefixFrom(dns, dns.BitLen()))
	}
	return wanted
}

// addresses gives the link the wanted IPv4 addresses and takes all others away.
func addresses(link netlink.Link, wanted []netip.Prefix) error {
	present, err := dump.Addresses(link, netlink.FAMILY_V4)
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
		if !slices.Contains(wanted, prefix) {
			if err := netlink.AddrDel(link, &address); err != nil {
				return fmt.Errorf("take address %s from %s: %w", prefix, Bridge, err)
			}
		}
	}
	for _, prefix := range wanted {
		if slices.Contains(have, prefix) {
			continue
		}
		network := &net.IPNet{IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: network}); err != nil {
			return fmt.Errorf("give %s the address %s: %w", Bridge, prefix, err)
		}
	}
	return nil
}

// setting is one kernel setting under /proc/sys/net/ipv4.
type setting struct{ name, value, why string }

// bridgeSettings need the bridge to exist. The kernel takes a redirect as sent when either the link's own or the
// general setting says so, hence both.
var bridgeSettings = []setting{
	{"ip_forward", "1", "packets pass between pods and the world"},
	{"conf/all/send_redirects", "0", "pods must not be told to reach each other past the rules"},
	{"conf/" + Bridge + "/send_redirects", "0", "pods must not be told to reach each other past the rules"},
	{"conf/" + Bridge + "/route_localnet", "1", "host ports answer on the node's loopback address"},
}

// settle writes the settings that are not as they should be. Reading first matters where /proc/sys is read-only.
func settle(settings []setting) error {
	for _, s := range settings {
		path := filepath.Join("/proc/sys/net/ipv4", s.name)
		value, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read kernel setting: %w", err)
		}
		if strings.TrimSpace(string(value)) == s.value {
			continue
		}
		if err := os.WriteFile(path, []byte(s.value), 0o644); err != nil {
			return fmt.Errorf("set net.ipv4.%s to %s (%s): %w: set it on the host, or make /proc/sys writable",
				strings.ReplaceAll(s.name, "/", "."), s.value, s.why, err)
		}
	}
	return nil
}

// podMTU is what fits through the link that carries the node's address, less what the overlay adds to each packet.
func podMTU(nodeIP netip.Addr, overhead int) (int, error) {
	uplink, err := uplink(nodeIP)
	if err != nil {
		return 0, err
	}
	mtu := min(uplink.Attrs().MTU, 65535) - overhead // a loopback's MTU is more than a packet can be
	if mtu < 576 {
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
