// Package announce tells the machines on this node's network where the addresses of load balancers are.
//
// In:       Services of type LoadBalancer whose addresses this cluster gave, their endpoints, the nodes.
// Out:      on the links that have the node's addresses, announcements and answers: ARP for IPv4 (RFC 5227), neighbour
// advertisements for IPv6 (RFC 4861).
// Promise:  of nodes that see the same, one speaks for an address; it falls silent with this process.
// Not here: who gets which address (workloads/loadbalancer), where its packets go (netstack/proxy).
package announce

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/netstack/endpoints"
)

const (
	// retryInterval follows a pass that failed, and a link that went away.
	retryInterval = 5 * time.Second
	// An announcement is one packet, which a busy switch may lose.
	announcements    = 3
	announceInterval = time.Second
)

// Nodes is what is needed of the shared cache.
type Nodes interface {
	GetInformer(ctx context.Context, obj client.Object, opts ...cache.InformerGetOption) (cache.Informer, error)
	List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error
}

// Config of an Announcer.
type Config struct {
	Node    string
	NodeIPs []netip.Addr // one of each family at most: the link that has it is announced on
	Nodes   Nodes
	Log     *slog.Logger
}

// Announcer is the component.
type Announcer struct {
	cfg  Config
	view *endpoints.View
	find func(netip.Addr) (segment, error)
	open func(segment) (*speaker, error)
	wake chan struct{}

	mu    sync.Mutex
	dirty map[types.NamespacedName]bool
	nodes bool // may have changed
}

// New announces for the Services in view.
func New(cfg Config, view *endpoints.View) *Announcer {
	return &Announcer{
		cfg: cfg, view: view, find: segmentOf, open: openSpeaker,
		wake: make(chan struct{}, 1), dirty: map[types.NamespacedName]bool{},
	}
}

// Name of the component.
func (a *Announcer) Name() string { return "announcer" }

// Run announces until ctx ends. It is ready at once: nothing on this machine waits for it. Until the first Service has
// an address, nothing is open and nothing read.
func (a *Announcer) Run(ctx context.Context, ready func()) error {
	informer, err := a.cfg.Nodes.GetInformer(ctx, &corev1.Node{}, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	changed := func(any) { a.markNodes() }
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: changed, UpdateFunc: func(_, object any) { changed(object) }, DeleteFunc: changed,
	})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	defer func() { _ = informer.RemoveEventHandler(registration) }()
	ready()
	select {
	case <-a.view.Synced():
	case <-ctx.Done():
		return nil
	}
	defer a.view.Subscribe(a.mark)()

	v := &voice{announcer: a, claimed: map[types.NamespacedName]bool{}, speakers: map[bool]*speaker{}, untold: map[netip.Addr]int{}}
	defer v.silence()
	for {
		var again <-chan time.Time
		if err := v.pass(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Log.Error("addresses of load balancers are not announced from here; trying again", "component", a.Name(), "error", err)
			v.silence()
			v.unsettled = true
			again = time.After(retryInterval)
		} else if len(v.untold) > 0 {
			again = time.After(announceInterval)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		case <-again:
		}
	}
}

func (a *Announcer) mark(key types.NamespacedName) {
	a.mu.Lock()
	a.dirty[key] = true
	a.mu.Unlock()
	a.kick()
}

func (a *Announcer) markNodes() {
	a.mu.Lock()
	a.nodes = true
	a.mu.Unlock()
	a.kick()
}

func (a *Announcer) kick() {
	select {
	case a.wake <- struct{}{}:
	default: // the pass that is due will see this change too
	}
}

func (a *Announcer) takeChanges() (dirty map[types.NamespacedName]bool, nodes bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	dirty, nodes = a.dirty, a.nodes
	a.dirty, a.nodes = map[types.NamespacedName]bool{}, false
	return dirty, nodes
}
