// Package policy decides who may talk to whom: NetworkPolicies, in force on this node.
//
// In:       NetworkPolicies, namespaces and pods, from the API; which address a local pod gets, from netstack/podnet.
// Out:      one nftables table, knarr-policy, changed in single transactions, or on kernels without nftables chains of
// ip_tables and sets named KNARR-POL (iptables.go); none of it while there is no policy.
// Promise:  a pod's first packet meets its rules: podnet connects it when Enforce has returned. Whoever is not known to be
// allowed is not. The rules stay while knarr is away, and are back after somebody flushed them: a table within a second,
// chains of ip_tables within ten.
// Not here: pods' interfaces (netstack/podnet), services (netstack/proxy).
//
// # How a connection flows
//
//	forward, input      new connections only; answers, and what was allowed when it began, go on
//	  sender = receiver -> accept                                    (set selves4: no pod is kept from itself)
//	  sender            -> chain of a local pod that a policy selects for egress              (map senders4)
//	forward             the same again for whom it is for                                   (map receivers4)
//	    out-pods-X, in-pods-X    of all pods with the same policies: jump to each policy's chain, then drop
//	    out/NS/NAME, in/NS/NAME  of a policy: accept peers (sets peers-X: pods; or ranges), protocols and ports
//
// What the node itself sends to its pods is never judged: it comes by output, where there is no hook. What pods send to
// their node is. The cluster's DNS address counts as a pod of kube-system with the label k8s-app=kube-dns, as which
// policies written for other clusters know it.
package policy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sync/errgroup"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/bootstrap/durable"
	"knarr.dev/knarr/netstack/nft"
	"knarr.dev/knarr/netstack/xt"
)

const (
	// patience is how long a pod waits for the API to tell the policies, on a machine that had none when it was last
	// told. With policies it waits until it is told.
	patience = 5 * time.Second
	// retryInterval follows a pass that failed.
	retryInterval = 2 * time.Second
)

// Config of one node's policies.
type Config struct {
	Paths     config.Paths
	Node      string
	PodRanges []netip.Prefix // addresses of all pods of the cluster
	DNS       netip.Addr     // the cluster's DNS address; may be unset
	IPTables  bool           // the kernel's ip_tables instead of nftables
	Log       *slog.Logger
}

// Validate says what is missing.
func (c Config) Validate() error {
	switch {
	case c.Node == "":
		return errors.New("network policy: no node name")
	case len(c.PodRanges) == 0:
		return errors.New("network policy: no range of pod addresses: set --cluster-cidr")
	}
	return nil
}

// packetFilter is how the kernel is told: by nftables (kernel.go) or by ip_tables (iptables.go).
type packetFilter interface {
	// commit makes the kernel's rules these, by a difference if what is there is known.
	commit(Rules) error
	// doubt is told that others may have changed our rules. It tells whether there are any to make anew.
	doubt() bool
	close() error
}

// Own is the cache of what this node reads anyway: policies, and the pods it runs.
type Own interface {
	client.Reader
	GetInformer(ctx context.Context, obj client.Object, opts ...cache.InformerGetOption) (cache.Informer, error)
}

// Everyone shows the pods and namespaces of the whole cluster. It is asked only while there is a policy.
type Everyone interface {
	GetInformer(ctx context.Context, obj client.Object, opts ...cache.InformerGetOption) (cache.Informer, error)
	RemoveInformer(ctx context.Context, obj client.Object) error
}

// Policy is the component.
type Policy struct {
	cfg      Config
	own      Own
	everyone Everyone
	kernel   packetFilter
	port     atomic.Uint32 // of the connection to nftables
	wake     chan struct{}
	told     chan struct{} // closed when podnet has said which pods there are
	tell     func()
	known    chan struct{} // closed when the rules are in force for the first time
	late     chan struct{} // closed when patience is over

	writing sync.Mutex // over the kernel and what peers are followed
	peers   *peers     // nil while there is no policy
	noted   string     // what the note on disk says
	ended   bool

	mu       sync.Mutex
	policies map[types.NamespacedName]*networkingv1.NetworkPolicy
	assigned map[netip.Addr]types.NamespacedName
}

