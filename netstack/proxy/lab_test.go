package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/netstack/endpoints"
	"knarr.dev/knarr/netstack/endpoints/endpointstest"
)

const inNode = "KNARR_TEST_IN_NODE"

// TestMain runs this package's tests in a network namespace of their own: it is the node, and nothing outside sees it.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv(inNode) != "" {
		os.Exit(m.Run())
	}
	again := exec.Command("/proc/self/exe", os.Args[1:]...)
	again.Env = append(os.Environ(), inNode+"=1")
	again.Stdin, again.Stdout, again.Stderr = os.Stdin, os.Stdout, os.Stderr
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := again.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "run the tests in a network namespace:", err)
		os.Exit(1)
	}
}

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

// host is a network namespace with one address, wired to the node: a pod, or a machine outside.
type host struct {
	t    testing.TB
	ns   netns.NsHandle
	addr netip.Addr
}

// needKernel skips without root, and prepares the node.
func needKernel(t testing.TB) {
	t.Helper()
	if os.Getenv(inNode) == "" {
		t.Skip("needs root: it makes network namespaces and nftables rules")
	}
	setting(t, "ipv4/ip_forward", "1")
	setting(t, "ipv6/conf/all/forwarding", "1")
	setting(t, "ipv6/conf/default/accept_dad", "0")
	lo, err := netlink.LinkByName("lo")
	check(t, err)
	check(t, netlink.LinkSetUp(lo))
	t.Cleanup(func() { check(t, Remove()) })
}

// pod is a host with an address of the pod range.
func pod(t testing.TB, name, addr string) *host {
	if netip.MustParseAddr(addr).Is6() {
		return wire(t, name, addr, gateway6)
	}
	return wire(t, name, addr, gateway)
}

// outsider is a machine on the node's other network. Several share it, each on a wire of its own.
func outsider(t testing.TB, name, addr string) *host { return wire(t, name, addr, nodeOutside) }

func wire(t testing.TB, name, addr string, via netip.Addr) *host {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	node, err := netns.Get()
	check(t, err)
	defer node.Close()
	h := &host{t: t, addr: netip.MustParseAddr(addr)}
	h.ns, err = netns.New()
	check(t, err)
	check(t, netns.Set(node))

	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(h.ns)}
	check(t, netlink.LinkAdd(link))
	t.Cleanup(func() {
		check(t, netlink.LinkDel(link))
		check(t, h.ns.Close())
	})
	check(t, netlink.AddrAdd(link, address(via)))
	check(t, netlink.LinkSetUp(link))
	check(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Index, Dst: single(h.addr), Scope: netlink.SCOPE_LINK}))
	h.do(func() {
		setting(t, "ipv6/conf/default/accept_dad", "0")
		setting(t, "ipv6/conf/eth0/accept_dad", "0")
		for _, each := range []string{"lo", "eth0"} {
			l, err := netlink.LinkByName(each)
			check(t, err)
			check(t, netlink.LinkSetUp(l))
		}
		eth, err := netlink.LinkByName("eth0")
		check(t, err)
		check(t, netlink.AddrAdd(eth, address(h.addr)))
		check(t, netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: via.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}))
	})
	return h
}

// do runs f on a thread in the host's namespace; sockets made there stay there.
func (h *host) do(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		if err := netns.Set(h.ns); err != nil {
			h.t.Errorf("enter a namespace: %v", err)
			return
		}
		f()
	}()
	<-done
}

// serve answers every TCP connection and UDP packet on port with who it is and who asked.
func (h *host) serve(name string, port uint16) {
	h.t.Helper()
	h.do(func() {
		listener, err := net.Listen("tcp", netip.AddrPortFrom(h.addr, port).String())
		check(h.t, err)
		packets, err := net.ListenPacket("udp", netip.AddrPortFrom(h.addr, port).String())
		check(h.t, err)
		h.t.Cleanup(func() { listener.Close(); packets.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(conn, "%s %s\n", name, hostOf(conn.RemoteAddr()))
				go func() { _, _ = io.Copy(conn, conn); conn.Close() }()
			}
		}()
		go func() {
			buffer := make([]byte, 512)
			for {
				_, from, err := packets.ReadFrom(buffer)
				if err != nil {
					return
				}
				_, _ = packets.WriteTo([]byte(name+" "+hostOf(from)+"\n"), from)
			}
		}()
	})
}

// ask connects and returns who answered and whom the answerer saw.
func (h *host) ask(network, to string) (name, seen string, err error) {
	conn, err := h.dial(network, to)
	if err != nil {
		return "", "", err
	}
	defer conn.Close()
	return question(conn)
}

func (h *host) dial(network, to string) (conn net.Conn, err error) {
	return h.dialWithin(2*time.Second, network, to)
}

func (h *host) dialWithin(limit time.Duration, network, to string) (conn net.Conn, err error) {
	dial := func() { conn, err = net.DialTimeout(network, to, limit) }
	if h == nil { // the node
		dial()
	} else {
		h.do(dial)
	}
	return conn, err
}

// question asks once over an open connection. Over UDP it may be repeated on the same flow.
func question(conn net.Conn) (name, seen string, err error) {
	_ = conn.SetDeadline(time.Now().Add(2 * time.Second))
	if conn.LocalAddr().Network() == "udp" {
		if _, err := conn.Write([]byte("who?")); err != nil {
			return "", "", err
		}
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	name, seen, _ = strings.Cut(strings.TrimSpace(line), " ")
	return name, seen, err
}

// theNode is a host whose questions come from the node itself.
var theNode *host

// start runs a proxy over objects.
func start(t testing.TB, view *endpoints.View) (stop func()) {
	t.Helper()
	return endpointstest.Run(t, New(Config{
		Node: "here", PodRanges: []netip.Prefix{podRange, podRange6}, ServiceRanges: []netip.Prefix{services, services6}, Reserved: []netip.Addr{dnsAddr},
		Log: slog.New(slog.DiscardHandler),
	}, view))
}

// eventually tries until ok, without a pause longer than the kernel needs.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 5 s: %s", what)
		}
		runtime.Gosched()
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// setting writes a kernel setting of the namespace the thread is in.
func setting(t testing.TB, name, value string) {
	t.Helper()
	check(t, os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644))
}

// address is usable at once: nobody else could have it.
func address(addr netip.Addr) *netlink.Addr {
	a := &netlink.Addr{IPNet: single(addr)}
	if addr.Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

func single(addr netip.Addr) *net.IPNet {
	return &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}
}

func hostOf(addr net.Addr) string {
	host, _, _ := net.SplitHostPort(addr.String())
	return host
}
