package podnet_test

import (
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"knarr.dev/knarr/netstack/dump"
	"knarr.dev/knarr/test/lab/lab"
)

func TestPodsKeepToTheirBandwidth(t *testing.T) {
	const limit = 10e6 // bits a second
	n := newNode(t, lab.New(t).Machine("n"))
	n.up("10.42.0.0/24")
	free := n.connected("free")
	slow := n.newPod("slow")
	// The bursts are what containerd asks for with any limit.
	slow.limits = map[string]any{"ingressRate": limit, "ingressBurst": 1<<32 - 1, "egressRate": limit, "egressBurst": 1<<32 - 1}
	if err := slow.add(); err != nil {
		t.Fatal(err)
	}
	for name, way := range map[string][2]*pod{"to the pod": {free, slow}, "from the pod": {slow, free}} {
		t.Run(name, func(t *testing.T) {
			if rate := rateBetween(t, way[0], way[1], 1<<20); rate > 2*limit || rate < limit/10 {
				t.Errorf("%.1f Mbit/s, want some %.0f", rate/1e6, limit/1e6)
			} else {
				t.Logf("%.1f Mbit/s", rate/1e6)
			}
		})
	}
	n.kill9()
	n.start()
	n.log.wait(t, `msg="pod network is up"`)
	if links := linksOf(t, n, "kns"); links != 1 {
		t.Errorf("after a restart there are %d links for limits, want 1", links)
	}
	if err := slow.del(); err != nil {
		t.Fatal(err)
	}
	if links := linksOf(t, n, "kns") + linksOf(t, n, "knp"); links != 1 {
		t.Errorf("when the pod is gone there are %d links of pods, want the other one's", links)
	}
}

// linksOf counts a node's links with this beginning.
func linksOf(t *testing.T, n *node, prefix string) (count int) {
	t.Helper()
	if err := n.Do(func() error {
		links, err := dump.Links()
		for _, link := range links {
			if strings.HasPrefix(link.Attrs().Name, prefix) {
				count++
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return count
}

// rateBetween is how many bits a second of so many bytes come through, from before the first is sent: however late the receiver
// is, the rate is never more than what the link let pass.
func rateBetween(t *testing.T, from, to *pod, size int64) float64 {
	t.Helper()
	var listener net.Listener
	if err := to.Do(func() (err error) {
		listener, err = net.Listen("tcp4", netip.AddrPortFrom(to.address, 0).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var conn net.Conn
	if err := from.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp4", listener.Addr().String(), patience)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	began, sent := time.Now(), make(chan error, 1)
	go func() {
		_, err := conn.Write(make([]byte, size))
		sent <- err
	}()
	in, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if err := in.SetDeadline(began.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, in, size); err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	return float64(size) * 8 / took.Seconds()
}
