package podnet

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/netstack/cni"
)

// linkPrefix begins the name of the host's end of every pod's link, and of nothing else on this machine.
const linkPrefix = "knp"

// hostLink names the host's end after the container, so that DEL finds it without being told.
func hostLink(containerID, ifName string) string {
	sum := sha256.Sum256([]byte(containerID + "/" + ifName))
	return linkPrefix + hex.EncodeToString(sum[:])[:unix.IFNAMSIZ-1-len(linkPrefix)]
}

// hardware is the MAC that goes with an address. Being a function of it, what others remember about an address stays
// true when another pod gets the address, and when the bridge is made anew. Of an IPv6 address the end is taken, in which
// the addresses of one node differ; a pod with two addresses has the MAC of its first one.
func hardware(address netip.Addr) net.HardwareAddr {
	if address.Is4() {
		a := address.As4()
		return net.HardwareAddr{0x0a, 0x6b, a[0], a[1], a[2], a[3]}
	}
	a := address.As16()
	return net.HardwareAddr{0x0a, 0x6c, a[12], a[13], a[14], a[15]}
}

// wire is one pod's place in the network.
type wire struct {
	netns  string
	ifName string
	host   string // the host's end
	ends   []end
	mtu    int
}

// end is one family of a wire.
type end struct{ address, gateway netip.Addr }

// result is how CNI tells of a wire.
func (w wire) result() *cni.Result {
	r := &cni.Result{Interfaces: []cni.Interface{
		{Name: w.host, Mac: hardware(w.ends[0].gateway).String()},
		{Name: w.ifName, Mac: hardware(w.ends[0].address).String(), Sandbox: w.netns},
	}}
	for _, e := range w.ends {
		r.IPs = append(r.IPs, cni.IP{Address: netip.PrefixFrom(e.address, e.address.BitLen()).String(), Gateway: e.gateway.String(), Interface: 1})
		everywhere := "0.0.0.0/0"
		if e.address.Is6() {
			everywhere = "::/0"
		}
		r.Routes = append(r.Routes, cni.Route{Dst: everywhere, GW: e.gateway.String()})
	}
	return r
}

// connect builds the link. It may have been half built before by a process that was killed.
//
// The pod has its address alone, without the range around it: whatever it sends goes to the gateway. So traffic
// between two pods of one node is routed like all other traffic, passes the same rules in both directions, and does not
// depend on whether this kernel lets bridged frames through the rules of IP (bridge-nf-call-iptables).
func connect(w wire) error {
	bridge, err := netlink.LinkByName(Bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", Bridge, err)
	}
	pod, err := netns.GetFromPath(w.netns)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", w.netns, err)
	}
	defer pod.Close()

	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.Flags = w.host, w.mtu, net.FlagUp
	veth := netlink.NewVeth(attrs)
	veth.PeerName = w.ifName
	veth.PeerNamespace = netlink.NsFd(int(pod))
	veth.PeerHardwareAddr = hardware(w.ends[0].address)
	veth.PeerMTU = uint32(w.mtu)
	err = netlink.LinkAdd(veth)
	if errors.Is(err, os.ErrExist) {
		if err := removeLink(w.host); err != nil {
			return err
		}
		err = netlink.LinkAdd(veth)
	}
	if err != nil {
		return fmt.Errorf("add link %s: %w", w.host, err)
	}
	if err := plug(veth, bridge); err != nil {
		return errors.Join(err, removeLink(w.host))
	}
	if err := inside(pod, func() error { return furnish(w) }); err != nil {
		return errors.Join(err, removeLink(w.host))
	}
	if err := carrying(netlink.LinkByName, w.host); err != nil {
		return err
	}
	return carrying(netlink.LinkByName, Bridge) // which follows its first port
}

