package podnet_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/cni/libcni"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/vishvananda/netns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	fcache "k8s.io/client-go/tools/cache/testing"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/netstack/cni"
	"knarr.dev/knarr/netstack/overlay"
	"knarr.dev/knarr/netstack/podnet"
	"knarr.dev/knarr/netstack/xt"
	"knarr.dev/knarr/test/lab/lab"
)

// The tests with packets run the network in a process of its own on a lab machine, so that it can be killed, and ask it
// for addresses as containerd does: through libcni, which runs the client.

const clusterDNS = "10.43.0.10"

// beNode makes this test binary such a process. It takes the nodes as lines of JSON from stdin.
const beNode = "KNARR_PODNET_TEST_NODE"

// beProbe makes it print what Probe says.
const beProbe = "KNARR_PODNET_TEST_PROBE"

func TestMain(m *testing.M) {
	if text := os.Getenv(beNode); text != "" {
		if err := runNode(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if kind := os.Getenv(beProbe); kind != "" {
		start := time.Now()
		fmt.Println(podnet.Probe(kind == "iptables"), "after", time.Since(start))
		os.Exit(0)
	}
	var err error
	if clientDir, err = os.MkdirTemp("", "knarr-cni"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(clientDir)
	os.Exit(code)
}

type nodeConfig struct {
	Paths config.Paths
	Name  string
	IPs   []netip.Addr
	Pods  []netip.Prefix
	Mode  string        // of the overlay
	Keys  time.Duration // how old its keys get

	IPTables bool
}

func runNode(text string) error {
	var cfg nodeConfig
	if err := json.Unmarshal([]byte(text), &cfg); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	nodes := newNodes()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	network, err := podnet.New(podnet.Config{
		Paths: cfg.Paths, NodeName: cfg.Name, NodeIPs: cfg.IPs, ClusterRanges: cfg.Pods,
		ClusterDNS: netip.MustParseAddr(clusterDNS), IPTables: cfg.IPTables,
		Overhead: overlay.Overhead(cfg.Mode, cfg.IPs[0]),
	}, nodes, log)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { nodes.informer.Run(ctx.Done()); return nil })
	group.Go(func() error { return network.Run(ctx, func() { log.Info("serving") }) })
	group.Go(func() error {
		return overlay.New(overlay.Config{
			Paths: cfg.Paths, NodeName: cfg.Name, Mode: cfg.Mode, Pods: cfg.Pods, Rotation: cfg.Keys,
			Publish: func(_ context.Context, annotation, value string) error { // as lines of what it logs
				log.Info("published", annotation, value)
				return nil
			},
			Log: log,
		}, nodes).Run(ctx, func() {})
	})
	go nodes.follow(os.Stdin)
	return group.Wait()
}

// nodes is a small cache of Node objects that is told what they are.
type nodes struct {
	source   *fcache.FakeControllerSource
	informer toolscache.SharedIndexInformer
	known    map[string]*corev1.Node
}

func newNodes() *nodes {
	source := fcache.NewFakeControllerSource()
	informer := toolscache.NewSharedIndexInformer(source, &corev1.Node{}, 0, toolscache.Indexers{})
	return &nodes{source: source, informer: informer, known: map[string]*corev1.Node{}}
}

func (n *nodes) GetInformer(context.Context, client.Object, ...cache.InformerGetOption) (cache.Informer, error) {
	return n.informer, nil
}

func (n *nodes) List(_ context.Context, list client.ObjectList, _ ...client.ListOption) error {
	for _, node := range n.informer.GetStore().List() {
		out := list.(*corev1.NodeList)
		out.Items = append(out.Items, *node.(*corev1.Node))
	}
	return nil
}

// follow reads complete lists.
func (n *nodes) follow(r io.Reader) {
	decoder := json.NewDecoder(r)
	for {
		var list []corev1.Node
		if decoder.Decode(&list) != nil {
			return
		}
		listed := map[string]bool{}
		for i := range list {
			node := &list[i]
			listed[node.Name] = true
			if n.known[node.Name] == nil {
				n.source.Add(node)
			} else {
				n.source.Modify(node)
			}
			n.known[node.Name] = node
		}
		for name, node := range n.known {
			if !listed[name] {
				n.source.Delete(node)
				delete(n.known, name)
			}
		}
	}
}

// node is a lab machine with the network's process on it.
type node struct {
	*lab.Machine
	t     *testing.T
	ips   []netip.Addr
	pods  []netip.Prefix // of the cluster
	mode  string         // of the overlay
	keys  time.Duration
	heard func(line string) // what it logs; may be nil
	paths config.Paths
	cmd   *lab.Cmd
	stdin io.WriteCloser
	log   *logbook

	ipTables bool
}

// newNode starts one. The nodes it should know are told with tell.
func newNode(t *testing.T, m *lab.Machine) *node { return newNodeWith(t, m, false) }

// newNodeWith starts one whose rules are in ip_tables, or in nftables.
func newNodeWith(t *testing.T, m *lab.Machine, ipTables bool) *node {
	t.Helper()
	return newNodeOf(t, m, ipTables, []netip.Addr{m.IP()}, "10.42.0.0/16")
}

// newNodeOf starts one with these addresses, in a cluster of these pods.
func newNodeOf(t *testing.T, m *lab.Machine, ipTables bool, ips []netip.Addr, pods ...string) *node {
	t.Helper()
	return newNodeSaid(t, m, node{mode: config.VXLAN, ipTables: ipTables}, ips, pods...)
}

// newNodeSaid starts one with what is said of its overlay and its rules.
func newNodeSaid(t *testing.T, m *lab.Machine, said node, ips []netip.Addr, pods ...string) *node {
	t.Helper()
	// As strict as machines are about where packets come from.
	if err := m.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/all/rp_filter", []byte("1"), 0o644) }); err != nil {
		t.Fatal(err)
	}
	if said.ipTables {
		if err := m.Do(func() error { return xt.Probe(false, true) }); err != nil {
			t.Skip(err)
		}
	}
	n := &said
	n.Machine, n.t, n.ips, n.paths = m, t, ips, config.Paths{Data: m.DataDir(), Run: m.RunDir()}
	for _, text := range pods {
		n.pods = append(n.pods, netip.MustParsePrefix(text))
	}
	n.start()
	t.Cleanup(n.kill9)
	return n
}

func (n *node) start() {
	n.t.Helper()
	text, err := json.Marshal(nodeConfig{Paths: n.paths, Name: n.Name(), IPs: n.ips, Pods: n.pods, Mode: n.mode, Keys: n.keys, IPTables: n.ipTables})
	if err != nil {
		n.t.Fatal(err)
	}
	n.cmd = n.Command(context.Background(), "/proc/self/exe")
	n.cmd.Env = append(os.Environ(), beNode+"="+string(text))
	if n.stdin, err = n.cmd.StdinPipe(); err != nil {
		n.t.Fatal(err)
	}
	stderr, err := n.cmd.StderrPipe()
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.log = newLogbook(stderr, n.heard)
	n.log.wait(n.t, "msg=serving")
}

func (n *node) kill9() {
	if n.cmd != nil {
		_ = n.cmd.Process.Kill()
		_ = n.cmd.Wait() // killed, as it says
		n.cmd = nil
	}
}

// tell gives it the nodes of the cluster.
func (n *node) tell(nodes ...corev1.Node) {
	n.t.Helper()
	if err := n.send(nodes); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) send(nodes []corev1.Node) error { return json.NewEncoder(n.stdin).Encode(nodes) }

// object is the node's API object.
func (n *node) object(podRanges ...string) corev1.Node {
	object := corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Name()}, Spec: corev1.NodeSpec{PodCIDR: podRanges[0], PodCIDRs: podRanges}}
	for _, ip := range n.ips {
		object.Status.Addresses = append(object.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip.String()})
	}
	return object
}

