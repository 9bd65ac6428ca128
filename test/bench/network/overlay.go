package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	restclient "k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"

	"knarr.dev/knarr/appliance/apiserver/servertest"
	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/netstack/endpoints"
	"knarr.dev/knarr/netstack/overlay"
)

// bare is the wire itself, from machine to machine: what there is to lose.
const bare = "no overlay"

// segment is the network of the two machines; each has a part of podRange, and one pod.
var segment = netip.MustParsePrefix("192.168.77.0/24")

// machine is one of two, with a pod.
type machine struct {
	name      string
	self, pod place
	api       net.Listener
	pods      netip.Prefix
}

func (m *machine) address() netip.Addr    { return nth(segment, int(m.pods.Addr().As4()[2])) }
func (m *machine) podAddress() netip.Addr { return m.pods.Addr().Next().Next() }

// crossed is what an overlay did with packets between two machines.
type crossed struct {
	name string
	took []time.Duration // sorted, of a byte there and back
	rate float64         // of one connection, bytes a second
	cpu  float64         // what both nodes' processes took meanwhile, of a processor
}

func benchOverlay(ctx context.Context, args []string, work string) (err error) {
	flags := flag.NewFlagSet("overlay", flag.ContinueOnError)
	only := flags.String("only", strings.Join([]string{bare, config.Routes, config.VXLAN, config.WireGuard}, ","), "measure these, in this order, with commas")
	during := flags.Duration("for", 5*time.Second, "how long bytes are sent")
	turns := flags.Int("turns", 20000, "how often a byte goes there and back")
	if err := flags.Parse(args); err != nil {
		return err
	}
	server, err := servertest.Start(filepath.Join(work, "server"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	c, err := newCluster(server, 0)
	if err != nil {
		return err
	}
	machines := []*machine{{name: "a", pods: netip.MustParsePrefix("10.128.1.0/24")}, {name: "b", pods: netip.MustParsePrefix("10.128.2.0/24")}}
	for _, m := range machines {
		if err := c.join(ctx, m); err != nil {
			return err
		}
	}
	var rows []crossed
	defer func() { err = errors.Join(err, printOverlays(rows)) }()
	for mode := range strings.SplitSeq(*only, ",") {
		row, err := c.cross(ctx, machines, mode, filepath.Join(work, mode), *turns, *during)
		if err != nil {
			return fmt.Errorf("measure %s: %w", mode, err)
		}
		rows = append(rows, row)
	}
	return nil
}

// join says of a machine what the overlay has to know.
func (c *cluster) join(ctx context.Context, m *machine) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: m.name}, Spec: corev1.NodeSpec{PodCIDR: m.pods.String(), PodCIDRs: []string{m.pods.String()}}}
	node, err := c.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: m.address().String()}}
	_, err = c.client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{})
	return err
}

// cross wires two machines anew, runs the overlay on both, and measures between their pods.
func (c *cluster) cross(ctx context.Context, machines []*machine, mode, dir string, turns int, during time.Duration) (row crossed, err error) {
	row.name = mode
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := errors.Join(os.MkdirAll(dir, 0o700), c.kubeconfig(kubeconfig)); err != nil {
		return row, err
	}
	defer func() {
		for _, m := range machines {
			err = errors.Join(err, m.close())
		}
	}()
	for _, m := range machines {
		if err := m.furnish(mode); err != nil {
			return row, fmt.Errorf("make machine %s: %w", m.name, err)
		}
	}
	a, b := machines[0], machines[1]
	if err := a.wire(b); err != nil {
		return row, fmt.Errorf("wire the machines: %w", err)
	}
	var nodes []*running
	from, to, at := a.pod, b.pod, b.podAddress()
	if mode == bare {
		from, to, at = a.self, b.self, b.address()
	} else {
		for _, m := range machines {
			if m.api, err = m.self.forward(c.server.URL); err != nil {
				return row, err
			}
			p := contender{name: m.name, command: []string{"/proc/self/exe", overlayVerb, "-kubeconfig={kubeconfig}", "-mode=" + mode, "-node=" + m.name, "-dir=" + filepath.Join(dir, m.name)}}
			node, err := p.start(ctx, m.self, kubeconfig, dir)
			if err != nil {
				return row, err
			}
			defer node.stop()
			nodes, ctx = append(nodes, node), node
		}
	}
	listener, err := to.listen(netip.AddrPortFrom(at, podPort))
	if err != nil {
		return row, err
	}
	defer listener.Close()
	if err := from.do(func() error { return until(ctx, func() bool { return reaches(listener.Addr()) }) }); err != nil {
		return row, fmt.Errorf("wait for pods to reach each other: %w%s", err, tail(filepath.Join(dir, a.name+".log")))
	}
	if row.took, err = pingPong(from, listener, turns); err != nil {
		return row, err
	}
	worked := func() (sum time.Duration) {
		for _, n := range nodes {
			sum += processorTime(n.pid)
		}
		return sum
	}
	before := worked()
	row.rate, err = stream(from, listener, during)
	row.cpu = (worked() - before).Seconds() / during.Seconds()
	return row, err
}