// New is the policies of a node. everyone is nil if own shows the whole cluster.
func New(cfg Config, own Own, everyone Everyone) (*Policy, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	told := make(chan struct{})
	return &Policy{
		told: told, tell: sync.OnceFunc(func() { close(told) }),
		cfg: cfg, own: own, everyone: everyone,
		wake: make(chan struct{}, 1), known: make(chan struct{}), late: make(chan struct{}),
		policies: map[types.NamespacedName]*networkingv1.NetworkPolicy{},
		assigned: map[netip.Addr]types.NamespacedName{},
	}, nil
}

// Name of the component.
func (p *Policy) Name() string { return "network-policy" }

// Run keeps the kernel's table equal to the policies until ctx ends, and leaves it in force. It is ready when the
// policies that existed are in force.
func (p *Policy) Run(ctx context.Context, ready func()) error {
	guard, err := p.guard()
	if err != nil {
		return err
	}
	patient := time.AfterFunc(patience, func() { close(p.late) })
	defer patient.Stop()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return guard(ctx) })
	group.Go(func() error { return p.follow(ctx, ready) })
	return group.Wait()
}

// guard returns what notices that somebody else changes our rules.
func (p *Policy) guard() (func(ctx context.Context) error, error) {
	if p.cfg.IPTables {
		return func(ctx context.Context) error { return xt.Watch(ctx, p.touched) }, nil
	}
	events, err := nft.OpenEvents(TableName)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error { return events.Run(ctx, p.changed, func() { p.suspect() }) }, nil
}

// changed hears of every change of our table.
func (p *Policy) changed(e nft.Event) {
	if e.By != p.port.Load() && e.By != 0 {
		p.touched()
	}
}

// touched is that somebody else may have changed our rules.
func (p *Policy) touched() {
	if p.suspect() {
		p.cfg.Log.Warn("somebody changed our rules; building them anew", "component", p.Name())
	}
}

// suspect has the rules built anew, if there should be any: somebody else touched them, or may have.
func (p *Policy) suspect() bool {
	p.writing.Lock()
	defer p.writing.Unlock()
	if p.kernel == nil || !p.kernel.doubt() {
		return false
	}
	p.wakeUp()
	return true
}

func (p *Policy) follow(ctx context.Context, ready func()) error {
	stop, synced, err := followKind(ctx, p.own, &networkingv1.NetworkPolicy{}, p.setPolicy, p.dropPolicy)
	if err != nil {
		return err
	}
	defer stop()
	for _, wait := range []<-chan struct{}{p.told, synced} {
		select {
		case <-wait:
		case <-ctx.Done():
			return nil
		}
	}
	defer p.close()
	first := true
	for {
		var retry <-chan time.Time
		if err := p.settle(ctx, first); err != nil && ctx.Err() == nil {
			p.cfg.Log.Error("network policies are not up to date; trying again", "component", p.Name(), "error", err)
			retry = time.After(retryInterval)
		} else if first && err == nil {
			first = false
			p.leave()
			close(p.known)
			ready()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.wake:
		case <-retry:
		}
	}
}

// leave takes away the rules of the other kind, which a knarr wrote that was told otherwise: not before those of now are in
// force.
func (p *Policy) leave() {
	var err error
	if p.cfg.IPTables {
		err = nft.Remove(nftables.TableFamilyINet, TableName)
	} else {
		err = errors.Join(xt.Remove(ownerName), removeSets())
	}
	if err != nil {
		p.cfg.Log.Warn("older policies are still in force beside those of now", "component", p.Name(), "error", err)
	}
}

// settle brings the kernel to what the policies say. Waiting for everyone's pods first matters at the start, when older
// rules are in force: later, those that are not known yet are not allowed yet.
func (p *Policy) settle(ctx context.Context, wait bool) error {
	p.writing.Lock()
	defer p.writing.Unlock()
	if p.ended {
		return errors.New("network policies are being stopped")
	}
	if err := p.followPeers(ctx, wait); err != nil {
		return err
	}
	cluster, err := p.observe(ctx)
	if err != nil {
		return err
	}
	if err := p.note(len(cluster.Policies) > 0); err != nil {
		return err
	}
	if p.kernel == nil {
		if p.kernel, err = p.open(); err != nil {
			p.kernel = nil
			return err
		}
	}
	if err := p.kernel.commit(Compile(cluster)); err != nil {
		// There may be answers left on the connection that the next transaction would take for its own.
		_ = p.kernel.close()
		p.kernel = nil
		return err
	}
	return nil
}

