// Package overlay takes packets from the pods of one node to the pods of another: inside UDP (VXLAN), encrypted (WireGuard),
// or as they are, where machines share a segment.
//
// In:       Node objects: pod ranges, internal address, public key.
// Out:      link knarr-vxlan with its routes, neighbours and forwarding entries; or link knarr-wg with routes into it; or routes
// by other machines; this node's public key, on its Node object. VXLAN, routes and the kernel's WireGuard work on while knarr
// is away; WireGuard in this process does not.
// Promise:  packets find the pods of every node that has a range and an address; a node alone has no link. With WireGuard
// none leaves in the clear, whatever is missing; the private key is on this machine alone.
// Not here: links and addresses of pods (netstack/podnet).
package overlay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/bootstrap/durable"
)

// healInterval is how often the tables are compared although nothing was heard.
const healInterval = time.Minute

// retryInterval follows a pass that failed.
const retryInterval = 5 * time.Second

// Nodes is what is needed of the shared cache.
type Nodes interface {
	GetInformer(ctx context.Context, obj client.Object, opts ...cache.InformerGetOption) (cache.Informer, error)
	List(ctx context.Context, list client.ObjectList, opts ...client.ListOption) error
}

// Config of one node's part of the overlay.
type Config struct {
	Paths    config.Paths
	NodeName string
	Mode     string         // config.VXLAN, config.WireGuard or config.Routes; the same on all nodes
	Pods     []netip.Prefix // of the cluster
	Rotation time.Duration  // how old this node's key for WireGuard gets; 0: a day
	// Publish notes a value on this node's own object, and returns when the API server has it.
	Publish func(ctx context.Context, annotation, value string) error
	Log     *slog.Logger
}

// Overlay is this node's part of the overlay; it is a component.
type Overlay struct {
	cfg    Config
	nodes  Nodes
	log    *slog.Logger
	kick   chan struct{} // something may have changed
	uplink atomic.Int64  // index of the link with the node's address
	tunnel *tunnel       // with WireGuard
}

// New makes this node's part of the overlay; nothing happens before Run.
func New(cfg Config, nodes Nodes) *Overlay {
	o := &Overlay{cfg: cfg, nodes: nodes, log: cfg.Log, kick: make(chan struct{}, 1)}
	if cfg.Mode == config.WireGuard {
		o.tunnel = newTunnel(cfg)
	}
	return o
}

// Name of the component.
func (o *Overlay) Name() string { return "overlay" }

// Run keeps the tables as the nodes want them. Until the API answers, the view of the last run holds.
func (o *Overlay) Run(ctx context.Context, ready func()) error {
	last, err := load(o.file())
	if err != nil {
		return err
	}
	if o.tunnel != nil {
		defer o.tunnel.close()
		if err := o.tunnel.keys.load(); err != nil {
			return err
		}
	}
	informer, err := o.nodes.GetInformer(ctx, &corev1.Node{}, cache.BlockUntilSynced(false))
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	changed := func(any) { o.wake() }
	registration, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc: changed, UpdateFunc: func(_, object any) { changed(object) }, DeleteFunc: changed,
	})
	if err != nil {
		return fmt.Errorf("watch nodes: %w", err)
	}
	defer informer.RemoveEventHandler(registration)

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return o.listen(ctx) })
	group.Go(func() error { return o.keep(ctx, registration.HasSynced, last) })
	group.Go(func() error {
		if toolscache.WaitForCacheSync(ctx.Done(), registration.HasSynced) {
			o.wake() // the passes before held on to the view of the last run
		}
		return nil
	})
	ready()
	return group.Wait()
}

func (o *Overlay) wake() {
	select {
	case o.kick <- struct{}{}:
	default: // the pass that is due will see this change too
	}
}

// listen wakes the next pass when somebody takes away a route or the link: those that manage a machine's network like to
// remove what they don't know.
func (o *Overlay) listen(ctx context.Context) error {
	links, routes := make(chan netlink.LinkUpdate), make(chan netlink.RouteUpdate)
	if err := netlink.LinkSubscribe(links, ctx.Done()); err != nil {
		return fmt.Errorf("listen for changes of links: %w", err)
	}
	if err := netlink.RouteSubscribe(routes, ctx.Done()); err != nil {
		return fmt.Errorf("listen for changes of routes: %w", err)
	}
	ours := map[int]bool{}
	for links != nil || routes != nil {
		select {
		case update, open := <-links:
			if !open {
				links = nil
				continue
			}
			index := update.Attrs().Index
			if int64(index) == o.uplink.Load() {
				o.wake() // routes by it go with it and do not come back; its MTU is ours
			}
			if name := update.Attrs().Name; name != Link && name != Tunnel {
				continue
			}
			ours[index] = true
			if update.Header.Type == unix.RTM_DELLINK || update.IfInfomsg.Flags&unix.IFF_UP == 0 {
				o.wake()
			}
		case update, open := <-routes:
			if !open {
				routes = nil
				continue
			}
			if update.Type == unix.RTM_DELROUTE && (ours[update.LinkIndex] || update.Protocol == routeProtocol) {
				o.wake()
			}
		}
	}
	// Both close when ctx ends. Before that, the kernel had more to say than fitted; the regular pass goes on.
	<-ctx.Done()
	return nil
}

