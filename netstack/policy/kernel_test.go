package policy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	fcache "k8s.io/client-go/tools/cache/testing"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/netstack/netlab"
	"knarr.dev/knarr/netstack/xt"
)

func TestMain(m *testing.M) { os.Exit(netlab.Main(m)) }

// api is a small API server with its cache.
type api struct {
	t         *testing.T
	sources   map[string]*fcache.FakeControllerSource
	informers map[string]toolscache.SharedIndexInformer
	exists    map[string]bool
}

func kindOf(o client.Object) string {
	switch o.(type) {
	case *networkingv1.NetworkPolicy:
		return "policy"
	case *corev1.Pod:
		return "pod"
	}
	return "namespace"
}

func newAPI(t *testing.T) *api {
	a := &api{t: t, sources: map[string]*fcache.FakeControllerSource{}, informers: map[string]toolscache.SharedIndexInformer{}, exists: map[string]bool{}}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	for _, o := range []client.Object{&networkingv1.NetworkPolicy{}, &corev1.Pod{}, &corev1.Namespace{}} {
		source := fcache.NewFakeControllerSource()
		a.sources[kindOf(o)] = source
		a.informers[kindOf(o)] = toolscache.NewSharedIndexInformer(source, o, 0, toolscache.Indexers{})
		go a.informers[kindOf(o)].Run(ctx.Done())
	}
	for _, name := range []string{"default", "other", "kube-system"} {
		a.put(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels.Set{corev1.LabelMetadataName: name}}})
	}
	return a
}

func (a *api) put(objects ...client.Object) {
	for _, o := range objects {
		key := kindOf(o) + client.ObjectKeyFromObject(o).String()
		o.SetUID(types.UID(key))
		if a.exists[key] {
			o.SetGeneration(o.GetGeneration() + 1)
			a.sources[kindOf(o)].Modify(o.DeepCopyObject())
		} else {
			a.sources[kindOf(o)].Add(o.DeepCopyObject())
		}
		a.exists[key] = true
	}
}

func (a *api) delete(o client.Object) {
	delete(a.exists, kindOf(o)+client.ObjectKeyFromObject(o).String())
	a.sources[kindOf(o)].Delete(o)
}

func (a *api) policy(text string) *networkingv1.NetworkPolicy {
	p := policies(a.t, text)[0]
	a.put(p)
	return p
}

func (a *api) GetInformer(_ context.Context, o client.Object, _ ...cache.InformerGetOption) (cache.Informer, error) {
	return a.informers[kindOf(o)], nil
}

func (a *api) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	object, there, err := a.informers["pod"].GetStore().GetByKey(key.String())
	if err != nil || !there {
		return apierrors.NewNotFound(schema.GroupResource{Resource: "pods"}, key.Name)
	}
	object.(*corev1.Pod).DeepCopyInto(into.(*corev1.Pod))
	return nil
}

func (a *api) List(context.Context, client.ObjectList, ...client.ListOption) error { return nil }

// node runs the component.
type node struct {
	*api
	ipTables bool
	policy   *Policy
	stop     func()
}

func newNode(t *testing.T, a *api) *node { return newNodeWith(t, a, false) }

// newNodeWith is a node whose rules are in ip_tables, or in nftables.
func newNodeWith(t *testing.T, a *api, ipTables bool) *node {
	t.Helper()
	netlab.NeedKernel(t)
	if err := xt.Probe(false, true); ipTables && err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { netlab.Check(t, Remove()) })
	// A client that draws the port of a test before would pass as its flow.
	netlab.Check(t, netlink.ConntrackTableFlush(netlink.ConntrackTable))
	n := &node{api: a, ipTables: ipTables}
	n.start(t.TempDir(), nil)
	return n
}

// withEither runs a test on a node of either kind: packets must not tell them apart.
func withEither(t *testing.T, test func(t *testing.T, n *node)) {
	t.Run("nftables", func(t *testing.T) { test(t, newNodeWith(t, newAPI(t), false)) })
	t.Run("iptables", func(t *testing.T) { test(t, newNodeWith(t, newAPI(t), true)) })
}