func (p *Policy) open() (packetFilter, error) {
	if p.cfg.IPTables {
		return openTables(p.families())
	}
	k, err := openKernel(p.families())
	if err != nil {
		return nil, fmt.Errorf("%w; network policies need root and a kernel of 5.9 or newer with nf_tables", err)
	}
	p.port.Store(k.port)
	return k, nil
}

func (p *Policy) families() []nft.Family {
	seen := map[bool]bool{}
	var all []nft.Family
	for _, r := range p.cfg.PodRanges {
		if v6 := r.Addr().Is6(); !seen[v6] {
			seen[v6] = true
			all = append(all, nft.FamilyOf(v6))
		}
	}
	return all
}

// close lets go of the connection and of what is followed; the table stays.
func (p *Policy) close() {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.ended = true
	p.peers.stop()
	p.peers = nil
	if p.kernel != nil {
		_ = p.kernel.close()
		p.kernel = nil
	}
}

// Assign notes which local pod (namespace/name) has an address. The first call is to tell all there are: no rule is
// changed before.
func (p *Policy) Assign(pods map[netip.Addr]string) {
	p.mu.Lock()
	for address, pod := range pods {
		namespace, name, _ := strings.Cut(pod, "/")
		p.assigned[address] = types.NamespacedName{Namespace: namespace, Name: name}
	}
	p.mu.Unlock()
	p.tell()
}

// Enforce returns when what every assigned address may do is in force.
func (p *Policy) Enforce(ctx context.Context) error {
	select {
	case <-p.known:
		return p.settle(ctx, false)
	default:
	}
	select {
	case <-p.known:
		return p.settle(ctx, false)
	case <-ctx.Done():
		return ctx.Err()
	case <-p.late:
	}
	if note, err := os.ReadFile(p.notePath()); err == nil && string(note) == noPolicy {
		p.cfg.Log.Warn("pods start without network policies: there were none when the API server last answered", "component", p.Name())
		return nil
	}
	return errors.New("the cluster's network policies are not known: the API server has not answered since knarr started")
}

// Release forgets an address.
func (p *Policy) Release(address netip.Addr) {
	p.mu.Lock()
	_, was := p.assigned[address]
	delete(p.assigned, address)
	p.mu.Unlock()
	if was {
		p.wakeUp()
	}
}

// What the note on disk says, for a start without an API server.
const (
	noPolicy   = "none\n"
	somePolicy = "some\n"
)

func (p *Policy) notePath() string { return filepath.Join(p.cfg.Paths.Network(), "policies") }

// note keeps on disk whether there are policies.
func (p *Policy) note(some bool) error {
	text := noPolicy
	if some {
		text = somePolicy
	}
	if p.noted == text {
		return nil
	}
	if err := os.MkdirAll(p.cfg.Paths.Network(), 0o700); err != nil {
		return fmt.Errorf("make the network folder: %w", err)
	}
	if err := durable.Write(p.notePath(), []byte(text), 0o600); err != nil {
		return fmt.Errorf("note whether there are network policies: %w", err)
	}
	p.noted = text
	return nil
}

func (p *Policy) setPolicy(policy *networkingv1.NetworkPolicy) {
	key := client.ObjectKeyFromObject(policy)
	p.mu.Lock()
	before := p.policies[key]
	p.policies[key] = policy
	p.mu.Unlock()
	if before == nil || before.Generation != policy.Generation || before.UID != policy.UID {
		p.wakeUp()
	}
}

func (p *Policy) dropPolicy(policy *networkingv1.NetworkPolicy) {
	p.mu.Lock()
	delete(p.policies, client.ObjectKeyFromObject(policy))
	p.mu.Unlock()
	p.wakeUp()
}

func (p *Policy) wakeUp() {
	select {
	case p.wake <- struct{}{}:
	default: // a pass is due anyway
	}
}
