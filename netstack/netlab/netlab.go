// Package netlab is a node and its neighbours for tests that send packets.
//
// In:       root; Main in a package's TestMain.
// Out:      the test process as a node in a network namespace of its own, and hosts with a wire to it.
// Promise:  nothing outside sees any of it, and it is gone with the test.
// Not here: machines with files and processes of their own (test/lab).
package netlab

import (
	"bufio"
	"errors"
	"fmt"
	"io"
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
)

const inNode = "KNARR_TEST_IN_NODE"

// Main runs a package's tests in a network namespace of their own, which is the node and which nothing outside sees,
// and returns their exit code.
func Main(m *testing.M) int {
	if os.Getuid() != 0 || os.Getenv(inNode) != "" {
		return m.Run()
	}
	again := exec.Command("/proc/self/exe", os.Args[1:]...)
	again.Env = append(os.Environ(), inNode+"=1")
	again.Stdin, again.Stdout, again.Stderr = os.Stdin, os.Stdout, os.Stderr
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := again.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "run the tests in a network namespace:", err)
		return 1
	}
	return 0
}

// Host is a network namespace with one address, wired to the node: a pod, or a machine outside.
type Host struct {
	t    testing.TB
	ns   netns.NsHandle
	Addr netip.Addr
}

// NeedKernel skips without root, and prepares the node.
func NeedKernel(t testing.TB) {
	t.Helper()
	if os.Getenv(inNode) == "" {
		t.Skip("needs root: it makes network namespaces and nftables rules")
	}
	setting(t, "ipv4/ip_forward", "1")
	setting(t, "ipv6/conf/all/forwarding", "1")
	setting(t, "ipv6/conf/default/accept_dad", "0")
	lo, err := netlink.LinkByName("lo")
	Check(t, err)
	Check(t, netlink.LinkSetUp(lo))
}

// Wire makes a host with an address, whose way out is via.
func Wire(t testing.TB, name, addr string, via netip.Addr) *Host {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	node, err := netns.Get()
	Check(t, err)
	defer node.Close()
	h := &Host{t: t, Addr: netip.MustParseAddr(addr)}
	h.ns, err = netns.New()
	Check(t, err)
	Check(t, netns.Set(node))

	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(h.ns)}
	Check(t, netlink.LinkAdd(link))
	t.Cleanup(func() {
		Check(t, netlink.LinkDel(link))
		Check(t, h.ns.Close())
	})
	Check(t, netlink.AddrAdd(link, address(via)))
	Check(t, netlink.LinkSetUp(link))
	Check(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link.Index, Dst: single(h.Addr), Scope: netlink.SCOPE_LINK}))
	h.Do(func() {
		setting(t, "ipv6/conf/default/accept_dad", "0")
		setting(t, "ipv6/conf/eth0/accept_dad", "0")
		for _, each := range []string{"lo", "eth0"} {
			l, err := netlink.LinkByName(each)
			Check(t, err)
			Check(t, netlink.LinkSetUp(l))
		}
		eth, err := netlink.LinkByName("eth0")
		Check(t, err)
		Check(t, netlink.AddrAdd(eth, address(h.Addr)))
		Check(t, netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: via.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}))
		carrying(t, "eth0")
	})
	carrying(t, name)
	return h
}

// carrying waits for what the kernel sees to in its own time: packets sent before are lost.
func carrying(t testing.TB, name string) {
	t.Helper()
	Eventually(t, "link "+name+" carries packets", func() bool {
		link, err := netlink.LinkByName(name)
		return err == nil && link.Attrs().OperState == netlink.OperUp
	})
}

// Do runs f on a thread in the host's namespace; sockets made there stay there.
func (h *Host) Do(f func()) {
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

// Serve answers every TCP connection and UDP packet on port with who it is and who asked.
func (h *Host) Serve(name string, port uint16) {
	h.t.Helper()
	h.Do(func() {
		listener, err := net.Listen("tcp", netip.AddrPortFrom(h.Addr, port).String())
		Check(h.t, err)
		packets, err := net.ListenPacket("udp", netip.AddrPortFrom(h.Addr, port).String())
		Check(h.t, err)
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

// Ask connects and returns who answered and whom the answerer saw.
func (h *Host) Ask(network, to string) (name, seen string, err error) {
	conn, err := h.Dial(network, to)
	if err != nil {
		return "", "", err
	}
	defer conn.Close()
	return Question(conn)
}

// Dial connects. A host that is nil is the node itself.
func (h *Host) Dial(network, to string) (conn net.Conn, err error) {
	return h.DialWithin(2*time.Second, network, to)
}

// DialWithin is Dial with a limit.
func (h *Host) DialWithin(limit time.Duration, network, to string) (conn net.Conn, err error) {
	dial := func() { conn, err = net.DialTimeout(network, to, limit) }
	if h == nil { // the node
		dial()
	} else {
		h.Do(dial)
	}
	return conn, err
}

// Question asks once over an open connection. Over UDP it may be repeated on the same flow.
func Question(conn net.Conn) (name, seen string, err error) {
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

// Eventually tries until ok, without a pause longer than the kernel needs.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 5 s: %s", what)
		}
		runtime.Gosched()
	}
}

// Check ends the test on an error.
func Check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// setting writes a kernel setting of the namespace the thread is in.
func setting(t testing.TB, name, value string) {
	t.Helper()
	Check(t, os.WriteFile("/proc/sys/net/"+name, []byte(value), 0o644))
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
