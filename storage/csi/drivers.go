// Package csi uses storage drivers on this node.
//
// In:       drivers that register themselves (the Container Storage Interface, version 1), volumes of theirs that pods use.
// Out:      volumes staged once a node and published once a pod, the CSINode object, claims whose filesystem grew.
// Promise:  what was begun is on disk before the driver hears of it: a crash between any two calls heals by the next
// mount, the next unmount or the driver's next registration. Nothing is unstaged that a pod still uses.
// Not here: finding plugins (workloads/agent/plugins), attaching to machines (storage/attach), making volumes (the
// driver's own controllers).
package csi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	csiv1 "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
)

// Config of a node.
type Config struct {
	NodeName string
	Folder   string // the agent's: pods/<uid>/volumes, plugins/kubernetes.io/csi
	Told     string // the same folder as drivers know it, often /var/lib/kubelet
	Client   kubernetes.Interface
	// Token asks for a token of a pod's service account, for drivers that want one; audience "" is the API server's.
	Token func(ctx context.Context, pod *corev1.Pod, audience string, seconds int64) (token string, ends time.Time, err error)
	// Changed is told when InUse is another; nil: nobody wants to know.
	Changed func()
	Log     *slog.Logger
}

// Node is this machine's side of all drivers.
type Node struct {
	config Config

	mu      sync.Mutex
	drivers map[string]*driver
	came    chan struct{} // closed and made anew when a driver registers

	held held
	keys keyed
}

// driver is one that registered.
type driver struct {
	name     string
	endpoint string
	conn     *grpc.ClientConn
	node     csiv1.NodeClient
	can      map[csiv1.NodeServiceCapability_RPC_Type]bool
}

// NewNode looks for volumes that an earlier process left mounted; no driver is asked.
func NewNode(config Config) *Node {
	if config.Told == "" {
		config.Told = config.Folder
	}
	if config.Changed == nil {
		config.Changed = func() {}
	}
	config.Log = config.Log.With("component", "csi")
	n := &Node{config: config, drivers: map[string]*driver{}, came: make(chan struct{})}
	n.held.load(config.Folder, config.Log)
	return n
}

const (
	askFor = 2 * time.Minute // one call of a driver: formatting a large disk takes a while
	// driverPatience is how long a mount waits for a driver that is just starting, before it says that there is none.
	driverPatience = 10 * time.Second
)

// Register takes a driver in, as plugin watchers call it, and says so in the CSINode object.
func (n *Node) Register(ctx context.Context, name, endpoint string, versions []string) error {
	if !slices.ContainsFunc(versions, func(v string) bool { return strings.HasPrefix(strings.TrimPrefix(v, "v"), "1.") }) {
		return fmt.Errorf("driver %s speaks versions %v of CSI: 1.x is needed", name, versions)
	}
	conn, err := grpc.NewClient("unix:"+endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithIdleTimeout(time.Minute))
	if err != nil {
		return fmt.Errorf("reach driver %s: %w", name, err)
	}
	d := &driver{name: name, endpoint: endpoint, conn: conn, node: csiv1.NewNodeClient(conn), can: map[csiv1.NodeServiceCapability_RPC_Type]bool{}}
	if err := n.meet(ctx, d); err != nil {
		return errors.Join(err, conn.Close())
	}
	n.mu.Lock()
	old := n.drivers[name]
	n.drivers[name] = d
	close(n.came)
	n.came = make(chan struct{})
	n.mu.Unlock()
	if old != nil {
		_ = old.conn.Close() // a call under way on it ends, and is made again
	}
	n.unstageLeft(ctx, d)
	return nil
}

// meet asks a driver who it is here, and tells the cluster.
func (n *Node) meet(ctx context.Context, d *driver) error {
	info, err := d.node.NodeGetInfo(ctx, &csiv1.NodeGetInfoRequest{})
	if err != nil {
		return fmt.Errorf("ask driver %s about this node: %w", d.name, err)
	}
	if info.NodeId == "" {
		return fmt.Errorf("driver %s has no name for this node", d.name)
	}
	able, err := d.node.NodeGetCapabilities(ctx, &csiv1.NodeGetCapabilitiesRequest{})
	if err != nil {
		return fmt.Errorf("ask driver %s what it can do: %w", d.name, err)
	}
	for _, c := range able.GetCapabilities() {
		d.can[c.GetRpc().GetType()] = true
	}
	return n.announce(ctx, d.name, info)
}

// Deregister forgets a driver whose socket went. Its volumes stay mounted.
func (n *Node) Deregister(name, endpoint string) {
	n.mu.Lock()
	d := n.drivers[name]
	ours := d != nil && d.endpoint == endpoint
	if ours {
		delete(n.drivers, name)
	}
	n.mu.Unlock()
	if !ours {
		return
	}
	_ = d.conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := n.withdraw(ctx, name); err != nil {
		n.config.Log.Warn("take a driver off the CSINode object; pods that need it may still be sent here", "driver", name, "error", err)
	}
}

// driver finds one, waiting a moment for it: after a reboot pods and drivers start side by side.
func (n *Node) driver(ctx context.Context, name string, patience time.Duration) (*driver, error) {
	over := time.NewTimer(patience)
	defer over.Stop()
	for {
		n.mu.Lock()
		d, came := n.drivers[name], n.came
		n.mu.Unlock()
		if d != nil {
			return d, nil
		}
		select {
		case <-came:
		case <-over.C:
			return nil, fmt.Errorf("driver name %s not found in the list of registered CSI drivers: is its pod running on node %s?", name, n.config.NodeName)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// keyed serializes work on one volume.
type keyed struct {
	mu    sync.Mutex
	locks map[string]*counted
}

type counted struct {
	sync.Mutex
	users int
}

func (k *keyed) lock(key string) (unlock func()) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*counted{}
	}
	l := cmp.Or(k.locks[key], &counted{})
	l.users++
	k.locks[key] = l
	k.mu.Unlock()
	l.Lock()
	return func() {
		l.Unlock()
		k.mu.Lock()
		defer k.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(k.locks, key)
		}
	}
}
