package announce

import (
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/netstack/dump"
	"knarr.dev/knarr/netstack/endpoints/endpointstest"
	"knarr.dev/knarr/netstack/netlab"
)

func TestMain(m *testing.M) { os.Exit(netlab.Main(m)) }

// wires is a network, a load balancer's address in it, and those of a router, a client and two nodes.
type wires struct {
	network                           netip.Prefix
	virtual, router, client, one, two string
}

// TestAnotherNodeTakesOver has a client and two nodes on one switch. The client asks who has the address, and keeps what it
// learnt until somebody tells it better.
func TestAnotherNodeTakesOver(t *testing.T) {
	for name, w := range map[string]wires{
		"IPv4": {network, "192.0.2.100", "192.0.2.254", "192.0.2.50", "192.0.2.1", "192.0.2.2"},
		"IPv6": {netip.MustParsePrefix("2001:db8::/64"), "2001:db8::100", "2001:db8::fe", "2001:db8::50", "2001:db8::1", "2001:db8::2"},
	} {
		t.Run(name, w.takeOver)
	}
}

func (w wires) takeOver(t *testing.T) {
	netlab.NeedKernel(t)
	virtual := netip.MustParseAddr(w.virtual)
	sw := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "switch"}}
	netlab.Check(t, netlink.LinkAdd(sw))
	t.Cleanup(func() { netlab.Check(t, netlink.LinkDel(sw)) })
	netlab.Check(t, netlink.LinkSetUp(sw))
	hosts := map[string]*netlab.Host{"client": w.onSwitch(t, sw, "client", w.client), "a": w.onSwitch(t, sw, "a", w.one), "b": w.onSwitch(t, sw, "b", w.two)}
	client := hosts["client"]

	service := balanced(virtual.String())
	cluster, view := endpointstest.Running(t, service, node("a", w.one, corev1.ConditionTrue), node("b", w.two, corev1.ConditionTrue))
	announcers := map[string]func(){}
	macs := map[string]string{}
	for _, name := range []string{"a", "b"} {
		host := hosts[name]
		host.Do(func() {
			at, err := segmentOf(host.Addr)
			netlab.Check(t, err)
			macs[at.mac.String()] = name
		})
		a := New(Config{Node: name, NodeIPs: []netip.Addr{host.Addr}, Nodes: cluster.Cache(), Log: slog.New(slog.DiscardHandler)}, view)
		a.find = func(ip netip.Addr) (at segment, err error) {
			host.Do(func() { at, err = segmentOf(ip) })
			at.prefix = w.network // netlab gives hosts their address alone
			return at, err
		}
		a.open = func(at segment) (s *speaker, err error) {
			host.Do(func() { s, err = openSpeaker(at) })
			return s, err
		}
		announcers[name] = endpointstest.Run(t, a)
	}
	// known is who the client believes to have the address.
	known := func() (name string) {
		client.Do(func() {
			eth, err := netlink.LinkByName("eth0")
			netlab.Check(t, err)
			all, err := dump.Neighbours(eth.Attrs().Index, netlink.FAMILY_ALL)
			netlab.Check(t, err)
			for _, n := range all {
				if n.IP.Equal(virtual.AsSlice()) {
					name = macs[n.HardwareAddr.String()]
				}
			}
		})
		return name
	}
	ask := func() {
		client.Do(func() {
			conn, err := net.Dial("udp", netip.AddrPortFrom(virtual, 9).String())
			netlab.Check(t, err)
			defer conn.Close()
			_, _ = conn.Write([]byte("?")) // a refusal of an earlier one may be read here
		})
	}
	learns := func(want string) {
		t.Helper()
		began := time.Now()
		netlab.Eventually(t, "the client finds the address at "+want, func() bool { return known() == want })
		t.Logf("the client knows %s after %s", want, time.Since(began).Round(100*time.Microsecond))
	}

	first := chosen(virtual, []string{"a", "b"})
	second := map[string]string{"a": "b", "b": "a"}[first]
	ask()
	learns(first)

	t.Log("the node is lost: the other one tells everybody, nobody asks")
	cluster.Put(node(first, hosts[first].Addr.String(), corev1.ConditionUnknown))
	learns(second)

	t.Log("it is back, and gets back what it had")
	cluster.Put(node(first, hosts[first].Addr.String(), corev1.ConditionTrue))
	learns(first)

	t.Log("with the policy Local the address goes where an endpoint is")
	local := balanced(virtual.String())
	local.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	cluster.Put(&discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		Endpoints:  []discoveryv1.Endpoint{endpoint(second, true)},
	}, local)
	learns(second)

	t.Log("with its process a node's voice ends")
	announcers[second]()
	client.Do(func() {
		eth, err := netlink.LinkByName("eth0")
		netlab.Check(t, err)
		netlab.Check(t, netlink.NeighDel(&netlink.Neigh{LinkIndex: eth.Attrs().Index, IP: virtual.AsSlice()}))
	})
	ask()
	netlab.Eventually(t, "the client asks and nobody answers", func() bool {
		failed := false
		client.Do(func() {
			conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(virtual, 9).String(), 4*time.Second)
			if err == nil {
				conn.Close()
			}
			failed = err != nil
		})
		return failed
	})
	if got := known(); got != "" {
		t.Errorf("after the only node with an endpoint fell silent the client believes in %q", got)
	}
}

// onSwitch is a host whose link is plugged into a switch, and which looks for the whole network there.
func (w wires) onSwitch(t *testing.T, sw netlink.Link, name, addr string) *netlab.Host {
	t.Helper()
	host := netlab.Wire(t, name, addr, netip.MustParseAddr(w.router))
	port, err := netlink.LinkByName(name)
	netlab.Check(t, err)
	netlab.Check(t, netlink.LinkSetMaster(port, sw))
	host.Do(func() {
		eth, err := netlink.LinkByName("eth0")
		netlab.Check(t, err)
		netlab.Check(t, netlink.RouteAdd(&netlink.Route{
			LinkIndex: eth.Attrs().Index, Scope: netlink.SCOPE_LINK,
			Dst: &net.IPNet{IP: w.network.Addr().AsSlice(), Mask: net.CIDRMask(w.network.Bits(), w.network.Addr().BitLen())},
		}))
	})
	return host
}