func (n *node) start(dir string, held map[netip.Addr]string) {
	n.t.Helper()
	p, err := New(Config{
		Paths: config.Paths{Data: dir}, Node: "here", PodRanges: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("fd00:42::/48")},
		DNS: netip.MustParseAddr("10.43.0.10"), IPTables: n.ipTables, Log: slog.New(slog.DiscardHandler),
	}, n.api, nil)
	netlab.Check(n.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	p.Assign(held)
	go func() { ended <- p.Run(ctx, func() { close(ready) }) }()
	stopped := false
	n.policy, n.stop = p, func() {
		cancel()
		if !stopped {
			stopped = true
			netlab.Check(n.t, <-ended)
		}
	}
	n.t.Cleanup(n.stop)
	select {
	case <-ready:
	case <-time.After(10 * time.Second):
		n.t.Fatal("not ready after 10 s")
	}
}

// pod is one of this node: its object, then its address and its rules, then its link, as in a cluster.
func (n *node) pod(name, address string, set labels.Set) *netlab.Host {
	n.t.Helper()
	object := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: set},
		Spec:       corev1.PodSpec{NodeName: "here", Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "web", ContainerPort: 8080}}}}},
	}
	n.put(object)
	netlab.Eventually(n.t, "the agent sees the pod", func() bool { return n.Get(n.t.Context(), client.ObjectKeyFromObject(object), &corev1.Pod{}) == nil })
	h := n.link(name, address)
	n.api.put(withAddress(object, address))
	return h
}

// link connects a pod, whether anything is known of it or not.
func (n *node) link(name, address string) *netlab.Host {
	n.t.Helper()
	n.policy.Assign(map[netip.Addr]string{netip.MustParseAddr(address): "default/" + name})
	netlab.Check(n.t, n.policy.Enforce(n.t.Context()))
	via := "10.42.0.1"
	if strings.Contains(address, ":") {
		via = "fd00:42::1"
	}
	h := netlab.Wire(n.t, name, address, netip.MustParseAddr(via))
	h.Serve(name, 8080)
	h.Serve(name, 9090)
	return h
}

func withAddress(pod *corev1.Pod, address string) *corev1.Pod {
	pod.Status.PodIP, pod.Status.PodIPs = address, []corev1.PodIP{{IP: address}}
	return pod
}

// reaches asks once. What is dropped answers nobody, so not reaching takes its time.
func reaches(from *netlab.Host, network, to string) bool {
	conn, err := from.DialWithin(300*time.Millisecond, network, to)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(300 * time.Millisecond))
	if network == "udp" {
		if _, err := conn.Write([]byte("?")); err != nil {
			return false
		}
	}
	_, err = conn.Read(make([]byte, 64))
	return err == nil
}

func expect(t *testing.T, what string, from *netlab.Host, to string, want bool) {
	t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		if got := reaches(from, network, to); got != want {
			t.Errorf("%s, by %s to %s: reached %v; want %v", what, network, to, got, want)
		}
	}
}

func soon(t *testing.T, what string, from *netlab.Host, to string, want bool) {
	t.Helper()
	netlab.Eventually(t, what, func() bool { return reaches(from, "tcp", to) == want })
	expect(t, what, from, to, want)
}

var theNode *netlab.Host

const allowFriends = `
metadata: {name: friends, namespace: default}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: friend}}}]
    ports: [{port: web}, {port: 8080, protocol: UDP}]`

func TestPolicyOfPackets(t *testing.T) { withEither(t, testPolicyOfPackets) }

