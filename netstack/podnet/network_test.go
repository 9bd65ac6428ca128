package podnet_test

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"

	"knarr.dev/knarr/netstack/dump"
	"knarr.dev/knarr/netstack/overlay"
	"knarr.dev/knarr/netstack/podnet"
	"knarr.dev/knarr/netstack/xt"
	"knarr.dev/knarr/test/lab/lab"
)

var gateway = netip.MustParseAddr("10.42.0.1")

// bridgedFrames are the two ways a kernel can be set: whether frames that are only bridged pass the rules of IP. Hosts
// with other container software have it on, others off, and some kernels haven't the switch.
var bridgedFrames = map[string]string{
	"where bridged frames pass the rules of IP": "1",
	"where bridged frames pass no rules of IP":  "0",
}

// eachWay runs a test with the rules in nftables and in ip_tables, each with both kinds of kernel.
func eachWay(t *testing.T, test func(t *testing.T, ipTables bool, bridged string)) {
	for kind, ipTables := range map[string]bool{"nftables": false, "iptables": true} {
		for name, value := range bridgedFrames {
			t.Run(kind+" "+name, func(t *testing.T) { test(t, ipTables, value) })
		}
	}
}

func setBridgedFrames(t *testing.T, m *lab.Machine, value string) {
	t.Helper()
	const path = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	if err := m.Do(func() error { return os.WriteFile(path, []byte(value), 0o644) }); err != nil && value == "1" {
		t.Skip("this kernel has no such switch")
	}
}

func TestPodsReachEachOtherTheirNodeAndTheWorld(t *testing.T) {
	eachWay(t, func(t *testing.T, ipTables bool, value string) {
		l := lab.New(t)
		n, world := newNodeWith(t, l.Machine("n"), ipTables), l.Machine("world")
		setBridgedFrames(t, n.Machine, value)
		n.up("10.42.0.0/24")
		a, b := n.connected("a"), n.connected("b")
		for _, network := range []string{"tcp4", "udp4"} {
			onA := serve(t, a, network, ":0")
			address := func(ip netip.Addr) string { return netip.AddrPortFrom(ip, onA.Port()).String() }
			expect(t, "pod to pod", b, network, address(a.address), b.address)
			expect(t, "pod to itself", a, network, address(a.address), a.address)
			expect(t, "node to pod", n, network, address(a.address), gateway)
			onNode := serve(t, n, network, n.IP().String()+":0")
			expect(t, "pod to node", a, network, onNode.String(), a.address)
			onDNS := serve(t, n, network, clusterDNS+":53")
			expect(t, "pod to the cluster's DNS address", a, network, onDNS.String(), a.address)
			outside := serve(t, world, network, world.IP().String()+":0")
			expect(t, "pod to the world, behind the node's address", a, network, outside.String(), n.IP())
		}
		if err := a.check(); err != nil {
			t.Errorf("CHECK of a pod: %v", err)
		}
		local := serve(t, n, "tcp4", "127.0.0.1:0")
		if _, err := ask(a, "tcp4", fmt.Sprintf("%s:%d", n.IP(), local.Port())); err == nil {
			t.Error("a pod reaches what its node serves on its loopback address")
		}
	})
}