// furnish makes the machine's network and its pod's, with a link between them as wide as the overlay lets through.
func (m *machine) furnish(mode string) (err error) {
	for _, p := range []*place{&m.self, &m.pod} {
		if *p, err = newPlace(); err != nil {
			return err
		}
		if err := p.do(func() error { return raise("lo") }); err != nil {
			return err
		}
	}
	mtu := 1500
	if mode == config.VXLAN || mode == config.WireGuard {
		mtu -= overlay.Overhead(mode, m.address())
	}
	return errors.Join(
		m.self.do(func() error {
			link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "pod", MTU: mtu}, PeerName: "eth0", PeerMTU: uint32(mtu), PeerNamespace: netlink.NsFd(m.pod.ns)}
			return errors.Join(netlink.LinkAdd(link), netlink.AddrAdd(link, &netlink.Addr{IPNet: network(single(gateway))}), raise("pod"),
				netlink.RouteAdd(&netlink.Route{LinkIndex: link.Index, Dst: network(single(m.podAddress())), Scope: netlink.SCOPE_LINK}),
				os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644))
		}),
		m.pod.do(func() error {
			eth, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			return errors.Join(netlink.AddrAdd(eth, &netlink.Addr{IPNet: network(single(m.podAddress()))}), raise("eth0"),
				netlink.RouteAdd(&netlink.Route{LinkIndex: eth.Attrs().Index, Gw: gateway.AsSlice(), Flags: int(netlink.FLAG_ONLINK)}))
		}),
	)
}

func (m *machine) wire(other *machine) error {
	address := func(m *machine) error {
		return m.self.do(func() error {
			eth, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			ip := &net.IPNet{IP: m.address().AsSlice(), Mask: net.CIDRMask(segment.Bits(), 32)}
			return errors.Join(netlink.AddrAdd(eth, &netlink.Addr{IPNet: ip}), raise("eth0"))
		})
	}
	return errors.Join(m.self.do(func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0", PeerNamespace: netlink.NsFd(other.self.ns)})
	}), address(m), address(other))
}

func (m *machine) close() error {
	var err error
	if m.api != nil {
		err = m.api.Close()
		m.api = nil
	}
	for _, p := range []*place{&m.pod, &m.self} {
		if p.ns > 0 {
			err = errors.Join(err, p.ns.Close())
		}
	}
	return err
}

func (p place) listen(at netip.AddrPort) (l *net.TCPListener, err error) {
	err = p.do(func() error { l, err = net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at)); return err })
	return l, err
}

func reaches(at net.Addr) bool {
	conn, err := net.DialTimeout("tcp4", at.String(), 200*time.Millisecond)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

// pair is a connection to a listener. Those that were made before to see whether it can be reached are over.
func pair(from place, l *net.TCPListener) (near, far net.Conn, err error) {
	if err := from.do(func() error { near, err = net.DialTimeout("tcp4", l.Addr().String(), patient); return err }); err != nil {
		return nil, nil, err
	}
	for {
		if far, err = l.Accept(); err != nil {
			return nil, nil, errors.Join(err, near.Close())
		}
		if far.RemoteAddr().String() == near.LocalAddr().String() {
			return near, far, nil
		}
		_ = far.Close()
	}
}

// pingPong sends a byte and awaits it again, one at a time; after as many again as one in ten to warm up.
func pingPong(from place, l *net.TCPListener, turns int) (took []time.Duration, err error) {
	near, far, err := pair(from, l)
	if err != nil {
		return nil, err
	}
	defer near.Close()
	go func() {
		defer far.Close()
		_, _ = io.CopyBuffer(struct{ io.Writer }{far}, struct{ io.Reader }{far}, make([]byte, 1)) // bare: not spliced in the kernel
	}()
	var one [1]byte
	for turn := range turns + turns/10 {
		began := time.Now()
		if _, err := near.Write(one[:]); err != nil {
			return nil, err
		}
		if _, err := io.ReadFull(near, one[:]); err != nil {
			return nil, err
		}
		if turn >= turns/10 {
			took = append(took, time.Since(began))
		}
	}
	slices.Sort(took)
	return took, nil
}

// stream sends as much as goes through, and says how much arrived in a second.
func stream(from place, l *net.TCPListener, during time.Duration) (rate float64, err error) {
	near, far, err := pair(from, l)
	if err != nil {
		return 0, err
	}
	defer far.Close()
	go func() {
		defer near.Close()
		block := make([]byte, 256<<10)
		for end := time.Now().Add(during); time.Now().Before(end); {
			if _, err := near.Write(block); err != nil {
				return
			}
		}
	}()
	began, count, buffer := time.Now(), 0, make([]byte, 256<<10)
	for {
		n, err := far.Read(buffer)
		count += n
		if errors.Is(err, io.EOF) {
			return float64(count) / time.Since(began).Seconds(), nil
		}
		if err != nil {
			return 0, err
		}
	}
}

func printOverlays(rows []crossed) error {
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "overlay\tthere and back µs\tp99\tGbit/s\tnodes' CPU %\t")
	for _, r := range rows {
		fmt.Fprintf(out, "%s\t%.0f\t%.0f\t%.2f\t%.0f\t\n", r.name, microseconds(at(r.took, .5)), microseconds(at(r.took, .99)), r.rate*8/1e9, r.cpu*100)
	}
	return out.Flush()
}

// runOverlay is a node's part of an overlay.
func runOverlay(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet(overlayVerb, flag.ContinueOnError)
	mode := flags.String("mode", config.VXLAN, "which")
	name := flags.String("node", "", "of this machine")
	dir := flags.String("dir", "", "where it keeps its files")
	return runPart(ctx, flags, args, func(api *restclient.Config, _ *endpoints.View, nodes cache.Cache, log *slog.Logger) (part, error) {
		client, err := kubernetes.NewForConfig(api)
		if err != nil {
			return nil, err
		}
		return overlay.New(overlay.Config{
			Paths: config.Paths{Data: *dir, Run: *dir}, NodeName: *name, Mode: *mode, Pods: []netip.Prefix{podRange}, Log: log,
			Publish: func(ctx context.Context, annotation, value string) error {
				patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{annotation: value}}})
				if err != nil {
					return err
				}
				_, err = client.CoreV1().Nodes().Patch(ctx, *name, types.MergePatchType, patch, metav1.PatchOptions{})
				return err
			},
		}, nodes), nil
	})
}