// up gives it its ranges and waits for the bridge.
func (n *node) up(podRanges ...string) {
	n.t.Helper()
	n.tell(n.object(podRanges...))
	n.log.wait(n.t, `msg="pod network is up"`)
}

// logbook is what a process logs.
type logbook struct {
	mu    sync.Mutex
	lines []string
	more  chan struct{}
}

func newLogbook(r io.Reader, heard func(line string)) *logbook {
	l := &logbook{more: make(chan struct{})}
	go func() {
		scanner := bufio.NewScanner(r)
		for scanner.Scan() {
			l.mu.Lock()
			l.lines = append(l.lines, scanner.Text())
			close(l.more)
			l.more = make(chan struct{})
			l.mu.Unlock()
			if heard != nil {
				heard(scanner.Text())
			}
		}
	}()
	return l
}

// wait for a line with text, and forget it.
func (l *logbook) wait(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		l.mu.Lock()
		for i, line := range l.lines {
			if strings.Contains(line, text) {
				l.lines = slices.Delete(l.lines, i, i+1)
				l.mu.Unlock()
				return
			}
		}
		more := l.more
		l.mu.Unlock()
		select {
		case <-more:
		case <-deadline:
			t.Fatalf("nothing logged with %q:\n%s", text, strings.Join(l.lines, "\n"))
		}
	}
}