// furnish sets up the pod's side; it runs in the pod's namespace.
func furnish(w wire) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink in the pod: %w", err)
	}
	defer h.Close()
	loopback, err := h.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find the pod's loopback: %w", err)
	}
	if err := h.LinkSetUp(loopback); err != nil {
		return fmt.Errorf("bring up the pod's loopback: %w", err)
	}
	link, err := h.LinkByName(w.ifName)
	if err != nil {
		return fmt.Errorf("find %s in the pod: %w", w.ifName, err)
	}
	if err := settle(podSettings(w)); err != nil {
		return err
	}
	for _, e := range w.ends {
		if err := h.AddrAdd(link, addressOf(netip.PrefixFrom(e.address, e.address.BitLen()))); err != nil {
			return fmt.Errorf("give %s the address %s: %w", w.ifName, e.address, err)
		}
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up %s in the pod: %w", w.ifName, err)
	}
	index := link.Attrs().Index
	for _, e := range w.ends {
		if e.address.Is6() {
			// A link without link-local address cannot ask whether a neighbour is still there. This one is as long as the
			// pod, at the address that follows from its own.
			neighbour := &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: e.gateway.AsSlice(), HardwareAddr: hardware(w.ends[0].gateway)}
			if err := h.NeighSet(neighbour); err != nil {
				return fmt.Errorf("tell the pod where %s is: %w", e.gateway, err)
			}
		}
		for _, route := range []netlink.Route{
			{LinkIndex: index, Dst: network(netip.PrefixFrom(e.gateway, e.gateway.BitLen())), Scope: netlink.SCOPE_LINK},
			{LinkIndex: index, Gw: e.gateway.AsSlice()},
		} {
			if err := h.RouteAdd(&route); err != nil {
				return fmt.Errorf("add route through %s in the pod: %w", e.gateway, err)
			}
		}
	}
	return carrying(h.LinkByName, w.ifName)
}

// carrying waits until a link that is up carries packets, which the kernel sees to a moment later and in its own time.
// A pod's first packet would be lost before, and repeated after a whole second. Recent kernels see to it when they are
// asked for the link, so that there is nothing to wait for.
func carrying(find func(string) (netlink.Link, error), name string) error {
	for range 500 {
		link, err := find(name)
		if err != nil {
			return fmt.Errorf("find link %s: %w", name, err)
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		time.Sleep(time.Millisecond)
	}
	return nil // it will, and packets are repeated
}

// connected says what of the pod's link is missing.
func connected(w wire) error {
	link, err := netlink.LinkByName(w.host)
	if err != nil {
		return fmt.Errorf("find link %s: %w", w.host, err)
	}
	bridge, err := netlink.LinkByName(Bridge)
	if err != nil {
		return fmt.Errorf("find bridge %s: %w", Bridge, err)
	}
	if link.Attrs().MasterIndex != bridge.Attrs().Index {
		return fmt.Errorf("link %s is not a port of %s", w.host, Bridge)
	}
	pod, err := netns.GetFromPath(w.netns)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", w.netns, err)
	}
	defer pod.Close()
	return inside(pod, func() error {
		iface, err := net.InterfaceByName(w.ifName)
		if err != nil {
			return fmt.Errorf("find %s in the pod: %w", w.ifName, err)
		}
		addresses, err := iface.Addrs()
		if err != nil {
			return fmt.Errorf("list addresses of %s in the pod: %w", w.ifName, err)
		}
		var has []netip.Addr
		for _, address := range addresses {
			if prefix, err := netip.ParsePrefix(address.String()); err == nil {
				has = append(has, prefix.Addr())
			}
		}
		for _, e := range w.ends {
			if !slices.Contains(has, e.address) {
				return fmt.Errorf("%s in the pod has no address %s", w.ifName, e.address)
			}
		}
		return nil
	})
}

// inside runs f in a network namespace, on a thread of its own: it ends with f, so that no later work can find itself
// in a pod's namespace by accident.
func inside(ns netns.NsHandle, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end, and /proc/self shows the world its namespaces. While it is locked here,
			// the next goroutine gets another one.
			defer runtime.UnlockOSThread()
			done <- inside(ns, f)
			return
		}
		if err := netns.Set(ns); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- f() // never unlocked: the thread ends with this goroutine
	}()
	return <-done
}

// removeLink removes a link of ours, and what keeps it within its limits; what is gone already is as good.
func removeLink(name string) error {
	err := deleteLink(name)
	if strings.HasPrefix(name, linkPrefix) {
		err = errors.Join(err, removeShaper(name))
	}
	return err
}

func deleteLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("remove link %s: %w", name, err)
	}
	return nil
}

// alive says whether a path still names a network namespace. After a reboot, or when its mount is gone, an empty file
// may remain.
func alive(path string) bool {
	var fs unix.Statfs_t
	return unix.Statfs(path, &fs) == nil && fs.Type == unix.NSFS_MAGIC
}