func TestHostPorts(t *testing.T) {
	eachWay(t, func(t *testing.T, ipTables bool, value string) {
		l := lab.New(t)
		n, world := newNodeWith(t, l.Machine("n"), ipTables), l.Machine("world")
		setBridgedFrames(t, n.Machine, value)
		n.up("10.42.0.0/24")
		web := n.connected("web",
			hostPort(8080, 80, "tcp", ""), hostPort(8080, 80, "udp", ""), hostPort(9090, 90, "tcp", n.IP().String()))
		local := n.connected("local", hostPort(9090, 90, "tcp", "127.0.0.1"))
		other := n.connected("other")
		serve(t, web, "tcp4", ":80")
		serve(t, web, "udp4", ":80")
		serve(t, web, "tcp4", ":90")
		serve(t, local, "tcp4", ":90")
		onNode := func(port int) string { return fmt.Sprintf("%s:%d", n.IP(), port) }

		for _, network := range []string{"tcp4", "udp4"} {
			expect(t, "the world", world, network, onNode(8080), world.IP())
			expect(t, "the node itself", n, network, onNode(8080), n.IP())
			expect(t, "the node through its loopback", n, network, "127.0.0.1:8080", gateway)
			expect(t, "another pod", other, network, onNode(8080), other.address)
			expect(t, "the pod itself", web, network, onNode(8080), gateway)
		}
		expect(t, "a port of one address", world, "tcp4", onNode(9090), world.IP())
		expect(t, "the same port of another address, for another pod", n, "tcp4", "127.0.0.1:9090", gateway)

		n.kill9()
		expect(t, "the world, while knarr is away", world, "tcp4", onNode(8080), world.IP())
		n.start()
		n.log.wait(t, `msg="pod network is up"`)
		expect(t, "the world, when knarr is back", world, "tcp4", onNode(8080), world.IP())

		if err := web.del(); err != nil {
			t.Fatal(err)
		}
		successor := n.connected("successor", hostPort(8080, 81, "udp", ""))
		serve(t, successor, "udp4", ":81")
		expect(t, "the world asks the next pod with the port", world, "udp4", onNode(8080), world.IP())
		if _, err := ask(world, "tcp4", onNode(8080)); err == nil {
			t.Error("a host port answers after its pod went")
		}
	})
}

func TestAddressesOutliveKillAndReboot(t *testing.T) {
	n := newNode(t, lab.New(t).Machine("n"))
	n.up("10.42.0.0/24")
	a, b := n.connected("a"), n.connected("b")
	onA := serve(t, a, "tcp4", a.address.String()+":0")

	n.kill9()
	expect(t, "pod to pod, while knarr is away", b, "tcp4", onA.String(), b.address)
	n.start() // nobody tells it the nodes: the API is away
	n.log.wait(t, `msg="pod network is up"`)
	c := n.connected("c")
	if c.address == a.address || c.address == b.address {
		t.Errorf("address %v was given twice", c.address)
	}
	expect(t, "a new pod to an old one", c, "tcp4", onA.String(), c.address)

	before := a.address
	if err := a.add(); err != nil {
		t.Errorf("ADD again, as after a crash in the middle of it: %v", err)
	} else if a.address != before {
		t.Errorf("ADD again gave %v, want %v as before", a.address, before)
	}
	expect(t, "pod to a pod that was added again", b, "tcp4", onA.String(), b.address)

	n.kill9()
	a.vanish()
	n.start()
	n.log.wait(t, `msg="pod network is up"`)
	leases, err := filepath.Glob(filepath.Join(n.paths.Network(), "leases", "*"))
	if err != nil || len(leases) != 2 {
		t.Errorf("leases = %v, %v; want those of b and c, whose namespaces are there", leases, err)
	}
}

func TestDelIsDoneHoweverOftenAndLate(t *testing.T) {
	n := newNode(t, lab.New(t).Machine("n"))
	n.up("10.42.0.0/24")
	a, b := n.connected("a"), n.connected("b")
	b.vanish()
	for _, p := range []*pod{a, a, b, n.newPod("never-added")} {
		if err := p.del(); err != nil {
			t.Errorf("DEL of %s: %v", p.id, err)
		}
	}
	if err := a.check(); err == nil {
		t.Error("CHECK of a pod that was deleted finds nothing wrong")
	}
	if left := podLinks(t, n); len(left) > 0 {
		t.Errorf("links left: %v", left)
	}
	if c := n.connected("c"); c.address == a.address || c.address == b.address {
		t.Errorf("address %v is given again at once, while others never were", c.address)
	}
}

