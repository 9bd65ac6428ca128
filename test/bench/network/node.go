package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// A node with two wires: to a pod that asks, and to all pods that answer. Each is a network namespace.
//
//	client 10.191.0.9 ── asks ┤ node, with the proxy ├ pods ── backends: every address of the endpoints
var (
	nodeAddr   = netip.MustParseAddr("192.168.9.1")
	gateway    = netip.MustParseAddr("169.254.1.1") // the node's end of both wires
	neighbour  = netip.MustParseAddr("169.254.1.2") // the other end
	clientAddr = netip.MustParseAddr("10.191.0.9")
)

// closed is how long the kernel remembers a connection that was reset. All nodes share the table that is in, so the
// connections of one measurement would be in the way of the next for the usual ten seconds.
const closed = time.Second

type node struct {
	self, client, backends place
	api                    net.Listener
	stop                   func()
}

// place is a network namespace.
type place struct{ ns netns.NsHandle }

// here is where the caller is.
func here() (p place, err error) {
	p.ns, err = netns.Get()
	return p, err
}

func newPlace() (p place, err error) {
	err = away(func() error {
		p.ns, err = netns.New()
		return err
	})
	return p, err
}

// do runs f on a thread in the namespace. The thread comes back to where it was: a process that it started may be tied to it.
func (p place) do(f func() error) error {
	return away(func() error {
		if err := netns.Set(p.ns); err != nil {
			return err
		}
		return f()
	})
}

// away runs f on a thread that may change its namespace.
func away(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	if err != nil {
		return err
	}
	defer home.Close()
	return errors.Join(f(), netns.Set(home))
}

// newNode makes all three, with the API server at the same address as here and the pods answering.
func newNode(api string) (n *node, err error) {
	n = &node{}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.close())
		}
	}()
	for _, p := range []*place{&n.self, &n.client, &n.backends} {
		if *p, err = newPlace(); err != nil {
			return nil, fmt.Errorf("make a network namespace: %w", err)
		}
		if err := p.do(func() error { return raise("lo") }); err != nil {
			return nil, err
		}
	}
	// Everything behind a wire is reached through one neighbour: the kernel remembers no more than a thousand.
	wire := func(name string, to place, source netip.Addr, behind netip.Prefix) error {
		err := n.self.do(func() error {
			link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(to.ns)}
			if err := netlink.LinkAdd(link); err != nil {
				return err
			}
			if err := errors.Join(netlink.AddrAdd(link, &netlink.Addr{IPNet: network(single(gateway))}), raise(name)); err != nil {
				return err
			}
			return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Index, Dst: network(behind), Gw: neighbour.AsSlice(), Flags: int(netlink.FLAG_ONLINK)})
		})
		if err != nil {
			return err
		}
		return to.do(func() error {
			if err := raise("eth0"); err != nil {
				return err
			}
			eth, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			if err := netlink.AddrAdd(eth, &netlink.Addr{IPNet: network(single(neighbour))}); err != nil {
				return err
			}
			return netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Src: source.AsSlice(), Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK)})
		})
	}
	// The pods that answer have the whole range, which the kernel takes for their own.
	everywhere := func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		const local = 255
		return netlink.RouteAdd(&netlink.Route{LinkIndex: lo.Attrs().Index, Dst: network(endpointsAt), Table: local, Type: unicastHere, Scope: netlink.SCOPE_HOST})
	}
	address := func(to place, addr netip.Addr, link string) error {
		return to.do(func() error {
			l, err := netlink.LinkByName(link)
			if err != nil {
				return err
			}
			return netlink.AddrAdd(l, &netlink.Addr{IPNet: network(single(addr))})
		})
	}
	n.stop = func() {}
	err = errors.Join(
		address(n.client, clientAddr, "lo"),
		address(n.self, nodeAddr, "lo"),
		wire("asks", n.client, clientAddr, single(clientAddr)),
		wire("pods", n.backends, neighbour, endpointsAt),
		n.backends.do(everywhere),
		n.self.do(func() error {
			return errors.Join(
				os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644),
				os.WriteFile("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close", []byte(strconv.Itoa(int(closed.Seconds()))), 0o644),
			)
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("wire a node: %w", err)
	}
	if n.stop, err = serve(n.backends); err != nil {
		return nil, fmt.Errorf("have the pods answer: %w", err)
	}
	n.api, err = n.self.forward(api)
	return n, err
}

// forward brings the API server to a node's own loopback: certificates are for that.
func (p place) forward(api string) (l net.Listener, err error) {
	at, err := url.Parse(api)
	if err != nil {
		return nil, err
	}
	if err := p.do(func() error { l, err = net.Listen("tcp", at.Host); return err }); err != nil {
		return nil, err
	}
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer near.Close()
				far, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(context.Background(), "tcp", at.Host)
				if err != nil {
					return
				}
				defer far.Close()
				go func() { _, _ = io.Copy(far, near); far.Close() }()
				_, _ = io.Copy(near, far)
			}()
		}
	}()
	return l, nil
}

func (n *node) close() error {
	var err error
	if n.api != nil {
		err = n.api.Close()
	}
	if n.stop != nil {
		n.stop()
	}
	for _, p := range []place{n.client, n.backends, n.self} {
		if p.ns > 0 {
			err = errors.Join(err, p.ns.Close())
		}
	}
	return err
}

func raise(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find link %s: %w", name, err)
	}
	return netlink.LinkSetUp(link)
}

func single(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

func network(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
