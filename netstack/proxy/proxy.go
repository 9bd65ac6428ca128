// Package proxy makes Service addresses reachable from this node and its pods.
//
// In:       Services with their EndpointSlices (netstack/endpoints).
// Out:      one nftables table, knarr-services, changed in single transactions, or on kernels without nftables chains of
// ip_tables named KNARR-SVC (iptables.go); stale UDP flows deleted; a route of last resort for cluster addresses. Nothing
// else in the kernel is ours.
// Promise:  a connection to an endpoint that stays ready survives every change, also our restart and our end: the rules
// stay until Remove. A table that somebody flushed is back within a second, chains of ip_tables within ten.
// Not here: pods' interfaces (netstack/podnet), names and the cluster DNS address (netstack/dns).
//
// # How a connection flows
//
// Only the first packet of a connection meets the table; the kernel's connection tracking takes the others along.
//
//	prerouting, output   from the network and from pods; from programs on the node
//	  services           address . protocol . port -> chain     (map services4/6: cluster, external, balancer addresses)
//	                     any address of the node: protocol . port -> chain                      (map nodeports4/6)
//	                     else any address in the service ranges -> reject
//	    anyN/NS/NAME/PROTO/PORT    hide the sender unless it is a pod; to one endpoint of all
//	    hereN/...                  the same among endpoints on this node        (internalTrafficPolicy: Local)
//	    outN/...                   from outside: hide the sender, on to any...; or, with externalTrafficPolicy: Local,
//	                               pods and the node on to any..., others to an endpoint on this node or dropped
//	    lbN/...                    allowed sources on to out..., others dropped
//	    own/ADDRESS/TCP/PORT       the API's virtual address: to the API server of this machine
//	    reject, drop               no endpoint anywhere; none on this node
//	postrouting          a pod that reached itself (set loops4/6), and connections marked above: masquerade
//
// A packet costs two look-ups however many Services there are. An endpoint is drawn by number from a map that all Services
// share (endpointsN-XX, pool . slot), so a changed endpoint is one changed element, and only another number of endpoints
// changes the chain's rule. Sticky clients (sessionAffinity) are remembered by the kernel in the set stickyN.
//
// # What the kernel needs
//
// nf_tables with the inet family's NAT, numgen, fib, masquerade and reject: Linux 5.9 or newer with the usual modules.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/netstack/endpoints"
	"knarr.dev/knarr/netstack/nft"
	"knarr.dev/knarr/netstack/xt"
)

// Config says where the proxy works.
type Config struct {
	Node          string
	Nodes         Nodes                             // tells this node's zone; nil is no zone
	PodRanges     []netip.Prefix                    // addresses of all pods of the cluster
	ServiceRanges []netip.Prefix                    // addresses of all Services
	Reserved      []netip.Addr                      // cluster addresses that this node answers itself: DNS
	Own           map[netip.AddrPort]netip.AddrPort // places of TCP, no Service's, that lead to programs on this node
	IPTables      bool                              // the kernel's ip_tables instead of nftables
	Log           *slog.Logger
}

// packetFilter is how the kernel is told what is wanted: by nftables (kernel.go) or by ip_tables (iptables.go).
type packetFilter interface {
	// rebuild makes it all, whatever is there.
	rebuild(all Change) error
	// commit makes a change; after it, all is wanted.
	commit(c Change, all func() Change) error
	// intact tells whether all is still there, as far as that can be seen at little cost.
	intact(all Change) (bool, error)
	close() error
}

// Nodes is what is needed of the shared cache.
type Nodes interface {
	GetInformer(ctx context.Context, obj client.Object, opts ...cache.InformerGetOption) (cache.Informer, error)
}

// Validate says what is missing.
func (c Config) Validate() error {
	switch {
	case c.Node == "":
		return errors.New("service proxy: no node name")
	case len(c.PodRanges) == 0:
		return errors.New("service proxy: no range of pod addresses: set --cluster-cidr")
	case len(c.ServiceRanges) == 0:
		return errors.New("service proxy: no range of service addresses: set --service-cidr")
	}
	return nil
}

// Proxy is the component.
type Proxy struct {
	cfg    Config
	view   *endpoints.View
	wake   chan struct{}
	mu     sync.Mutex
	dirty  map[types.NamespacedName]bool
	wanted *table

	tampered, unsure atomic.Bool
	port             atomic.Uint32
	self             atomic.Pointer[self]
	began            time.Time
}

