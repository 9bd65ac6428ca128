// Package dns answers the names of the cluster, on every node, inside the one process.
//
// In:       Services with their EndpointSlices (netstack/endpoints); the host's resolv.conf; the ConfigMap kube-dns (settings.go).
// Out:      DNS over UDP and TCP at the cluster DNS address of this node.
// Promise:  no name that exists is denied: until the view is complete the answer is a failure, and while the API server
// is away the last known one. A name outside the cluster fails at once when nobody could answer it. Queries never come
// back to us in a loop.
// Not here: the address on the bridge (netstack/podnet), what pods are told to ask (the node agent), connections to the
// answers (netstack/proxy).
//
// # A query's way
//
// CoreDNS's server, then four of its plugins, put together here in Go rather than by a Corefile:
//
//	counted    metrics under CoreDNS's names
//	cluster    names under the cluster domain and of the cluster's addresses, from memory
//	cache      answers of the upstreams, CoreDNS's own
//	upstream   the resolvers of a stub domain, of the settings or of the host's resolv.conf, over CoreDNS's connections
//
// Answers follow the Kubernetes DNS-based service discovery specification 1.1.0; pods' names are answered without
// looking whether such a pod exists.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/cache"
	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"knarr.dev/knarr/netstack/endpoints"
)

// Config says what the cluster's DNS is called and where it listens.
type Config struct {
	Address netip.Addr     // of the cluster DNS; it may come to this node later
	Port    uint16         // 0: 53
	Domain  string         // cluster.local
	Ranges  []netip.Prefix // addresses of pods and Services: nobody outside could name them
	Resolv  []string       // resolv.conf files, best first; nil: this host's
	// Inherited are the sockets of this process before it began anew (Left), if it did.
	Inherited Sockets
	Log       *slog.Logger
}

// Validate says what is missing.
func (c Config) Validate() error {
	switch {
	case !c.Address.IsValid():
		return errors.New("dns: no address to listen on: set --cluster-dns")
	case c.Domain == "":
		return errors.New("dns: no name for the cluster: set --cluster-domain")
	}
	return nil
}

// hostResolv is where a host says whom to ask; the second is what systemd-resolved's stub asks.
var hostResolv = []string{"/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"}

// Server is the component.
type Server struct {
	cfg      Config
	view     *endpoints.View
	memory   *memory
	upstream *upstream
	left     Sockets
}

// New is a DNS server for the Services in view.
func New(cfg Config, view *endpoints.View) *Server {
	if cfg.Port == 0 {
		cfg.Port = 53
	}
	if cfg.Resolv == nil {
		cfg.Resolv = hostResolv
	}
	upstream := &upstream{files: cfg.Resolv, self: cfg.Address, log: cfg.Log}
	return &Server{cfg: cfg, view: view, memory: newMemory(upstream), upstream: upstream}
}

// Follow takes the data of the ConfigMap kube-dns, nil when there is none, into force: for the next question, not for those
// that are on their way. It returns when it has.
func (s *Server) Follow(data map[string]string) {
	settings, err := ParseSettings(data)
	if err != nil {
		s.cfg.Log.Warn("part of the ConfigMap kube-system/"+ConfigMapName+" cannot be read and is left out; correct it with `knarr kubectl edit`",
			"component", s.Name(), "error", err)
	}
	if s.upstream.set(settings) {
		s.memory.forget() // what the resolvers before knew, or denied
		s.cfg.Log.Info("names outside the cluster are asked for as told", "component", s.Name(), "domains", len(settings.Stubs), "resolvers", settings.Upstream)
	}
}

// Name of the component.
func (s *Server) Name() string { return "dns" }

// Run answers until ctx ends. It is ready when it can answer for every Service that existed.
func (s *Server) Run(ctx context.Context, ready func()) error {
	if err := s.cfg.Validate(); err != nil {
		return err
	}
	at := netip.AddrPortFrom(s.cfg.Address, s.cfg.Port).String()
	packets, connections, inherited, err := s.open(ctx, at)
	if err != nil {
		return err
	}
	server, err := s.assemble(at)
	if err != nil {
		return errors.Join(err, packets.Close(), connections.Close())
	}

	group, ctx := errgroup.WithContext(ctx)
	serve := func(run func() error, what string) {
		group.Go(func() error {
			if inherited {
				s.awaitView(ctx)
			}
			if err := run(); err != nil && ctx.Err() == nil {
				return fmt.Errorf("answer DNS over %s on %s: %w", what, at, err)
			}
			return nil
		})
	}
	serve(func() error { return server.ServePacket(packets) }, "udp")
	serve(func() error { return server.Serve(connections) }, "tcp")
	group.Go(func() error {
		<-ctx.Done()
		s.left = left(packets, connections)
		// It ends when what was asked is answered, and only tells whether it was. Closed all the same: Stop does not know a
		// server that has not begun to serve yet.
		_ = server.Stop()
		if err := closed(packets, connections); err != nil {
			return fmt.Errorf("stop DNS on %s: %w", at, err)
		}
		return nil
	})
	group.Go(func() error {
		select {
		case <-s.view.Synced():
			ready()
		case <-ctx.Done():
		}
		return nil
	})
	return group.Wait()
}

// assemble chains the plugins.
func (s *Server) assemble(at string) (*dnsserver.Server, error) {
	zone := &zone{origin: dns.CanonicalName(s.cfg.Domain), self: s.cfg.Address, ranges: s.cfg.Ranges, source: s.view}
	cfg := &dnsserver.Config{Zone: ".", Transport: "dns"}
	cfg.AddPlugin(func(next plugin.Handler) plugin.Handler { return newCounted(next, "dns://"+at) })
	cfg.AddPlugin(func(next plugin.Handler) plugin.Handler {
		return &cluster{zone: zone, synced: s.view.Synced(), next: next}
	})
	cfg.AddPlugin(func(plugin.Handler) plugin.Handler { return s.memory })
	cfg.AddPlugin(func(plugin.Handler) plugin.Handler { return s.upstream })
	server, err := dnsserver.NewServer("dns://"+at, []*dnsserver.Config{cfg})
	if err != nil {
		return nil, fmt.Errorf("assemble the DNS server: %w", err)
	}
	return server, nil
}

// memory is CoreDNS's cache, which can be emptied.
type memory struct {
	next    plugin.Handler
	current atomic.Pointer[cache.Cache]
}

func newMemory(next plugin.Handler) *memory {
	m := &memory{next: next}
	m.forget()
	return m
}

func (m *memory) forget() {
	c := cache.New()
	c.Zones, c.Next = []string{"."}, m.next
	m.current.Store(c)
}

// Name of the plugin.
func (m *memory) Name() string { return "cache" }

// ServeDNS is called for every query that is not the cluster's.
func (m *memory) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	return m.current.Load().ServeDNS(ctx, w, r)
}

// early listens on an address that this node may not have yet.
var early = net.ListenConfig{Control: func(network, _ string, raw syscall.RawConn) error {
	var failed error
	err := raw.Control(func(fd uintptr) {
		if network == "udp6" || network == "tcp6" {
			failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_FREEBIND, 1)
			return
		}
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
	})
	return errors.Join(err, failed)
}}

func listenError(network, at string, err error) error {
	if errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("listen for DNS on %s/%s: %w; a resolver on this machine holds the port on every address: tell it to listen on its own addresses only (dnsmasq: bind-interfaces)", at, network, err)
	}
	return fmt.Errorf("listen for DNS on %s/%s: %w", at, network, err)
}
