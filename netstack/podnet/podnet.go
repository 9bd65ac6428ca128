// Package podnet gives every pod of this node a link, an address and a way out.
//
// In:       CNI requests from containerd through our client; this node's pod ranges, from its Node object.
// Out:      bridge knarr0, one veth pair a pod, the nftables tables knarr-podnet, or on kernels without nftables chains of
// ip_tables named KNARR-POD (iptables.go), one lease file a pod, the CNI configuration.
// Promise:  an address is never given twice, whatever is killed when; pods keep their network while knarr is away; a family
// that the cluster has not costs nothing.
// Not here: the way to other nodes (netstack/overlay), services (netstack/proxy), names (netstack/dns).
package podnet

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/bootstrap/durable"
	"knarr.dev/knarr/netstack/cni"
	"knarr.dev/knarr/netstack/dump"
)

// healInterval is how often the bridge and the rules are looked at although nothing happened: somebody may have
// flushed them, and a minute of it is bearable.
const healInterval = time.Minute

// retryInterval follows a pass that failed.
const retryInterval = 5 * time.Second

// Config of one node's pod network.
type Config struct {
	Paths         config.Paths
	ConfigDir     string // where whoever runs containers looks for networks; "": where our containerd does
	ClientDir     string // where it looks for the client; "": it knows already
	Client        string // the program to put there
	NodeName      string
	NodeIPs       []netip.Addr   // the link of the first carries the pods' packets to other machines
	ClusterRanges []netip.Prefix // the pods of all nodes, a range for each family; a pod's first address is of the first
	ClusterDNS    netip.Addr     // an address of the bridge, for netstack/dns to listen on; may be unset
	Overhead      int            // bytes the overlay adds to each packet
	Policy        Policy         // nil lets everybody talk to everybody
	IPTables      bool           // the kernel's ip_tables instead of nftables
}

// Policy decides who may talk to whom. A pod gets its link when its rules are in force.
type Policy interface {
	// Assign tells which pods (namespace/name) have which addresses; the first call, all that there are.
	Assign(pods map[netip.Addr]string)
	// Enforce returns when what every assigned address may do is in force.
	Enforce(ctx context.Context) error
	// Release tells that an address is free again.
	Release(address netip.Addr)
}

// anybody is the Policy that has none.
type anybody struct{}

func (anybody) Assign(map[netip.Addr]string)  {}
func (anybody) Enforce(context.Context) error { return nil }
func (anybody) Release(netip.Addr)            {}

// Validate says what is missing.
func (c Config) Validate() error {
	switch {
	case c.NodeName == "":
		return errors.New("pod network: no node name")
	case len(c.NodeIPs) == 0:
		return errors.New("pod network: no node address: set --node-ip")
	case len(c.ClusterRanges) == 0:
		return errors.New("pod network: no range of pod addresses: set --cluster-cidr to one such as 10.42.0.0/16")
	}
	return nil
}

// Nodes is what is needed of the shared cache.
type Nodes interface {
	GetInformer(ctx context.Context, obj client.Object, opts ...cache.InformerGetOption) (cache.Informer, error)
}

// Network is this node's pod network; it is a component.
type Network struct {
	cfg    Config
	nodes  Nodes
	log    *slog.Logger
	newest chan []netip.Prefix // the newest ranges of this node, if they aren't taken up yet
	kick   chan struct{}       // somebody took something of ours away
	rules  packetFilter
	leave  func() error // takes away what the other kind of rules left

	mu     sync.Mutex // over leases and what is built on them
	leases *leases
	ranges []netip.Prefix // of this node, one of each family at most; none until the bridge stands
	mtu    int
	placed bool // the client
}

// New makes the pod network; nothing happens before Run.
func New(cfg Config, nodes Nodes, log *slog.Logger) (*Network, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Policy == nil {
		cfg.Policy = anybody{}
	}
	cfg.ConfigDir = cmp.Or(cfg.ConfigDir, cfg.Paths.CNIConfig())
	return &Network{cfg: cfg, nodes: nodes, log: log, newest: make(chan []netip.Prefix, 1), kick: make(chan struct{}, 1)}, nil
}

// Name of the component.
func (n *Network) Name() string { return "pod network" }