// New is a proxy for the Services in view.
func New(cfg Config, view *endpoints.View) *Proxy {
	return &Proxy{
		cfg:    cfg,
		view:   view,
		wake:   make(chan struct{}, 1),
		dirty:  map[types.NamespacedName]bool{},
		wanted: newTable(),
		began:  time.Now(),
	}
}

// Name of the component.
func (p *Proxy) Name() string { return "service-proxy" }

// Run keeps the kernel's table equal to the Services until ctx ends, and leaves it in force. It is ready once every
// Service that existed is reachable.
func (p *Proxy) Run(ctx context.Context, ready func()) error {
	if err := p.cfg.Validate(); err != nil {
		return err
	}
	if err := addWayOut(p.cfg.ServiceRanges); err != nil {
		p.cfg.Log.Warn("programs on this machine reach Services only while it has a default route", "component", p.Name(), "error", err)
	}
	guard, err := p.guard()
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return guard(ctx) })
	group.Go(func() error { return p.follow(ctx, ready) })
	if p.cfg.Nodes != nil {
		group.Go(func() error { return p.watchSelf(ctx) })
	}
	return group.Wait()
}

// guard returns what notices that somebody else changes our rules.
func (p *Proxy) guard() (func(ctx context.Context) error, error) {
	doubt := func() { p.flag(&p.unsure) }
	if p.cfg.IPTables {
		return func(ctx context.Context) error { return xt.Watch(ctx, doubt) }, nil
	}
	events, err := nft.OpenEvents(TableName)
	if err != nil {
		return nil, explain(err)
	}
	return func(ctx context.Context) error { return events.Run(ctx, p.changed, doubt) }, nil
}

// follow is the one goroutine that writes to the kernel.
func (p *Proxy) follow(ctx context.Context, ready func()) error {
	select {
	case <-p.view.Synced():
	case <-ctx.Done():
		return nil
	}
	defer p.view.Subscribe(p.mark)()
	k, err := p.open()
	if err != nil {
		return err
	}
	defer func() { _ = k.close() }()

	plans := p.takeDirty()
	plans[types.NamespacedName{}] = fixed(p.cfg.Own) // no Service has this name
	first := p.wanted.apply(plans)
	if err := k.rebuild(p.wanted.all()); err != nil {
		return err
	}
	p.leave()
	p.forget(first)
	ready()

	retry := newBackoff()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		case <-retry.due():
		}
		// What arrives while a transaction is on its way is taken together by the next: no waiting for more is needed.
		err := p.pass(k, retry.failed())
		if err == nil {
			retry.reset()
			continue
		}
		p.cfg.Log.Error("service rules are not up to date; trying again", "component", p.Name(), "error", err)
		retry.again()
		// After an error there may be answers left on the connection that the next transaction would take for its own.
		if fresh, err := p.open(); err == nil {
			_ = k.close()
			k = fresh
		}
	}
}

// leave takes away the rules of the other kind, which a knarr wrote that was told otherwise.
func (p *Proxy) leave() {
	var err error
	if p.cfg.IPTables {
		err = nft.Remove(nftables.TableFamilyINet, TableName)
	} else {
		err = xt.Remove(ownerName)
	}
	if err != nil {
		p.cfg.Log.Warn("older service rules are still in force beside those of now", "component", p.Name(), "error", err)
	}
}

// pass brings the kernel to the wanted state: by a difference if it is where we left it, else from the ground up.
func (p *Proxy) pass(k packetFilter, lost bool) error {
	began := time.Now()
	if p.unsure.Swap(false) && !lost { // before anything new is wanted: that is not there yet
		intact, err := k.intact(p.wanted.all())
		if err != nil {
			return err
		}
		if lost = !intact; lost {
			p.cfg.Log.Warn("somebody took rules of ours away; building them anew", "component", p.Name())
		}
	}
	plans := p.takeDirty()
	causes := p.causes(plans)
	change := p.wanted.apply(plans)
	if p.tampered.Swap(false) {
		p.cfg.Log.Warn("somebody changed our nftables table; building it anew", "component", p.Name(), "table", TableName)
		lost = true
	}
	if lost {
		if err := k.rebuild(p.wanted.all()); err != nil {
			return err
		}
	} else if err := k.commit(change, p.wanted.all); err != nil {
		return err
	}
	p.forget(change)
	note(began, causes)
	p.cfg.Log.Debug("service rules changed", "component", p.Name(), "services", len(plans), "rebuilt", lost, "took", time.Since(began))
	return nil
}