// forget all that was logged.
func (l *logbook) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = nil
}

// has says whether a line with text was logged.
func (l *logbook) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.lines, func(line string) bool { return strings.Contains(line, text) })
}

// clientDir is where the client is built to, when the first test needs it.
var clientDir string

var buildClient = sync.OnceValue(func() error {
	out, err := exec.Command("go", "build", "-o", clientDir, "knarr.dev/knarr/packaging/bundle/cni").CombinedOutput()
	if err != nil {
		return fmt.Errorf("build the CNI client: %w\n%s", err, out)
	}
	return os.Rename(filepath.Join(clientDir, "cni"), filepath.Join(clientDir, cni.PluginType))
})

// pod is a network namespace on a node.
type pod struct {
	node    *node
	id      string
	netns   string
	ports   []map[string]any
	limits  map[string]any
	address netip.Addr
	second  netip.Addr // where there are two families
}

// newPod makes the namespace; it isn't connected yet.
func (n *node) newPod(id string) *pod {
	n.t.Helper()
	p := &pod{node: n, id: id, netns: filepath.Join(n.RunDir(), "netns", id)}
	if err := os.MkdirAll(filepath.Dir(p.netns), 0o755); err != nil {
		n.t.Fatal(err)
	}
	if err := n.Do(func() error {
		if err := os.WriteFile(p.netns, nil, 0o600); err != nil {
			return err
		}
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount(fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid()), p.netns, "", unix.MS_BIND, "")
	}); err != nil {
		n.t.Fatal(err)
	}
	return p
}

// vanish takes the namespace away, as a reboot does: no DEL is asked for.
func (p *pod) vanish() {
	p.node.t.Helper()
	if err := p.node.Do(func() error { return errors.Join(unix.Unmount(p.netns, unix.MNT_DETACH), os.Remove(p.netns)) }); err != nil {
		p.node.t.Fatal(err)
	}
}

// cni runs one command as containerd does.
func (p *pod) cni(do func(*libcni.CNIConfig, *libcni.NetworkConfigList, *libcni.RuntimeConf) error) error {
	t := p.node.t
	t.Helper()
	if err := buildClient(); err != nil {
		t.Fatal(err)
	}
	list, err := libcni.ConfListFromFile(filepath.Join(p.node.paths.CNIConfig(), "00-knarr.conflist"))
	if err != nil {
		return err
	}
	runtimeConf := &libcni.RuntimeConf{
		ContainerID: p.id, NetNS: p.netns, IfName: "eth0", CacheDir: filepath.Join(p.node.Dir(), "cni-cache"),
		Args: [][2]string{{"K8S_POD_NAMESPACE", "default"}, {"K8S_POD_NAME", p.id}},
	}
	runtimeConf.CapabilityArgs = map[string]any{}
	if p.ports != nil {
		runtimeConf.CapabilityArgs["portMappings"] = p.ports
	}
	if p.limits != nil {
		runtimeConf.CapabilityArgs["bandwidth"] = p.limits
	}
	return p.node.Do(func() error { return do(libcni.NewCNIConfig([]string{clientDir}, nil), list, runtimeConf) })
}

