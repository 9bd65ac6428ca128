package podnet_test

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/netstack/overlay"
	"knarr.dev/knarr/test/lab/lab"
)

const (
	podRange4, podRange6 = "10.42.0.0/24", "fd42::/64"
	cluster4, cluster6   = "10.42.0.0/16", "fd42::/48"
)

func TestPodsHaveAnAddressOfEachFamily(t *testing.T) {
	for name, ipTables := range map[string]bool{"nftables": false, "iptables": true} {
		t.Run(name, func(t *testing.T) { testFamilies(t, ipTables) })
	}
}

func testFamilies(t *testing.T, ipTables bool) {
	l := lab.New(t)
	m, world := l.Machine("n"), l.Machine("world")
	world6 := world.AddIPv6()
	n := newNodeOf(t, m, ipTables, []netip.Addr{m.IP(), m.AddIPv6()}, cluster4, cluster6)
	node6, gateway6 := n.ips[1], netip.MustParseAddr("fd42::1")
	n.up(podRange4, podRange6)
	web, b := n.connected("web", hostPort(8080, 80, "tcp", ""), hostPort(8080, 80, "udp", "")), n.connected("b")
	if want := netip.MustParseAddr("fd42::2"); web.second != want {
		t.Errorf("the first pod has the second address %v, want %v", web.second, want)
	}
	for _, network := range []string{"tcp6", "udp6"} {
		onWeb := serve(t, web, network, "[::]:80")
		address := func(ip netip.Addr) string { return netip.AddrPortFrom(ip, onWeb.Port()).String() }
		expect(t, "pod to pod", b, network, address(web.second), b.second)
		expect(t, "pod to itself", web, network, address(web.second), web.second)
		expect(t, "node to pod", n, network, address(web.second), gateway6)
		onNode := serve(t, n, network, netip.AddrPortFrom(node6, 0).String())
		expect(t, "pod to node", b, network, onNode.String(), b.second)
		outside := serve(t, world, network, netip.AddrPortFrom(world6, 0).String())
		expect(t, "pod to the world, behind the node's address", b, network, outside.String(), node6)

		onHost := netip.AddrPortFrom(node6, 8080).String()
		expect(t, "the world to a host port", world, network, onHost, world6)
		expect(t, "the node to a host port", n, network, onHost, node6)
		expect(t, "another pod to a host port", b, network, onHost, b.second)
		expect(t, "the pod itself to its host port", web, network, onHost, gateway6)
	}
	on4 := serve(t, web, "tcp4", ":80").Port()
	expect(t, "the first family works beside", b, "tcp4", netip.AddrPortFrom(web.address, on4).String(), b.address)
	expect(t, "so do its host ports", world, "tcp4", netip.AddrPortFrom(n.IP(), 8080).String(), world.IP())
	if err := web.check(); err != nil {
		t.Errorf("CHECK of a pod: %v", err)
	}

	t.Log("neighbours on the bridge cannot reach each other past the rules")
	if err := b.Do(func() error {
		eth, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		addresses, err := eth.Addrs()
		for _, a := range addresses {
			if prefix := netip.MustParsePrefix(a.String()); prefix.Addr().IsLinkLocalUnicast() || !prefix.IsSingleIP() {
				t.Errorf("a pod has the address %s", prefix)
			}
		}
		for _, setting := range []string{"accept_ra", "accept_redirects"} {
			if value, err := os.ReadFile("/proc/sys/net/ipv6/conf/eth0/" + setting); err != nil || string(value) != "0\n" {
				t.Errorf("%s in a pod is %q, %v", setting, value, err)
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}

	before := web.second
	n.kill9()
	n.start()
	n.log.wait(t, `msg="pod network is up"`)
	if c := n.connected("c"); c.second == web.second || c.second == b.second {
		t.Errorf("address %v was given twice", c.second)
	}
	if err := web.add(); err != nil || web.second != before {
		t.Errorf("ADD again gave %v, %v; want %v as before", web.second, err, before)
	}
}

// A machine that learns its routes from a router must go on to when it becomes one itself. It must not learn from pods, and
// must ask for them at once: while its own address is on trial, a second or two, the kernel does not.
func TestWhoLearnsFromWhom(t *testing.T) {
	m := lab.New(t).Machine("n")
	n := newNodeOf(t, m, false, []netip.Addr{m.IP(), m.AddIPv6()}, cluster4, cluster6)
	n.up(podRange4, podRange6)
	for setting, want := range map[string]string{"conf/all/forwarding": "1\n", "conf/eth0/accept_ra": "2\n", "conf/knarr0/accept_ra": "0\n", "conf/knarr0/accept_dad": "0\n"} {
		if err := n.Do(func() error {
			if value, err := os.ReadFile("/proc/sys/net/ipv6/" + setting); err != nil || string(value) != want {
				t.Errorf("%s = %q, %v; want %q", setting, value, err, want)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPodsOfTwoMachinesReachEachOtherInEachFamily(t *testing.T) {
	both := func(m *lab.Machine, six netip.Addr) []netip.Addr { return []netip.Addr{m.IP(), six} }
	sixAlone := func(_ *lab.Machine, six netip.Addr) []netip.Addr { return []netip.Addr{six} }
	dual, single := [][]string{{podRange4, podRange6}, {"10.42.1.0/24", "fd42:0:0:1::/64"}}, [][]string{{podRange6}, {"fd42:0:0:1::/64"}}
	tests := map[string]struct {
		mode    string
		machine func(*lab.Machine, netip.Addr) []netip.Addr
		cluster []string
		ranges  [][]string
	}{
		"both families over IPv4":              {config.VXLAN, both, []string{cluster4, cluster6}, dual},
		"IPv6 over IPv6 alone":                 {config.VXLAN, sixAlone, []string{cluster6}, single},
		"both families over IPv4, encrypted":   {config.WireGuard, both, []string{cluster4, cluster6}, dual},
		"IPv6 over IPv6 alone, encrypted":      {config.WireGuard, sixAlone, []string{cluster6}, single},
		"both families by routes and by VXLAN": {config.Routes, both, []string{cluster4, cluster6}, dual},
		"IPv6 by routes alone":                 {config.Routes, sixAlone, []string{cluster6}, single},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			l, api := lab.New(t), newBoard(t)
			var ns []*node
			for i, machine := range []string{"n1", "n2"} {
				m := l.Machine(machine)
				ns = append(ns, api.node(m, node{mode: tc.mode}, tc.machine(m, m.AddIPv6()), tc.cluster...))
				api.show(ns[i], tc.ranges[i]...)
				ns[i].log.wait(t, `msg="pod network is up"`)
			}
			a, b := ns[0].connected("a"), ns[1].connected("b")
			first := serve(t, a, "tcp", netip.AddrPortFrom(a.address, 0).String()).String()
			eventually(t, func() error { _, err := ask(b, "tcp", first); return err })
			for i, pair := range [][2]netip.Addr{{a.address, b.address}, {a.second, b.second}}[:len(tc.cluster)] {
				family := map[bool]string{true: "4", false: "6"}[pair[0].Is4()]
				for _, network := range []string{"tcp", "udp"} {
					onA := serve(t, a, network+family, netip.AddrPortFrom(pair[0], 0).String()).String()
					expect(t, "pod to pod", b, network+family, onA, pair[1])
					end := netip.MustParsePrefix(tc.ranges[1][i]).Addr()
					if own := ns[1].ips[0]; tc.mode == config.Routes && own.Is4() == end.Is4() {
						end = own // there is no tunnel whose end it could be
					}
					expect(t, "node to pod", ns[1], network+family, onA, end)
				}
			}

			t.Log("somebody cleans up what they don't know, and it is back")
			if err := ns[1].Do(func() error {
				link, err := netlink.LinkByName(map[string]string{config.VXLAN: overlay.Link, config.WireGuard: overlay.Tunnel, config.Routes: "eth0"}[tc.mode])
				if err != nil || tc.mode == config.Routes {
					return errors.Join(err, loseRoutes(ns[0].ips))
				}
				return netlink.LinkSetDown(link)
			}); err != nil {
				t.Fatal(err)
			}
			for _, address := range []netip.Addr{a.address, a.second}[:len(tc.cluster)] {
				onA := serve(t, a, "tcp", netip.AddrPortFrom(address, 0).String()).String()
				eventually(t, func() error { _, err := ask(b, "tcp", onA); return err })
			}
		})
	}
}