// forget drops stale flows after the rules are in force. Failing is not worth a rebuild: the flows time out by themselves.
func (p *Proxy) forget(c Change) {
	if err := dropFlows(c.Flows); err != nil {
		p.cfg.Log.Warn("old UDP flows keep going to endpoints that are gone until they time out", "component", p.Name(), "error", err)
	}
}

func (p *Proxy) open() (packetFilter, error) {
	if p.cfg.IPTables {
		return openTables(p.site(), p.cfg.ServiceRanges)
	}
	k, err := openKernel(p.site(), p.cfg.ServiceRanges)
	if err != nil {
		return nil, explain(err)
	}
	p.port.Store(k.port)
	return k, nil
}

func (p *Proxy) site() Site {
	s := Site{Node: p.cfg.Node, Pods: p.cfg.PodRanges, Reserved: p.cfg.Reserved}
	if self := p.self.Load(); self != nil {
		s.Zone, s.External, s.Internal = self.zone, self.external, self.internal
	}
	return s
}

// self is what this node's object says that plans depend on.
type self struct {
	zone               string
	external, internal []netip.Addr
}

func selfOf(node *corev1.Node) *self {
	s := &self{zone: node.Labels[corev1.LabelTopologyZone]}
	for _, a := range node.Status.Addresses {
		addr, err := netip.ParseAddr(a.Address)
		switch {
		case err != nil:
		case a.Type == corev1.NodeExternalIP:
			s.external = append(s.external, addr)
		case a.Type == corev1.NodeInternalIP:
			s.internal = append(s.internal, addr)
		}
	}
	return s
}

// matters tells whether plans are others now. Internal addresses count beside external ones alone.
func (s *self) matters(before *self) bool {
	if before == nil {
		before = &self{}
	}
	return s.zone != before.zone || !slices.Equal(s.external, before.external) || len(s.external) > 0 && !slices.Equal(s.internal, before.internal)
}

// watchSelf plans all Services anew when this node's zone or addresses become known, or others.
func (p *Proxy) watchSelf(ctx context.Context) error {
	informer, err := p.cfg.Nodes.GetInformer(ctx, &corev1.Node{}, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	observe := func(object any) {
		node, ok := object.(*corev1.Node)
		if !ok || node.Name != p.cfg.Node {
			return
		}
		if now := selfOf(node); now.matters(p.self.Swap(now)) {
			p.view.Subscribe(p.mark)() // for those there are
		}
	}
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    observe,
		UpdateFunc: func(_, object any) { observe(object) },
	})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	<-ctx.Done()
	_ = informer.RemoveEventHandler(registration)
	return nil
}

func (p *Proxy) mark(key types.NamespacedName) {
	p.mu.Lock()
	p.dirty[key] = true
	p.mu.Unlock()
	p.wakeUp()
}

// changed hears of every change of our table. The packet path changes the sticky maps; that is no tampering.
func (p *Proxy) changed(e nft.Event) {
	if e.By != p.port.Load() && e.By != 0 {
		p.flag(&p.tampered)
	}
}

func (p *Proxy) flag(what *atomic.Bool) {
	what.Store(true)
	p.wakeUp()
}

func (p *Proxy) wakeUp() {
	select {
	case p.wake <- struct{}{}:
	default: // a pass is due anyway
	}
}

// takeDirty plans every Service that changed since the last call.
func (p *Proxy) takeDirty() map[types.NamespacedName]Plan {
	p.mu.Lock()
	dirty := p.dirty
	p.dirty = map[types.NamespacedName]bool{}
	p.mu.Unlock()
	site := p.site()
	plans := make(map[types.NamespacedName]Plan, len(dirty))
	for key := range dirty {
		plans[key] = plan(p.view.Get(key), site)
	}
	return plans
}

// explain tells an operator what to do about a kernel that refuses us.
func explain(err error) error {
	return fmt.Errorf("%w; the service network needs root and a kernel of 5.9 or newer with nf_tables (try: modprobe -a nf_tables nft_chain_nat nft_numgen nft_fib_inet nft_masq nft_reject_inet)", err)
}

// backoff spaces attempts after failures.
type backoff struct {
	delay time.Duration
	timer <-chan time.Time
}

func newBackoff() *backoff { return &backoff{} }

func (b *backoff) failed() bool          { return b.delay > 0 }
func (b *backoff) due() <-chan time.Time { return b.timer }
func (b *backoff) reset()                { *b = backoff{} }
func (b *backoff) again() {
	b.delay = min(max(2*b.delay, 500*time.Millisecond), 30*time.Second)
	b.timer = time.After(b.delay)
}