func (p *pod) add() error {
	return p.cni(func(c *libcni.CNIConfig, list *libcni.NetworkConfigList, conf *libcni.RuntimeConf) error {
		result, err := c.AddNetworkList(context.Background(), list, conf)
		if err != nil {
			return err
		}
		full, err := types100.NewResultFromResult(result)
		if err != nil {
			return err
		}
		if len(full.IPs) != len(p.node.pods) {
			return fmt.Errorf("result %v has not an address of each family", full)
		}
		for i, at := range []*netip.Addr{&p.address, &p.second}[:len(full.IPs)] {
			*at, _ = netip.AddrFromSlice(full.IPs[i].Address.IP)
			*at = at.Unmap()
		}
		return nil
	})
}

func (p *pod) del() error {
	return p.cni(func(c *libcni.CNIConfig, list *libcni.NetworkConfigList, conf *libcni.RuntimeConf) error {
		return c.DelNetworkList(context.Background(), list, conf)
	})
}

func (p *pod) check() error {
	return p.cni(func(c *libcni.CNIConfig, list *libcni.NetworkConfigList, conf *libcni.RuntimeConf) error {
		return c.CheckNetworkList(context.Background(), list, conf)
	})
}

// connected makes a pod with an address.
func (n *node) connected(id string, ports ...map[string]any) *pod {
	n.t.Helper()
	p := n.newPod(id)
	p.ports = ports
	if err := p.add(); err != nil {
		n.t.Fatalf("add pod %s: %v", id, err)
	}
	return p
}

func hostPort(port, containerPort int, protocol, hostIP string) map[string]any {
	return map[string]any{"hostPort": port, "containerPort": containerPort, "protocol": protocol, "hostIP": hostIP}
}

// Do runs f in the pod.
func (p *pod) Do(f func() error) error {
	return p.node.Do(func() error {
		runtime.LockOSThread() // said again here, because this thread changes its namespace
		ns, err := netns.GetFromPath(p.netns)
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			return err
		}
		return f()
	})
}

// place is where code can run: a machine or a pod.
type place interface{ Do(func() error) error }

// serve answers every connection or datagram with the address it came from.
func serve(t *testing.T, where place, network, address string) netip.AddrPort {
	t.Helper()
	var at netip.AddrPort
	err := where.Do(func() error {
		if strings.HasPrefix(network, "udp") {
			conn, err := net.ListenPacket(network, address)
			if err != nil {
				return err
			}
			t.Cleanup(func() { conn.Close() })
			at = conn.LocalAddr().(*net.UDPAddr).AddrPort()
			go func() {
				buffer := make([]byte, 64)
				for {
					_, from, err := conn.ReadFrom(buffer)
					if err != nil {
						return
					}
					if _, err := conn.WriteTo([]byte(from.String()), from); err != nil {
						return
					}
				}
			}()
			return nil
		}
		listener, err := net.Listen(network, address)
		if err != nil {
			return err
		}
		t.Cleanup(func() { listener.Close() })
		at = listener.Addr().(*net.TCPAddr).AddrPort()
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				fmt.Fprint(conn, conn.RemoteAddr())
				conn.Close()
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatalf("serve %s %s: %v", network, address, err)
	}
	return at
}

// patience with an answer: three times what a lost first packet costs.
const patience = 3 * time.Second

// ask is the address that a server at address sees a client as.
func ask(where place, network, address string) (netip.Addr, error) {
	var seen netip.Addr
	err := where.Do(func() error {
		conn, err := net.DialTimeout(network, address, patience)
		if err != nil {
			return err
		}
		defer conn.Close()
		if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
			return err
		}
		if strings.HasPrefix(network, "udp") {
			if _, err := conn.Write([]byte("?")); err != nil {
				return err
			}
		}
		buffer := make([]byte, 64)
		n, err := conn.Read(buffer)
		if err != nil {
			return err
		}
		at, err := netip.ParseAddrPort(string(buffer[:n]))
		seen = at.Addr()
		return err
	})
	return seen, err
}

// expect asks, and wants to be seen as want.
func expect(t *testing.T, what string, where place, network, address string, want netip.Addr) {
	t.Helper()
	got, err := ask(where, network, address)
	if err != nil {
		t.Errorf("%s (%s %s): %v", what, network, address, err)
	} else if got != want {
		t.Errorf("%s (%s %s): seen as %v, want %v", what, network, address, got, want)
	}
}