func testPolicyOfPackets(t *testing.T, n *node) {
	server := n.pod("server", "10.42.0.2", labels.Set{"app": "server"})
	friend := n.pod("friend", "10.42.0.3", labels.Set{"app": "friend"})
	stranger := n.pod("stranger", "10.42.0.4", nil)
	world := netlab.Wire(t, "world", "192.168.9.2", netip.MustParseAddr("192.168.9.1"))
	world.Serve("world", 8080)
	expect(t, "no policy", stranger, "10.42.0.2:8080", true)
	open, err := stranger.Dial("tcp", "10.42.0.2:8080")
	netlab.Check(t, err)
	defer open.Close()

	deny := n.api.policy(denyIngress)
	soon(t, "nobody in", stranger, "10.42.0.2:8080", false)
	expect(t, "from the node", theNode, "10.42.0.2:8080", true)
	expect(t, "to itself", server, "10.42.0.2:8080", true)
	expect(t, "from the world", world, "10.42.0.2:8080", false)
	expect(t, "and out", server, "192.168.9.2:8080", true)
	if _, err := open.Write([]byte("still there?")); err != nil {
		t.Errorf("a connection from before: %v", err)
	} else if _, err := io.ReadFull(open, make([]byte, len("still there?"))); err != nil {
		t.Errorf("a connection from before: %v", err)
	}

	n.api.policy(allowFriends)
	soon(t, "a friend", friend, "10.42.0.2:8080", true)
	expect(t, "a friend at another port", friend, "10.42.0.2:9090", false)
	expect(t, "a stranger", stranger, "10.42.0.2:8080", false)

	t.Log("labels change, pods come and go")
	n.put(withAddress(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "stranger", Labels: labels.Set{"app": "friend"}}, Spec: corev1.PodSpec{NodeName: "here"}}, "10.42.0.4"))
	soon(t, "a stranger become a friend", stranger, "10.42.0.2:8080", true)
	late := n.pod("late", "10.42.0.5", labels.Set{"app": "friend"})
	expect(t, "a new friend, at once", late, "10.42.0.2:8080", true)
	expect(t, "to a new pod: selected from its first packet", friend, "10.42.0.5:8080", false)
	n.delete(deny)
	soon(t, "without the other policy", friend, "10.42.0.5:8080", true)

	t.Log("out")
	egress := n.api.policy(`
metadata: {name: out, namespace: default}
spec:
  podSelector: {matchLabels: {app: friend}}
  policyTypes: [Egress]
  egress:
  - to: [{ipBlock: {cidr: 192.168.9.0/24, except: [192.168.9.128/25]}}]
  - to: [{podSelector: {matchLabels: {app: server}}}]
    ports: [{port: web}]`)
	soon(t, "no way out", friend, "10.42.0.5:8080", false)
	expect(t, "a range", friend, "192.168.9.2:8080", true)
	if !reaches(friend, "tcp", "10.42.0.2:8080") || reaches(friend, "udp", "10.42.0.2:8080") {
		t.Error("a peer's named port does not mean its protocol and number")
	}
	listener, err := net.Listen("tcp", "10.42.0.1:8080")
	netlab.Check(t, err)
	defer listener.Close()
	if reaches(friend, "tcp", "10.42.0.1:8080") {
		t.Error("a pod whose egress is restricted reaches its node")
	}
	expect(t, "its node reaches it", theNode, "10.42.0.3:8080", true)

	t.Log("unknown pods pass nothing")
	unknown := n.link("unknown", "10.42.0.6")
	expect(t, "an unknown pod", unknown, "192.168.9.2:8080", false)
	n.put(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "unknown"}, Spec: corev1.PodSpec{NodeName: "here"}})
	soon(t, "known now", unknown, "192.168.9.2:8080", true)

	t.Log("somebody flushes all rules")
	netlab.Check(t, Remove())
	if n.ipTables {
		n.policy.touched() // what a look every xt.Interval comes to
	}
	soon(t, "healed", stranger, "10.42.0.2:9090", false)
	expect(t, "healed, for friends", late, "192.168.9.2:8080", true)

	t.Log("the process is away, and another takes over")
	n.stop()
	expect(t, "while away", stranger, "10.42.0.2:9090", false)
	n.start(t.TempDir(), map[netip.Addr]string{
		netip.MustParseAddr("10.42.0.2"): "default/server", netip.MustParseAddr("10.42.0.3"): "default/friend",
		netip.MustParseAddr("10.42.0.4"): "default/stranger", netip.MustParseAddr("10.42.0.5"): "default/late",
	})
	expect(t, "back", stranger, "10.42.0.2:9090", false)

	n.delete(egress)
	n.delete(&networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "friends"}})
	soon(t, "no policy again", stranger, "10.42.0.2:9090", true)
	if out, err := exec.Command("nft", "list", "tables").CombinedOutput(); err == nil && strings.Contains(string(out), TableName) {
		t.Errorf("a table without policies:\n%s", out)
	}
	if left := inTables(t); len(left) > 0 {
		t.Errorf("chains and sets without policies: %v", left)
	}
}