// Run serves CNI requests. It is ready when it answers them; until this node has a pod range the answer is "try later",
// and containerd, which finds no configuration, reports the network as not ready.
func (n *Network) Run(ctx context.Context, ready func()) error {
	var err error
	if n.rules, n.leave, err = n.cfg.open(); err != nil {
		return fmt.Errorf("pod network: %w", err)
	}
	if _, err := netlink.LinkByName(Bridge); errors.As(err, &netlink.LinkNotFoundError{}) {
		if err := Probe(n.cfg.IPTables); err != nil {
			return err
		}
	}
	held, err := loadLeases(n.leaseDir())
	if err != nil {
		return err
	}
	n.leases = held
	pods := map[netip.Addr]string{}
	for _, lease := range held.all() {
		for _, address := range lease.addresses() {
			pods[address] = lease.Pod
		}
	}
	n.cfg.Policy.Assign(pods)
	known, err := loadRanges(n.rangeFile())
	if err != nil {
		return err
	}
	listener, err := cni.Listen(n.cfg.Paths.CNISocket())
	if err != nil {
		return err
	}
	defer os.Remove(n.cfg.Paths.CNISocket())

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return n.watch(ctx) })
	group.Go(func() error { return n.keep(ctx, known) })
	group.Go(func() error { return n.rules.guard(ctx, n.wake) })
	group.Go(func() error { return guardLinks(ctx, n.wake) })
	group.Go(func() error { return cni.Serve(ctx, listener, n) })
	ready()
	return group.Wait()
}

// watch passes on this node's pod ranges.
func (n *Network) watch(ctx context.Context) error {
	informer, err := n.nodes.GetInformer(ctx, &corev1.Node{}, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	observe := func(object any) {
		node, ok := object.(*corev1.Node)
		if !ok || node.Name != n.cfg.NodeName {
			return
		}
		ranges := rangesOf(node, n.cfg.ClusterRanges)
		if len(ranges) == 0 {
			return
		}
		select { // the newest replace those that nobody took up
		case <-n.newest:
		default:
		}
		n.newest <- ranges
	}
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    observe,
		UpdateFunc: func(_, object any) { observe(object) },
	})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	<-ctx.Done()
	if err := informer.RemoveEventHandler(registration); err != nil {
		n.log.Debug("node watch was gone already", "error", err)
	}
	return nil
}

// rangesOf are a node's ranges in the families of the cluster, in the cluster's order. A node that is older than one of the
// families has none in it.
func rangesOf(node *corev1.Node, cluster []netip.Prefix) (ranges []netip.Prefix) {
	for _, family := range cluster {
		for _, text := range append(slices.Clone(node.Spec.PodCIDRs), node.Spec.PodCIDR) {
			if r, err := netip.ParsePrefix(text); err == nil && r.Addr().Is4() == family.Addr().Is4() {
				ranges = append(ranges, r.Masked())
				break
			}
		}
	}
	return ranges
}

// keep holds the bridge, the rules and the configuration as they should be.
func (n *Network) keep(ctx context.Context, ranges []netip.Prefix) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case ranges = <-n.newest:
		case <-n.kick:
		case <-timer.C:
		}
		wait := healInterval
		if len(ranges) > 0 {
			if err := n.settle(ranges); err != nil {
				n.log.Error("pod network is not as it should be", "ranges", ranges, "retry", retryInterval, "error", err)
				wait = retryInterval
			}
		}
		timer.Reset(wait)
	}
}

func (n *Network) wake() {
	select {
	case n.kick <- struct{}{}:
	default: // the pass that is due will see to it
	}
}

// settle makes one pass. Only when the bridge stands are pods let in, and only then is containerd told.
func (n *Network) settle(ranges []netip.Prefix) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	mtu, err := podMTU(n.cfg.NodeIPs[0], n.cfg.Overhead, ranges)
	if err != nil {
		if n.mtu == 0 {
			return err
		}
		mtu = n.mtu // the machine is between two addresses: its pods need not know
	}
	if err := raiseBridge(ranges, n.cfg.ClusterDNS, mtu, n.cfg.NodeIPs); err != nil {
		return err
	}
	if len(n.ranges) == 0 {
		if err := n.reclaim(); err != nil {
			return err
		}
	}
	same, whole := slices.Equal(ranges, n.ranges), false
	if same {
		if whole, err = n.rules.intact(ranges, n.cfg.ClusterRanges); err != nil {
			return err
		}
	}
	if !whole {
		if err := n.rules.write(ranges, n.cfg.ClusterRanges, hostPorts(n.leases.all())); err != nil {
			return err
		}
		if same {
			n.log.Warn("rules were taken away and are back")
		} else if err := n.leave(); err != nil {
			n.log.Warn("older rules of the pod network are still in force beside those of now", "error", err)
		}
	}
	if err := n.writeConfig(); err != nil {
		return err
	}
	if same && mtu == n.mtu {
		return nil
	}
	if err := saveRanges(n.rangeFile(), ranges); err != nil {
		return err
	}
	n.ranges, n.mtu = ranges, mtu
	n.log.Info("pod network is up", "ranges", ranges, "mtu", mtu, "pods", len(n.leases.held))
	return nil
}

