// Package overlay takes packets from the pods of one node to the pods of another, inside UDP (VXLAN).
//
// In:       Node objects: pod ranges and internal address.
// Out:      link knarr-vxlan with its routes, neighbours and forwarding entries. The kernel does the rest; while knarr is away too.
// Promise:  packets find the pods of every node that has a range and an address; a node alone has no link.
// Not here: links and addresses of pods (netstack/podnet).
package overlay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
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

// Overlay is this node's part of the overlay; it is a component.
type Overlay struct {
	paths    config.Paths
	nodeName string
	nodes    Nodes
	log      *slog.Logger
	kick     chan struct{} // something may have changed
}

// New makes this node's part of the overlay; nothing happens before Run.
func New(paths config.Paths, nodeName string, nodes Nodes, log *slog.Logger) *Overlay {
	return &Overlay{paths: paths, nodeName: nodeName, nodes: nodes, log: log, kick: make(chan struct{}, 1)}
}

// Name of the component.
func (o *Overlay) Name() string { return "overlay" }

// Run keeps the tables as the nodes want them. Until the API answers, the view of the last run holds.
func (o *Overlay) Run(ctx context.Context, ready func()) error {
	last, err := load(o.file())
	if err != nil {
		return err
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
	index := 0
	for links != nil || routes != nil {
		select {
		case update, open := <-links:
			if !open {
				links = nil
				continue
			}
			if update.Attrs().Name != Link {
				continue
			}
			index = update.Attrs().Index
			if update.Header.Type == unix.RTM_DELLINK || update.IfInfomsg.Flags&unix.IFF_UP == 0 {
				o.wake()
			}
		case update, open := <-routes:
			if !open {
				routes = nil
				continue
			}
			if update.Type == unix.RTM_DELROUTE && update.LinkIndex == index {
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
		now, err := o.look(ctx, synced, last)
		if err == nil {
			err = o.settle(now)
		}
		if err == nil && !now.equal(last) {
			err = save(o.file(), now)
			o.log.Info("overlay follows the nodes", "nodes", len(now.Others), "ranges", now.Self.Ranges)
		}
		wait := healInterval
		if err != nil && ctx.Err() == nil {
			o.log.Error("overlay is not as it should be", "retry", retryInterval, "error", err)
			wait = retryInterval
		} else {
			last = now
		}
		timer.Reset(wait)
	}
}

// look is the newest view there is.
func (o *Overlay) look(ctx context.Context, synced func() bool, last view) (view, error) {
	if !synced() {
		return last, nil
	}
	var nodes corev1.NodeList
	if err := o.nodes.List(ctx, &nodes); err != nil {
		return view{}, fmt.Errorf("list nodes: %w", err)
	}
	now, ok := look(nodes.Items, o.nodeName)
	if !ok {
		return last, nil // not registered yet, or again: what was true stays
	}
	return now, nil
}

// settle makes the kernel's tables those of the view. While nothing is known, what an earlier run left goes on working.
func (o *Overlay) settle(v view) error {
	if v.equal(view{}) {
		return nil
	}
	if len(v.Others) == 0 {
		return Remove()
	}
	link, err := raise(v.Self)
	if err != nil {
		return err
	}
	have, err := read(link, v.Self)
	if err != nil {
		return err
	}
	return write(link, plan(v.Others, v.Self), have)
}

func (o *Overlay) file() string { return filepath.Join(o.paths.Network(), "overlay.json") }

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