func TestTheNftProgramCanListTheTable(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("no nft program here")
	}
	n := newNode(t, newAPI(t))
	n.api.policy(example)
	n.api.policy(peersName)
	n.api.policy(strings.Replace(denyAll, "default-deny-all", "0.starts-with.a-digit", 1))
	n.pod("db", "10.42.0.2", labels.Set{"role": "db"})
	n.pod("six", "fd00:42::2", labels.Set{"role": "db"})
	out, err := exec.Command("nft", "list", "table", "inet", TableName).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"10.42.0.2 : goto out-pods-", "tcp dport 6379 ip saddr @peers-", "tcp dport 6379 ip saddr 172.17.0.0/16 ip saddr != ", "172.17.1.0/24", "fd00:42::2 : goto in-pods-"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the list has no %q:\n%s", want, out)
		}
	}
}

func TestIPv6(t *testing.T) { withEither(t, testIPv6) }

func testIPv6(t *testing.T, n *node) {
	n.api.policy(allowFriends)
	n.pod("server", "fd00:42::2", labels.Set{"app": "server"})
	friend := n.pod("friend", "fd00:42::3", labels.Set{"app": "friend"})
	stranger := n.pod("stranger", "fd00:42::4", nil)
	soon(t, "a friend, once neighbours have found each other", friend, "[fd00:42::2]:8080", true)
	expect(t, "a stranger", stranger, "[fd00:42::2]:8080", false)
	expect(t, "the node", theNode, "[fd00:42::2]:8080", true)
	n.api.policy(`
metadata: {name: out, namespace: default}
spec: {podSelector: {}, policyTypes: [Egress], egress: [{to: [{podSelector: {}}]}]}`)
	soon(t, "a stranger may not get in", stranger, "[fd00:42::2]:8080", false)
	for _, h := range []*netlab.Host{friend, theNode} {
		forget(t)
		soon(t, "neighbours find each other, whatever pods may send", h, "[fd00:42::2]:8080", true)
	}
}

// forget empties the node's neighbour tables.
func forget(t *testing.T) {
	t.Helper()
	list, err := netlink.NeighList(0, netlink.FAMILY_V6)
	netlab.Check(t, err)
	for i := range list {
		if err := netlink.NeighDel(&list[i]); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

func TestAPodWaitsForThePoliciesOfAClusterThatHasSome(t *testing.T) {
	dir := t.TempDir()
	for note, admitted := range map[string]bool{noPolicy: true, somePolicy: false, "": false} {
		p, err := New(Config{Paths: config.Paths{Data: dir}, Node: "here", PodRanges: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}, Log: slog.New(slog.DiscardHandler)}, nil, nil)
		netlab.Check(t, err)
		netlab.Check(t, os.MkdirAll(p.cfg.Paths.Network(), 0o700))
		netlab.Check(t, os.WriteFile(p.notePath(), []byte(note), 0o600))
		close(p.late) // the API did not answer in time
		if err := p.Enforce(t.Context()); (err == nil) != admitted {
			t.Errorf("with the note %q: %v; want a pod admitted: %v", note, err, admitted)
		}
	}
}