// keep makes passes.
func (o *Overlay) keep(ctx context.Context, synced func() bool, last view) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-o.kick:
		case <-timer.C:
		}
		now, current, err := o.look(ctx, synced, last)
		if err == nil {
			err = o.settle(ctx, now, current)
		}
		if err == nil && !now.equal(last) {
			err = save(o.file(), now)
			o.log.Info("overlay follows the nodes", "nodes", len(now.Others), "ranges", now.Self.Ranges)
		}
		wait := healInterval
		if o.tunnel != nil {
			wait = min(wait, o.tunnel.keys.due(time.Now()))
		}
		if err != nil && ctx.Err() == nil {
			level := slog.LevelError
			if errors.Is(err, errElsewhere) {
				level = slog.LevelInfo
			}
			o.log.Log(ctx, level, "overlay is not as it should be", "retry", retryInterval, "error", err)
			wait = retryInterval
		} else {
			last = now
		}
		timer.Reset(wait)
	}
}

// look is the newest view there is; current says that the API server gave it.
func (o *Overlay) look(ctx context.Context, synced func() bool, last view) (now view, current bool, err error) {
	if !synced() {
		return last, false, nil
	}
	var nodes corev1.NodeList
	if err := o.nodes.List(ctx, &nodes); err != nil {
		return view{}, false, fmt.Errorf("list nodes: %w", err)
	}
	now, ok := look(nodes.Items, o.cfg.NodeName)
	if !ok {
		return last, false, nil // not registered yet, or again: what was true stays
	}
	return now, true, nil
}

// settle makes the kernel's ways those of the view. While nothing is known, what an earlier run left goes on working.
func (o *Overlay) settle(ctx context.Context, v view, current bool) error {
	known := !v.equal(view{})
	var at place
	if known && len(v.Others) > 0 {
		var err error
		if at, err = placeOf(v.Self.Address); err != nil {
			return err
		}
		o.uplink.Store(int64(at.link))
	}
	switch {
	case o.tunnel != nil:
		return o.tunnel.settle(ctx, v, at, current)
	case known:
		return o.open(v, at)
	}
	return nil
}

// open makes the ways that do not encrypt: routes to those nearby if that is wanted, VXLAN to all others. A range that changes
// from one to the other is never without.
func (o *Overlay) open(v view, at place) error {
	ways := map[netip.Prefix]route{}
	if o.cfg.Mode == config.Routes {
		ways = direct(v, at)
	}
	have, err := readRoutes()
	if err != nil {
		return err
	}
	set, remove := difference(ways, have)
	if err := setRoutes(set); err != nil {
		return err
	}
	if err := o.wrap(v, at, ways); err != nil {
		return err
	}
	for _, pods := range remove {
		if err := removeRoute(pods, have[pods]); err != nil {
			return err
		}
	}
	return removeLink(Tunnel)
}

// wrap makes the ways by VXLAN.
func (o *Overlay) wrap(v view, at place, elsewhere map[netip.Prefix]route) error {
	want := plan(v.Others, v.Self, elsewhere)
	if len(want.routes) == 0 {
		return removeLink(Link)
	}
	link, err := raise(v.Self, at)
	if err != nil {
		return err
	}
	have, err := read(link, v.Self)
	if err != nil {
		return err
	}
	return write(link, want, have)
}

func (o *Overlay) file() string { return filepath.Join(o.cfg.Paths.Network(), "overlay.json") }

// load is the view of the last run, for a machine that comes up while the API is away.
func load(path string) (view, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return view{}, nil
	}
	if err != nil {
		return view{}, fmt.Errorf("read the overlay's last view: %w", err)
	}
	var v view
	if err := json.Unmarshal(data, &v); err != nil || len(v.Self.Ranges) == 0 {
		return view{}, nil // cut short by a power cut, or of another version; the API has a better one
	}
	return v, nil
}

func save(path string, v view) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the overlay's view: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make the network folder: %w", err)
	}
	if err := durable.Write(path, data, 0o600); err != nil {
		return fmt.Errorf("save the overlay's view: %w", err)
	}
	return nil
}
