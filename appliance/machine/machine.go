package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/netstack/dns"
	"knarr.dev/knarr/packaging/bundle"
	"knarr.dev/knarr/workloads/agent/settings"
	"knarr.dev/knarr/workloads/steady"
)

const (
	kubeletPort = 10250
	etcdPort    = 2380
)

// Run this machine in the role its configuration says until ctx ends, or, with the error *Moved, until its address is
// another one: then it has to begin anew.
func Run(ctx context.Context, cfg *config.Config, version string, log *slog.Logger) error {
	begin := time.Now()
	manager, err := newNotifier()
	if err != nil {
		return err
	}
	if err := checkRoot(); err != nil {
		return err
	}
	if err := checkRole(cfg); err != nil {
		return err
	}
	lock, err := takeLock(cfg.DataDir)
	if err != nil {
		return err
	}
	defer lock.release()
	ports := []int{kubeletPort}
	if cfg.Role == config.Server {
		ports = []int{cfg.HTTPSPort, etcdPort}
		if !cfg.DisableNode {
			ports = append(ports, kubeletPort)
		}
	}
	if err := preflight(cfg.DataDir, !cfg.DisableNode, ports...); err != nil {
		return err
	}
	var tables bool
	if !cfg.DisableNode {
		if tables, err = ipTables(cfg.PacketFilter, log); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(cfg.RunDir, 0o755); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	tuned, err := settings.Read(cfg.KubeletConfig)
	if err != nil {
		return err
	}
	endpoint := cmp.Or(cfg.RuntimeEndpoint, tuned.Runtime)
	state := &State{PID: os.Getpid(), Version: version, Role: cfg.Role, Node: cfg.NodeName, Since: begin, Runtime: endpoint}
	if cfg.Role == config.Server {
		state.Kubeconfig, state.Encryption = cfg.WriteKubeconfig, cfg.EncryptionConfig
	}
	if err := state.write(cfg.Paths()); err != nil {
		return err
	}

	shareMetrics()
	b := &builder{cfg: cfg, tuned: tuned, endpoint: endpoint, version: version, log: log, ipTables: tables, begun: make(chan struct{}), steady: steady.New(log.With("component", "clock"))}
	stages, err := b.stages(ctx)
	if err != nil {
		return err
	}
	log.Info("starting", "role", cfg.Role, "node", cfg.NodeName, "address", cfg.NodeIP, "version", version)
	err = runStages(ctx, log, stages, func(started []Started) {
		close(b.begun)
		state.Ready, state.Components = time.Since(begin), started
		log.Info("ready", "took", state.Ready.Round(time.Millisecond))
		if err := errors.Join(state.write(cfg.Paths()), manager.ready()); err != nil {
			log.Warn("this machine serves, but could not say so", "error", err)
		}
	})
	if moved := (*Moved)(nil); errors.As(err, &moved) && b.names != nil {
		moved.sockets = b.names.Left()
	}
	return err
}

// builder makes the components of one machine.
type builder struct {
	cfg      *config.Config
	tuned    settings.Settings // of the node agent
	endpoint string            // of the container runtime used instead of ours; "" for none
	version  string
	log      *slog.Logger
	steady   *steady.Clock

	ipTables bool // the kernel's ip_tables are used instead of nftables

	names   *dns.Server   // where there is a node
	helpers string        // folder of runc and its like; "" means PATH
	begun   chan struct{} // closed when the machine serves
}

// stages in the order they start. This list is the documentation of what a machine is made of.
func (b *builder) stages(ctx context.Context) ([]Stage, error) {
	if !b.cfg.DisableNode {
		helpers, err := bundle.Unpack(b.cfg.Paths().Helpers())
		if err != nil {
			return nil, err
		}
		b.helpers = helpers
	}
	stages, err := b.role(ctx)
	if err != nil {
		return nil, err
	}
	if b.cfg.NodeIPFound() {
		last := len(stages) - 1 // what fails there finds all others started, and stops them in order
		stages[last] = append(stages[last], address{b.cfg})
	}
	return stages, nil
}

func (b *builder) role(ctx context.Context) ([]Stage, error) {
	if b.cfg.Role == config.Server {
		return b.server(ctx)
	}
	return b.agent(ctx)
}

// ranges are the parsed addresses of the configuration; it was validated when loaded. Of both families, the first is the
// cluster's first.
type ranges struct {
	nodes          []netip.Addr // this machine's; others send to the first
	dns            netip.Addr
	virtual        netip.Addr // of whichever API server answers; on servers only, and if there is one
	pods, services []netip.Prefix
}

func parseRanges(c *config.Config) (r ranges, err error) {
	var errs [5]error
	r.nodes, errs[0] = config.Addresses(c.NodeIP)
	r.dns, errs[1] = netip.ParseAddr(c.ClusterDNS)
	r.pods, errs[2] = config.Ranges(c.ClusterCIDR)
	r.services, errs[3] = config.Ranges(c.ServiceCIDR)
	if c.APIVirtualAddress != "" {
		r.virtual, errs[4] = netip.ParseAddr(c.APIVirtualAddress)
	}
	return r, errors.Join(errs[:]...)
}

// server is the address of this machine at which pods reach its API server: of the family the service network begins with.
func (r ranges) server() netip.Addr {
	for _, ip := range r.nodes {
		if ip.Is4() == r.services[0].Addr().Is4() {
			return ip
		}
	}
	return r.nodes[0]
}
