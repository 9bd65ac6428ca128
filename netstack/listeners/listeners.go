// Package listeners tells the cluster which ports of load balancers programs on this node hold.
//
// In:       Services of type LoadBalancer that wait for nodes' own addresses, or have them; this node's sockets.
// Out:      an annotation on its Node (bootstrap/heldports).
// Promise:  a port that no Service asks for is not looked at; without such Services nothing is.
// Not here: which node's address a Service gets (workloads/nodebalancer); pods' host ports, which the cluster knows.
package listeners

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/bootstrap/heldports"
	"knarr.dev/knarr/netstack/endpoints"
)

// interval between looks, while a Service asks: programs come and go without telling.
const interval = 10 * time.Second

// Nodes is what is needed of the shared cache.
type Nodes interface {
	Get(ctx context.Context, key client.ObjectKey, into client.Object, opts ...client.GetOption) error
}

// Config of a Reporter.
type Config struct {
	Node     string
	NodeIPs  []netip.Addr
	Nodes    Nodes
	Annotate func(ctx context.Context, annotation, value string) error
	Log      *slog.Logger
}

// Reporter is the component.
type Reporter struct {
	cfg  Config
	view *endpoints.View
	wake chan struct{}

	said *string // last; nil: whatever the process before this one said

	mu    sync.Mutex
	dirty map[types.NamespacedName]bool
}

// New reports what the Services in view want to know.
func New(cfg Config, view *endpoints.View) *Reporter {
	return &Reporter{cfg: cfg, view: view, wake: make(chan struct{}, 1), dirty: map[types.NamespacedName]bool{}}
}

// Name of the component.
func (r *Reporter) Name() string { return "listeners" }

// Run reports until ctx ends. It is ready at once: nothing on this machine waits for it.
func (r *Reporter) Run(ctx context.Context, ready func()) error {
	ready()
	select {
	case <-r.view.Synced():
	case <-ctx.Done():
		return nil
	}
	defer r.view.Subscribe(r.mark)()
	asked := map[types.NamespacedName][]heldports.Port{}
	for {
		r.mu.Lock()
		for key := range r.dirty {
			delete(asked, key)
			if service := r.view.Get(key).Service; asks(service) {
				asked[key] = heldports.Of(service)
			}
		}
		clear(r.dirty)
		r.mu.Unlock()
		if err := r.report(ctx, asked); err != nil && ctx.Err() == nil {
			r.cfg.Log.Warn("load balancers wait for this node to say which ports are free; trying again", "component", r.Name(), "error", err)
		}
		var again <-chan time.Time
		if len(asked) > 0 {
			again = time.After(interval)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case <-again:
		}
	}
}

// asks tells whether a Service may have nodes' own addresses.
func asks(service *corev1.Service) bool {
	return service != nil && service.Spec.Type == corev1.ServiceTypeLoadBalancer && service.Spec.LoadBalancerClass == nil
}

func (r *Reporter) mark(key types.NamespacedName) {
	r.mu.Lock()
	r.dirty[key] = true
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default: // a pass is due anyway
	}
}

// report what is asked, if it is not what was said last.
func (r *Reporter) report(ctx context.Context, asked map[types.NamespacedName][]heldports.Port) error {
	report := heldports.Report{}
	for _, ports := range asked {
		for _, port := range ports {
			if _, looked := report[port]; !looked {
				report[port] = r.held(port)
			}
		}
	}
	text := ""
	if len(report) > 0 {
		text = report.String()
	}
	var node corev1.Node
	if err := r.cfg.Nodes.Get(ctx, client.ObjectKey{Name: r.cfg.Node}, &node); err != nil {
		return fmt.Errorf("read this node: %w", err)
	}
	if node.Annotations[heldports.Annotation] != text || r.said != nil && *r.said != text { // the cache may be behind
		if err := r.cfg.Annotate(ctx, heldports.Annotation, text); err != nil {
			return err
		}
	}
	r.said = &text
	return nil
}

// held tells whether a program listens on a port at one of the node's addresses.
func (r *Reporter) held(port heldports.Port) bool {
	for _, ip := range r.cfg.NodeIPs {
		if listens(netip.AddrPortFrom(ip, uint16(port.Number)), port.Protocol) {
			return true
		}
	}
	return false
}

// listens asks the kernel for the place, and gives it back: it is refused if a program has it, at this address or at all.
// Every program may still have it meanwhile that shares places with those that do not listen yet, as all servers of TCP do.
func listens(at netip.AddrPort, protocol corev1.Protocol) bool {
	kind := map[corev1.Protocol]int{corev1.ProtocolTCP: unix.SOCK_STREAM, corev1.ProtocolUDP: unix.SOCK_DGRAM}[protocol]
	if kind == 0 {
		return false
	}
	family, address := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(at.Port())})
	if at.Addr().Is6() {
		family, address = unix.AF_INET6, &unix.SockaddrInet6{Port: int(at.Port()), Addr: at.Addr().As16()}
	} else {
		address.(*unix.SockaddrInet4).Addr = at.Addr().As4()
	}
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false // a machine without the family has nobody listening in it
	}
	defer func() { _ = unix.Close(fd) }()
	if protocol == corev1.ProtocolTCP { // else connections that ended lately would count
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	}
	return errors.Is(unix.Bind(fd, address), unix.EADDRINUSE)
}
