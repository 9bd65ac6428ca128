package podnet_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/netstack/dump"
	"knarr.dev/knarr/netstack/overlay"
	"knarr.dev/knarr/test/lab/lab"
)

// TestNothingLeavesInTheClear runs WireGuard of the kernel, or in the node's process where the kernel has none.
func TestNothingLeavesInTheClear(t *testing.T) {
	l, api := lab.New(t), newBoard(t)
	m1, m2 := l.Machine("n1"), l.Machine("n2")
	ips := func(m *lab.Machine) []netip.Addr { return []netip.Addr{m.IP()} }

	t.Log("a node without key: its packets go nowhere")
	n1 := api.node(m1, node{mode: config.WireGuard}, ips(m1), cluster4)
	api.show(n1, podRange4)
	n1.log.wait(t, `msg="pod network is up"`)
	api.add(peer(n1, "n2", "10.42.1.0/24"))
	n1.log.wait(t, `msg="nodes have no key for WireGuard`)
	a, wire := n1.connected("a"), tapOf(t, n1)
	shout(t, a, "10.42.1.2:9", "to a node without key")
	wire.fence(t, a, m2.IP())
	wire.expectClosed(t, "to a node without key")

	t.Log("two that know each other")
	n2 := api.node(m2, node{mode: config.WireGuard, keys: 3 * time.Second}, ips(m2), cluster4)
	api.show(n2, "10.42.1.0/24")
	n2.log.wait(t, `msg="pod network is up"`)
	b := n2.connected("b")
	first := serve(t, a, "tcp4", a.address.String()+":0").String()
	eventually(t, func() error { _, err := ask(b, "tcp4", first); return err })
	for _, network := range []string{"tcp4", "udp4"} {
		onA := serve(t, a, network, a.address.String()+":0").String()
		expect(t, "pod to pod", b, network, onA, b.address)
		expect(t, "node to pod", n2, network, onA, netip.MustParseAddr("10.42.1.0"))
	}
	udp := serve(t, a, "udp4", a.address.String()+":0").String()
	shout(t, b, udp, "between pods")
	wire.fence(t, a, m2.IP())
	wire.expectClosed(t, "between pods")
	if wire.sealed() == 0 {
		t.Errorf("no packet to or from UDP port %d was seen", overlay.TunnelPort)
	}

	t.Log("a connection outlives a change of keys")
	talk := converse(t, a, b)
	talk.until(t, func() bool { return n2.log.has(`msg="this node has another key`) })
	talk.turns(t, 100)
	t.Logf("the longest of %d questions had its answer after %s", talk.asked, talk.longest)

	t.Log("the process is gone: with the kernel's WireGuard packets cross as before, with its own none leaves by another way")
	n2.kill9()
	n2.keys = 0 // the usual
	wire2 := tapOf(t, n2)
	shout(t, b, udp, "without a process")
	wire2.fence(t, b, m1.IP())
	wire2.expectClosed(t, "without a process")
	began := time.Now()
	n2.start()
	api.show(n2, "10.42.1.0/24")
	eventually(t, func() error { _, err := ask(b, "tcp4", first); return err })
	t.Logf("whole %s after the start", time.Since(began))

	t.Log("a machine gets another address")
	n2.ips = []netip.Addr{readdress(t, n2, 200)}
	api.show(n2, "10.42.1.0/24")
	eventually(t, func() error { _, err := ask(b, "tcp4", first); return err })

	t.Log("the key stays on its machine, and nobody else there reads it")
	info, err := os.Stat(filepath.Join(n2.paths.Network(), "wireguard.json"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file of keys: %v, %v", info, err)
	}

	t.Log("a node that is alone again has no link, and after Remove nothing of it is left")
	n1.log.forget()
	api.hide(n2)
	n1.log.wait(t, `msg="overlay follows the nodes" nodes=0`)
	if err := n1.Do(func() error {
		if _, err := netlink.LinkByName(overlay.Tunnel); err == nil {
			t.Errorf("a node alone has a link %s", overlay.Tunnel)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	n1.kill9()
	if err := n1.Do(overlay.Remove); err != nil {
		t.Fatal(err)
	}
	if err := n1.Do(func() error {
		routes, err := dump.Routes(netlink.FAMILY_V4, &netlink.Route{Type: unix.RTN_BLACKHOLE}, netlink.RT_FILTER_TYPE)
		for _, route := range routes {
			t.Errorf("route %v is left", route)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

// shout sends one packet, whoever listens.
func shout(t *testing.T, where place, to, text string) {
	t.Helper()
	if err := where.Do(func() error {
		conn, err := net.Dial("udp", to)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte(text))
		return err
	}); err != nil {
		t.Fatalf("send %q to %s: %v", text, to, err)
	}
}

// tap is what passes a machine's eth0, either way.
type tap struct {
	mu     sync.Mutex
	frames [][]byte
	more   chan struct{} // closed by the next frame
	fences int
}

func tapOf(t *testing.T, n *node) *tap {
	t.Helper()
	all := int(binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL)))
	var fd int
	if err := n.Do(func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: uint16(all), Ifindex: link.Index})
	}); err != nil {
		t.Fatalf("listen on eth0: %v", err)
	}
	w, done := &tap{more: make(chan struct{})}, make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		buffer := make([]byte, 1<<16)
		for {
			select {
			case <-done:
				return
			default:
			}
			size, _, err := unix.Recvfrom(fd, buffer, 0)
			if err != nil {
				continue // nothing came for a while
			}
			w.mu.Lock()
			w.frames = append(w.frames, bytes.Clone(buffer[:size]))
			close(w.more)
			w.more = make(chan struct{})
			w.mu.Unlock()
		}
	})
	t.Cleanup(func() {
		close(done)
		reading.Wait()
		unix.Close(fd)
	})
	return w
}

