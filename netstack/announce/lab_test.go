package announce

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
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
	"knarr.dev/knarr/netstack/heartbeat"
	"knarr.dev/knarr/netstack/netlab"
)

func TestMain(m *testing.M) { os.Exit(netlab.Main(m)) }

// wires is a network, the addresses of a load balancer and of the API in it, and those of a router, a client and two nodes.
type wires struct {
	network                                netip.Prefix
	virtual, api, router, client, one, two string
}

// TestAnotherNodeTakesOver has a client and two nodes on one switch. The client asks who has the address, and keeps what it
// learnt until somebody tells it better.
func TestAnotherNodeTakesOver(t *testing.T) {
	for name, w := range map[string]wires{
		"IPv4": {network, "192.0.2.100", "192.0.2.101", "192.0.2.254", "192.0.2.50", "192.0.2.1", "192.0.2.2"},
		"IPv6": {netip.MustParsePrefix("2001:db8::/64"), "2001:db8::100", "2001:db8::101", "2001:db8::fe", "2001:db8::50", "2001:db8::1", "2001:db8::2"},
	} {
		t.Run(name, w.takeOver)
	}
}

func (w wires) takeOver(t *testing.T) {
	netlab.NeedKernel(t)
	virtual, api := netip.MustParseAddr(w.virtual), netip.MustParseAddr(w.api)
	sw := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "switch"}}
	netlab.Check(t, netlink.LinkAdd(sw))
	t.Cleanup(func() { netlab.Check(t, netlink.LinkDel(sw)) })
	netlab.Check(t, netlink.LinkSetUp(sw))
	hosts := map[string]*netlab.Host{"client": w.onSwitch(t, sw, "client", w.client), "a": w.onSwitch(t, sw, "a", w.one), "b": w.onSwitch(t, sw, "b", w.two)}
	client := hosts["client"]

	service := balanced(virtual.String())
	keys := map[string]*ecdh.PrivateKey{}
	nodes := map[string]*corev1.Node{}
	for name, addr := range map[string]string{"a": w.one, "b": w.two} {
		key, err := ecdh.X25519().GenerateKey(rand.Reader)
		netlab.Check(t, err)
		keys[name], nodes[name] = key, node(name, addr, corev1.ConditionTrue)
		nodes[name].Labels = map[string]string{controlPlane: ""}
		nodes[name].Annotations = map[string]string{heartbeat.Annotation: heartbeat.FormatKey(key.PublicKey())}
	}
	cluster, view := endpointstest.Running(t, service, nodes["a"], nodes["b"])
	announcers, stops := map[string]*Announcer{}, map[string]func(){}
	macs := map[string]string{}
	for _, name := range []string{"a", "b"} {
		host := hosts[name]
		host.Do(func() {
			at, err := segmentOf(host.Addr)
			netlab.Check(t, err)
			macs[at.mac.String()] = name
		})
		a := New(Config{
			Node: name, NodeIPs: []netip.Addr{host.Addr}, Nodes: cluster.Cache(), API: api, Log: slog.New(slog.DiscardHandler),
			Key: func() (*ecdh.PrivateKey, error) { return keys[name], nil },
			Introduce: func(context.Context, string, string) error {
				t.Errorf("%s introduces itself, though its key is known", name)
				return nil
			},
		}, view)
		a.ears = func(at netip.AddrPort) (conn *net.UDPConn, err error) {
			host.Do(func() { conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)) })
			return conn, err
		}
		a.find = func(ip netip.Addr) (at segment, err error) {
			host.Do(func() { at, err = segmentOf(ip) })
			at.prefix = w.network // netlab gives hosts their address alone
			return at, err
		}
		a.open = func(at segment) (s *speaker, err error) {
			host.Do(func() { s, err = openSpeaker(at) })
			return s, err
		}
		announcers[name], stops[name] = a, endpointstest.Run(t, a)
	}
	// known is who the client believes to have an address.
	known := func(address netip.Addr) (name string) {
		client.Do(func() {
			eth, err := netlink.LinkByName("eth0")
			netlab.Check(t, err)
			all, err := dump.Neighbours(eth.Attrs().Index, netlink.FAMILY_ALL)
			netlab.Check(t, err)
			for _, n := range all {
				if n.IP.Equal(address.AsSlice()) {
					name = macs[n.HardwareAddr.String()]
				}
			}
		})
		return name
	}
	ask := func(address netip.Addr) {
		client.Do(func() {
			conn, err := net.Dial("udp", netip.AddrPortFrom(address, 9).String())
			netlab.Check(t, err)
			defer conn.Close()
			_, _ = conn.Write([]byte("?")) // a refusal of an earlier one may be read here
		})
	}
	finds := func(address netip.Addr, want string) {
		t.Helper()
		began, again := time.Now(), time.NewTicker(2*time.Millisecond)
		defer again.Stop()
		// A machine too slow for heartbeats may lose somebody who is there, for seconds.
		for deadline := time.After(time.Minute); known(address) != want; {
			select {
			case <-again.C:
			case <-deadline:
				t.Fatalf("not within a minute: the client finds %s at %s", address, want)
			}
		}
		t.Logf("the client knows %s after %s", want, time.Since(began).Round(100*time.Microsecond))
	}

	learns := func(want string) {
		t.Helper()
		finds(virtual, want)
	}

	t.Log("the address of the API is where an API server answers")
	first := ranked(api, []string{"a", "b"})[0]
	second := map[string]string{"a": "b", "b": "a"}[first]
	announcers[second].Serve(true)
	ask(api)
	finds(api, second)
	announcers[first].Serve(true)
	finds(api, first)
	announcers[first].Serve(false)
	finds(api, second)

	t.Log("that of a load balancer is where a node is Ready")
	first = ranked(virtual, []string{"a", "b"})[0]
	second = map[string]string{"a": "b", "b": "a"}[first]
	ask(virtual)
	learns(first)

	t.Log("the node is lost, says the API: the other one tells everybody, nobody asks")
	condition := func(name string, ready corev1.ConditionStatus) {
		n := nodes[name].DeepCopy()
		n.Status.Conditions[0].Status = ready
		cluster.Put(n)
	}
	condition(first, corev1.ConditionUnknown)
	learns(second)

	t.Log("it is back, and gets back what it had")
	condition(first, corev1.ConditionTrue)
	learns(first)

	t.Log("its wire is cut, and the API knows nothing of that: the other one speaks within a second")
	w.plug(t, first, false)
	learns(second)

	t.Log("the wire is whole again: both have missed the other, and the first gets back what it had")
	w.plug(t, first, true)
	learns(first)

	t.Log("with the policy Local the address goes where an endpoint is")
	local := balanced(virtual.String())
	local.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	behind := func(nodes ...string) *discoveryv1.EndpointSlice {
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		}
		for _, name := range nodes {
			slice.Endpoints = append(slice.Endpoints, endpoint(name, true))
		}
		return slice
	}
	cluster.Put(behind(second), local)
	learns(second)
	cluster.Put(behind(first, second))
	learns(first)

	t.Log("its process ends and says so: the other one speaks at once")
	stops[first]()
	learns(second)

	t.Log("with its process a node's voice ends, and its heartbeats")
	stops[second]()
	client.Do(func() {
		eth, err := netlink.LinkByName("eth0")
		netlab.Check(t, err)
		netlab.Check(t, netlink.NeighDel(&netlink.Neigh{LinkIndex: eth.Attrs().Index, IP: virtual.AsSlice()}))
	})
	ask(virtual)
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
	if got := known(virtual); got != "" {
		t.Errorf("after the only node with an endpoint fell silent the client believes in %q", got)
	}
}

// plug a host's wire in, or pull it out.
func (w wires) plug(t *testing.T, name string, in bool) {
	t.Helper()
	port, err := netlink.LinkByName(name)
	netlab.Check(t, err)
	if in {
		netlab.Check(t, netlink.LinkSetUp(port))
	} else {
		netlab.Check(t, netlink.LinkSetDown(port))
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
