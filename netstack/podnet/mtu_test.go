package podnet_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/netstack/overlay"
	"knarr.dev/knarr/test/lab/lab"
)

// Connections outlive a link that gets narrower, and a path that is narrower than its links: whoever cannot pass a packet on says
// so to the pod that sent it.
func TestPacketsFitTheirWay(t *testing.T) {
	for _, mode := range []string{config.VXLAN, config.WireGuard, config.Routes} {
		t.Run(mode, func(t *testing.T) {
			l, api := lab.New(t), newBoard(t)
			var ns []*node
			for i, name := range []string{"n1", "n2"} {
				m := l.Machine(name)
				ns = append(ns, api.node(m, node{mode: mode}, []netip.Addr{m.IP()}, cluster4))
				api.show(ns[i], fmt.Sprintf("10.42.%d.0/24", i))
				ns[i].log.wait(t, `msg="pod network is up"`)
			}
			a, b := ns[0].connected("a"), ns[1].connected("b")
			first := serve(t, a, "tcp4", a.address.String()+":0").String()
			eventually(t, func() error { _, err := ask(b, "tcp4", first); return err })
			old := converse(t, a, b)
			old.bulk(t)

			t.Log("the links get narrower")
			const narrow = 1300
			fits := narrow - overlay.Overhead(mode, ns[0].IP())
			for _, n := range ns {
				if err := n.Do(func() error { return setMTU("eth0", narrow) }); err != nil {
					t.Fatal(err)
				}
				n.log.wait(t, fmt.Sprintf("mtu=%d", fits))
			}
			old.bulk(t)
			c := ns[0].connected("c")
			if err := c.Do(func() error {
				link, err := net.InterfaceByName("eth0")
				if err == nil && link.MTU != fits {
					t.Errorf("a new pod sends %d bytes, want %d", link.MTU, fits)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			converse(t, c, b).bulk(t)
			if mode == config.Routes {
				return // a path's routers tell the pods themselves
			}

			t.Log("the path is narrower than that")
			for i, n := range ns {
				to := &net.IPNet{IP: ns[1-i].IP().AsSlice(), Mask: net.CIDRMask(32, 32)}
				if err := n.Do(func() error {
					link, err := netlink.LinkByName("eth0")
					if err != nil {
						return err
					}
					return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: to, Scope: netlink.SCOPE_LINK, MTU: 1000})
				}); err != nil {
					t.Fatal(err)
				}
			}
			old.bulk(t)
			converse(t, c, b).bulk(t)
		})
	}
}

func setMTU(name string, mtu int) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetMTU(link, mtu)
}
