// Package announce tells the machines on this node's network where the addresses of load balancers, and that of the API, are.
//
// In:       Services of type LoadBalancer whose addresses this cluster gave, their endpoints, the nodes; on servers, the
// address of the API and whether the API server here answers; who of the others is heard (netstack/heartbeat).
// Out:      on the links that have the node's addresses, announcements and answers: ARP for IPv4 (RFC 5227), neighbour
// advertisements for IPv6 (RFC 4861).
// Promise:  of nodes that see the same, one speaks for an address; it falls silent with this process, and the next one
// speaks within a second.
// Not here: who gets which address (workloads/loadbalancer), where its packets go (netstack/proxy).
package announce

import (
	"context"
	"crypto/ecdh"
	"fmt"
	"log/slog"
	"net"
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
	API     netip.Addr // on servers that share an address: that address
	Foreign bool       // load balancers' addresses are a cloud's, and not to be announced

	// Key is this node's for heartbeats, asked for when there is somebody to listen for; Introduce has others know its public half.
	Key       func() (*ecdh.PrivateKey, error)
	Introduce func(ctx context.Context, annotation, value string) error
	Log       *slog.Logger
}

// Announcer is the component.
type Announcer struct {
	cfg  Config
	view *endpoints.View
	find func(netip.Addr) (segment, error)
	open func(segment) (*speaker, error)
	ears func(netip.AddrPort) (*net.UDPConn, error) // nil: the machine's
	wake chan struct{}

	mu     sync.Mutex
	dirty  map[types.NamespacedName]bool
	nodes  bool // may have changed, or who is heard
	serves bool // the API server here answers
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

// Run announces until ctx ends. It is ready at once: nothing on this machine waits for it. Until there is an address to
// announce, nothing is open and nothing read.
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
	if !a.cfg.Foreign {
		defer a.view.Subscribe(a.mark)()
	}

	v := newVoice(a)
	defer v.close()
	for {
		var again <-chan time.Time
		if err := v.pass(ctx); err != nil && ctx.Err() == nil {
			a.cfg.Log.Error("addresses are not announced from here; trying again", "component", a.Name(), "error", err)
			v.silence()
			v.company.leave() // others speak meanwhile
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

// Serve says whether the API server here answers: else the address of the API is for another one.
func (a *Announcer) Serve(serves bool) {
	a.mu.Lock()
	changed := a.serves != serves
	a.serves, a.nodes = serves, a.nodes || changed
	a.mu.Unlock()
	if changed {
		a.kick()
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

// changes since the last call.
type changes struct {
	dirty         map[types.NamespacedName]bool
	nodes, serves bool
}

func (a *Announcer) takeChanges() changes {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := changes{a.dirty, a.nodes, a.serves}
	a.dirty, a.nodes = map[types.NamespacedName]bool{}, false
	return c
}
