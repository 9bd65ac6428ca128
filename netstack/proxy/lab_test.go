package proxy

import (
	"log/slog"
	"net/netip"
	"os"
	"testing"

	"github.com/vishvananda/netlink"

	"knarr.dev/knarr/netstack/endpoints"
	"knarr.dev/knarr/netstack/endpoints/endpointstest"
	"knarr.dev/knarr/netstack/netlab"
	"knarr.dev/knarr/netstack/xt"
)

func TestMain(m *testing.M) { os.Exit(netlab.Main(m)) }

// The node's own addresses, and the ranges of the cluster it is in.
var (
	nodeOutside = netip.MustParseAddr("192.168.9.1")
	gateway     = netip.MustParseAddr("10.42.0.1")
	gateway6    = netip.MustParseAddr("fd00:42::1")
	podRange    = netip.MustParsePrefix("10.42.0.0/16")
	podRange6   = netip.MustParsePrefix("fd00:42::/48")
	services    = netip.MustParsePrefix("10.43.0.0/16")
	services6   = netip.MustParsePrefix("fd00:43::/108")
	dnsAddr     = netip.MustParseAddr("10.43.0.10")
)

// needKernel skips without root, and prepares the node.
func needKernel(t testing.TB) {
	t.Helper()
	netlab.NeedKernel(t)
	t.Cleanup(func() { netlab.Check(t, Remove()) })
}

// pod is a host with an address of the pod range.
func pod(t testing.TB, name, addr string) *netlab.Host {
	if netip.MustParseAddr(addr).Is6() {
		return netlab.Wire(t, name, addr, gateway6)
	}
	return netlab.Wire(t, name, addr, gateway)
}

// outsider is a machine on the node's other network. Several share it, each on a wire of its own.
func outsider(t testing.TB, name, addr string) *netlab.Host {
	return netlab.Wire(t, name, addr, nodeOutside)
}

// theNode is a host whose questions come from the node itself.
var theNode *netlab.Host

// starter runs a proxy over objects.
type starter func(t testing.TB, view *endpoints.View) (stop func())

// start runs one that writes nftables.
func start(t testing.TB, view *endpoints.View) (stop func()) {
	t.Helper()
	forgetFlows(t)
	return endpointstest.Run(t, proxyOf(view, false))
}

// startTables runs one that writes ip_tables.
func startTables(t testing.TB, view *endpoints.View) (stop func()) {
	t.Helper()
	forgetFlows(t)
	return endpointstest.Run(t, proxyOf(view, true))
}

// forgetFlows of the tests before: a client that draws the same port again would be sent where it was sent then.
func forgetFlows(t testing.TB) {
	t.Helper()
	netlab.Check(t, netlink.ConntrackTableFlush(netlink.ConntrackTable))
}

// withEither runs a test with a proxy of either kind: packets must not tell them apart.
func withEither(t *testing.T, test func(t *testing.T, start starter)) {
	t.Run("nftables", func(t *testing.T) {
		needKernel(t)
		test(t, start)
	})
	t.Run("iptables", func(t *testing.T) {
		needTables(t)
		test(t, startTables)
	})
}

// needTables is needKernel for tests that write ip_tables.
func needTables(t testing.TB) {
	t.Helper()
	needKernel(t)
	if err := xt.Probe(false, true); err != nil {
		t.Skip(err)
	}
}

func proxyOf(view *endpoints.View, ipTables bool) *Proxy {
	return New(Config{
		Node: "here", PodRanges: []netip.Prefix{podRange, podRange6}, ServiceRanges: []netip.Prefix{services, services6}, Reserved: []netip.Addr{dnsAddr},
		IPTables: ipTables, Log: slog.New(slog.DiscardHandler),
	}, view)
}