// reclaim takes back what pods left that went while nobody was here: after a reboot that is all of them.
func (n *Network) reclaim() error {
	if err := n.release(leaked(n.leases.all(), alive)); err != nil {
		return err
	}
	links, err := dump.Links()
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	wanted := map[string]bool{}
	for _, lease := range n.leases.held {
		host := hostLink(lease.ContainerID, lease.IfName)
		wanted[host], wanted[shaperOf(host)] = true, true
	}
	for _, link := range links {
		name := link.Attrs().Name
		if ours := strings.HasPrefix(name, linkPrefix) || strings.HasPrefix(name, shaperPrefix); ours && !wanted[name] {
			if err := removeLink(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// release takes leases back, with their links; the rules are the caller's.
func (n *Network) release(gone []Lease) error {
	for _, lease := range gone {
		if err := removeLink(hostLink(lease.ContainerID, lease.IfName)); err != nil {
			return err
		}
		if err := n.leases.drop(lease); err != nil {
			return err
		}
		n.forget(lease)
		n.log.Info("address of a vanished pod taken back", "address", lease.Address, "pod", lease.Pod)
	}
	return nil
}

// forget tells the policies that a lease's addresses are free.
func (n *Network) forget(lease Lease) {
	for _, address := range lease.addresses() {
		n.cfg.Policy.Release(address)
	}
}

// writeConfig tells containerd how to ask us. The version is one that has no STATUS: containerd would run the client for
// every status the agent asks for.
func (n *Network) writeConfig() error {
	type plugin struct {
		Type         string          `json:"type"`
		Socket       string          `json:"socket"`
		Capabilities map[string]bool `json:"capabilities"`
	}
	data, err := json.MarshalIndent(struct {
		CNIVersion string   `json:"cniVersion"`
		Name       string   `json:"name"`
		Plugins    []plugin `json:"plugins"`
	}{
		CNIVersion: "1.0.0",
		Name:       networkName,
		Plugins: []plugin{{
			Type: cni.PluginType, Socket: n.cfg.Paths.CNISocket(), Capabilities: map[string]bool{"portMappings": true, "bandwidth": true},
		}},
	}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode CNI configuration: %w", err)
	}
	if err := n.placeClient(); err != nil {
		return err
	}
	path := filepath.Join(n.cfg.ConfigDir, configName)
	data = append(data, '\n')
	if present, err := os.ReadFile(path); err == nil && bytes.Equal(present, data) {
		return nil // containerd reloads at every change
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make the folder of the CNI configuration: %w", err)
	}
	// Renamed within the folder: containerd looks again when a file leaves it or is written, not when one appears.
	if err := durable.Replace(path, data, 0o600); err != nil {
		return fmt.Errorf("write CNI configuration: %w", err)
	}
	return nil
}

const (
	networkName = "knarr"
	// configName comes before what others may have left in a folder that is not ours: the first one is used.
	configName = "00-knarr.conflist"
)

// placeClient puts our client where whoever runs containers looks for it.
func (n *Network) placeClient() error {
	if n.cfg.ClientDir == "" {
		return nil
	}
	target := filepath.Join(n.cfg.ClientDir, cni.PluginType)
	if _, err := os.Stat(target); err == nil && n.placed {
		return nil
	}
	program, err := os.ReadFile(n.cfg.Client)
	if err != nil {
		return fmt.Errorf("read the CNI client: %w", err)
	}
	if present, err := os.ReadFile(target); err != nil || !bytes.Equal(present, program) {
		if err := os.MkdirAll(n.cfg.ClientDir, 0o755); err != nil {
			return fmt.Errorf("make the folder of the CNI client: %w", err)
		}
		if err := durable.Replace(target, program, 0o755); err != nil {
			return fmt.Errorf("put the CNI client where the container runtime looks for it: %w", err)
		}
	}
	n.placed = true
	return nil
}

func (n *Network) leaseDir() string  { return filepath.Join(n.cfg.Paths.Network(), "leases") }
func (n *Network) rangeFile() string { return filepath.Join(n.cfg.Paths.Network(), "pod-range") }

// loadRanges are the ranges of the last run: they let this machine start its pods while the API is away.
func loadRanges(path string) ([]netip.Prefix, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read this node's pod ranges: %w", err)
	}
	var ranges []netip.Prefix
	for line := range strings.FieldsSeq(string(data)) {
		r, err := netip.ParsePrefix(line)
		if err != nil {
			return nil, nil // the API knows them too
		}
		ranges = append(ranges, r)
	}
	return ranges, nil
}

func saveRanges(path string, ranges []netip.Prefix) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make the network folder: %w", err)
	}
	var lines strings.Builder
	for _, r := range ranges {
		fmt.Fprintln(&lines, r)
	}
	if err := durable.Write(path, []byte(lines.String()), 0o600); err != nil {
		return fmt.Errorf("save this node's pod ranges: %w", err)
	}
	return nil
}