func TestCheckFindsWhatIsBroken(t *testing.T) {
	n := newNode(t, lab.New(t).Machine("n"))
	n.up("10.42.0.0/24")
	a := n.connected("a")
	if err := n.Do(func() error {
		links, err := dump.Links()
		for _, link := range links {
			if strings.HasPrefix(link.Attrs().Name, "knp") {
				return netlink.LinkDel(link)
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if err := a.check(); err == nil || !strings.Contains(err.Error(), "find link") {
		t.Errorf("CHECK of a pod without link = %v", err)
	}
}

func TestPodsWaitForTheNodesRange(t *testing.T) {
	n := newNode(t, lab.New(t).Machine("n"))
	if _, err := os.Stat(n.paths.CNIConfig()); err == nil {
		t.Error("containerd is told of a network that isn't there")
	}
	info, err := os.Stat(n.paths.CNISocket())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v; want mode 0600", info, err)
	}
	n.up("10.42.7.0/24")
	a := n.connected("a")
	if want := netip.MustParseAddr("10.42.7.2"); a.address != want {
		t.Errorf("first address = %v, want %v", a.address, want)
	}
	n.up("10.42.8.0/24") // the node was made anew
	b := n.connected("b")
	if want := netip.MustParseAddr("10.42.8.2"); b.address != want {
		t.Errorf("first address of the new range = %v, want %v", b.address, want)
	}
}

func TestAFullNodeSaysSoAndTakesBackWhatVanished(t *testing.T) {
	n := newNode(t, lab.New(t).Machine("n"))
	n.up("10.42.0.0/29")
	pods := map[int]*pod{}
	for i := range 5 {
		pods[i] = n.connected(fmt.Sprint("p", i))
	}
	late := n.newPod("late")
	if err := late.add(); err == nil || !strings.Contains(err.Error(), "all addresses of 10.42.0.0/29 are taken") {
		t.Errorf("ADD on a full node = %v", err)
	}
	pods[3].vanish()
	if err := late.add(); err != nil || late.address != pods[3].address {
		t.Errorf("ADD when one vanished = %v, %v; want the address %v", late.address, err, pods[3].address)
	}
}

func TestRulesThatAreTakenAwayComeBack(t *testing.T) {
	l := lab.New(t)
	n, world := newNode(t, l.Machine("n")), l.Machine("world")
	n.up("10.42.0.0/24")
	a := n.connected("a", hostPort(8080, 80, "tcp", ""))
	serve(t, a, "tcp4", ":80")
	outside := serve(t, world, "tcp4", world.IP().String()+":0").String()
	conn := func(change func(*nftables.Conn)) func() error {
		return func() error {
			conn, err := nftables.New()
			if err != nil {
				return err
			}
			change(conn)
			return conn.Flush()
		}
	}
	ours := &nftables.Table{Name: podnet.Table, Family: nftables.TableFamilyIPv4}
	for name, change := range map[string]func(*nftables.Conn){
		"all tables are flushed": func(c *nftables.Conn) { c.FlushRuleset() },
		"ours is flushed":        func(c *nftables.Conn) { c.FlushTable(ours) },
		"one chain is":           func(c *nftables.Conn) { c.FlushChain(&nftables.Chain{Table: ours, Name: "postrouting"}) },
	} {
		if err := n.Do(conn(change)); err != nil {
			t.Fatal(err)
		}
		n.log.wait(t, `msg="rules were taken away and are back"`)
		expect(t, "the world asks a host port after "+name, world, "tcp4", n.IP().String()+":8080", world.IP())
		expect(t, "a pod asks the world after "+name, a, "tcp4", outside, n.IP())
	}
}

func TestABridgeThatIsTakenAwayComesBackWithItsPods(t *testing.T) {
	n := newNode(t, lab.New(t).Machine("n"))
	n.up("10.42.0.0/24")
	a, b := n.connected("a"), n.connected("b")
	serve(t, a, "tcp4", ":80")
	if err := n.Do(func() error {
		bridge, err := netlink.LinkByName(podnet.Bridge)
		if err != nil {
			return err
		}
		return netlink.LinkDel(bridge)
	}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { _, err := ask(b, "tcp4", a.address.String()+":80"); return err })
	if err := errors.Join(a.check(), b.check()); err != nil {
		t.Errorf("CHECK of the pods: %v", err)
	}
}

func TestNothingIsLeftAfterRemove(t *testing.T) {
	for name, ipTables := range map[string]bool{"nftables": false, "iptables": true} {
		t.Run(name, func(t *testing.T) { testNothingIsLeft(t, newNodeWith(t, lab.New(t).Machine("n"), ipTables)) })
	}
}

func testNothingIsLeft(t *testing.T, n *node) {
	n.up("10.42.0.0/24")
	n.connected("a", hostPort(80, 80, "tcp", ""))
	n.tell(n.object("10.42.0.0/24"), peer(n, "other", "10.42.1.0/24"))
	n.log.wait(t, `msg="overlay follows the nodes" nodes=1`)
	n.kill9()
	for range 2 {
		if err := n.Do(func() error { return podnet.Remove(n.paths, n.paths.CNIConfig(), "") }); err != nil {
			t.Fatal(err)
		}
		if err := n.Do(overlay.Remove); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Do(func() error {
		links, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, link := range links {
			if link.Name != "lo" && link.Name != "eth0" {
				t.Errorf("link %s is left", link.Name)
			}
		}
		conn, err := nftables.New()
		if err != nil {
			return err
		}
		tables, err := conn.ListTables()
		for _, table := range tables {
			t.Errorf("nftables table %s is left", table.Name)
		}
		for _, table := range xt.InUse(false) {
			program, err := xt.Find(false)
			if err != nil {
				return err
			}
			chains, _, err := program.Dump(table)
			if err != nil {
				return err
			}
			for name, rules := range chains {
				if xt.Ours(name) || len(rules) > 0 {
					t.Errorf("in ip_tables %s, chain %s is left with %v", table, name, rules)
				}
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if files, err := filepath.Glob(filepath.Join(n.DataDir(), "*", "*")); err != nil || len(files) > 0 {
		t.Errorf("files left: %v, %v", files, err)
	}
}

// A packet that is lost because the kernel has not taken up the new link costs a pod the first second of its life.
func TestAPodsFirstPacketArrives(t *testing.T) {
	n := newNode(t, lab.New(t).Machine("n"))
	n.up("10.42.0.0/24")
	server := serve(t, n, "tcp4", clusterDNS+":0").String()
	const pods = 30
	var took time.Duration
	for i := range pods {
		p := n.newPod(fmt.Sprint("p", i))
		start := time.Now()
		if err := p.add(); err != nil {
			t.Fatal(err)
		}
		added := time.Now()
		took += added.Sub(start)
		if _, err := ask(p, "tcp4", server); err != nil || time.Since(added) > 900*time.Millisecond {
			t.Errorf("pod %d had its answer after %v, %v", i, time.Since(added), err)
		}
	}
	t.Logf("ADD takes %v with the client", took/pods)
}

func TestProbe(t *testing.T) {
	m := lab.New(t).Machine("m")
	tests := map[string]struct {
		credential *syscall.Credential
		kind       string
		want       string
	}{
		"root on this kernel can make a pod network": {credential: &syscall.Credential{}, want: "<nil>"},
		"so it can with ip_tables":                   {credential: &syscall.Credential{}, kind: "iptables", want: "<nil>"},
		"a user is told to be root":                  {credential: &syscall.Credential{Uid: 65534, Gid: 65534}, want: "make a network namespace: operation not permitted: knarr needs root"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			cmd := m.Command(t.Context(), "/proc/self/exe")
			cmd.Env = append(os.Environ(), beProbe+"="+cmp.Or(tc.kind, "nftables"))
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: tc.credential}
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.HasPrefix(string(out), tc.want) {
				t.Errorf("Probe() = %q, %v; want %q", out, err, tc.want)
			}
		})
	}
	if links := m.Exec("ls", "/sys/class/net"); links != "eth0\nlo\n" {
		t.Errorf("links of the machine afterwards: %q", links)
	}
}

func podLinks(t *testing.T, n *node) []string {
	t.Helper()
	var names []string
	if err := n.Do(func() error {
		links, err := net.Interfaces()
		for _, link := range links {
			if strings.HasPrefix(link.Name, "knp") {
				names = append(names, link.Name)
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return names
}