func (w *tap) has(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, frame := range w.frames {
		if bytes.Contains(frame, []byte(text)) {
			return true
		}
	}
	return false
}

// fence waits until a packet is seen that a pod sends in the clear to a machine: what it sent before has been seen, too.
func (w *tap) fence(t *testing.T, from place, to netip.Addr) {
	t.Helper()
	w.fences++
	text := fmt.Sprintf("fence %d.", w.fences)
	for range 30 { // it may be lost
		shout(t, from, netip.AddrPortFrom(to, 9).String(), text)
		for soon := time.After(300 * time.Millisecond); soon != nil; {
			w.mu.Lock()
			more := w.more
			w.mu.Unlock()
			if w.has(text) {
				return
			}
			select {
			case <-more:
			case <-soon:
				soon = nil
			}
		}
	}
	t.Fatal("a packet in the clear was not seen")
}

// expectClosed wants neither the text nor an address of a pod to have been seen.
func (w *tap) expectClosed(t *testing.T, text string) {
	t.Helper()
	if w.has(text) {
		t.Errorf("%q left in the clear", text)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, frame := range w.frames {
		if src, dst, ok := addressesOf(frame); ok && (netip.MustParsePrefix(cluster4).Contains(src) || netip.MustParsePrefix(cluster4).Contains(dst)) {
			t.Errorf("a packet left in the clear from %s to %s", src, dst)
			return
		}
	}
}

// sealed counts packets of WireGuard.
func (w *tap) sealed() (count int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, frame := range w.frames {
		if _, _, ok := addressesOf(frame); ok && frame[23] == unix.IPPROTO_UDP && binary.BigEndian.Uint16(frame[36:]) == overlay.TunnelPort {
			count++
		}
	}
	return count
}

// addressesOf a frame with a packet of IPv4, without options.
func addressesOf(frame []byte) (src, dst netip.Addr, ok bool) {
	if len(frame) < 42 || binary.BigEndian.Uint16(frame[12:]) != unix.ETH_P_IP {
		return src, dst, false
	}
	return netip.AddrFrom4([4]byte(frame[26:])), netip.AddrFrom4([4]byte(frame[30:])), true
}

// talk is one TCP connection with a question and its answer at a time.
type talk struct {
	conn    net.Conn
	reader  *bufio.Reader
	asked   int
	longest time.Duration
}

func converse(t *testing.T, server, client place) *talk {
	t.Helper()
	var at net.Addr
	if err := server.Do(func() error {
		listener, err := net.Listen("tcp4", ":0")
		if err != nil {
			return err
		}
		t.Cleanup(func() { listener.Close() })
		at = listener.Addr()
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			lines := bufio.NewReader(conn)
			for {
				line, err := lines.ReadString('\n')
				if err != nil {
					return
				}
				if _, err := conn.Write([]byte(line)); err != nil {
					return
				}
			}
		}()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	to := netip.AddrPortFrom(server.(*pod).address, uint16(at.(*net.TCPAddr).Port))
	k := &talk{}
	if err := client.Do(func() (err error) {
		k.conn, err = net.DialTimeout("tcp4", to.String(), patience)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.conn.Close() })
	k.reader = bufio.NewReader(k.conn)
	return k
}

// turns are so many questions, each with its answer.
func (k *talk) turns(t *testing.T, n int) {
	t.Helper()
	for range n {
		began := time.Now()
		k.asked++
		k.ask(t, fmt.Sprintf("question %d\n", k.asked))
		k.longest = max(k.longest, time.Since(began))
	}
}

// bulk asks something that takes many packets.
func (k *talk) bulk(t *testing.T) {
	t.Helper()
	k.ask(t, strings.Repeat("x", 300_000)+"\n")
}

func (k *talk) ask(t *testing.T, question string) {
	t.Helper()
	if err := k.conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := k.conn.Write([]byte(question)); err != nil {
		t.Fatalf("ask: %v", err)
	}
	if answer, err := k.reader.ReadString('\n'); err != nil || answer != question {
		t.Fatalf("%d bytes of the answer to %d: %v", len(answer), len(question), err)
	}
}

func (k *talk) until(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); k.turns(t, 1) {
		if time.Now().After(deadline) {
			t.Fatal("not within a minute")
		}
	}
}
