package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/coredns/plugin/pkg/proxy"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
)

const (
	checkEvery   = 5 * time.Second // between looks at resolv.conf, and only when somebody asks
	answerWithin = 2 * time.Second // of one upstream
	restAfter    = 5 * time.Second // how long an upstream that did not answer is left alone
	probeWithin  = time.Second
	probeSuffix  = ".loop-probe.knarr."
)

// upstream is the CoreDNS plugin at the end of the chain: it asks the resolvers of the settings, else of the host's
// resolv.conf.
//
// There is no health checking: an upstream that did not answer is left alone for a while, then the next query tries it.
// While all rest, names outside the cluster fail at once instead of holding up every client.
type upstream struct {
	files []string // the first that names a resolver which is not a local stub counts; else the first
	self  netip.Addr
	log   *slog.Logger

	told    atomic.Pointer[told]
	current atomic.Pointer[resolvers]
	mu      sync.Mutex // one reader of the files at a time
	probes  sync.Map   // name -> func(), called when our own probe comes back to us
}

// told is what settings said, with connections.
type told struct {
	settings Settings
	stubs    map[string][]*resolver
	upstream []*resolver
}

// resolvers is what the files said at one time.
type resolvers struct {
	list    []*resolver
	stamp   string // of the files
	checked time.Time
}

type resolver struct {
	addr  string
	proxy *proxy.Proxy
	rests atomic.Int64 // until then, in Unix nanoseconds
}

// Name of the plugin.
func (u *upstream) Name() string { return "upstream" }

// ServeDNS asks one resolver after the other.
func (u *upstream) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	if came, ours := u.probes.Load(strings.ToLower(r.Question[0].Name)); ours {
		came.(func())()
		return dns.RcodeServerFailure, nil
	}
	state := request.Request{W: w, Req: r}
	var failed error
	for _, resolver := range u.asked(state.Name()) {
		if time.Now().UnixNano() < resolver.rests.Load() {
			continue
		}
		reply, err := resolver.ask(ctx, state)
		if err != nil {
			unanswered.WithLabelValues(resolver.addr).Inc()
			resolver.rests.Store(time.Now().Add(restAfter).UnixNano())
			failed = errors.Join(failed, fmt.Errorf("ask %s: %w", resolver.addr, err))
			continue
		}
		if !state.Match(reply) {
			failed = errors.Join(failed, fmt.Errorf("ask %s: it answered another question", resolver.addr))
			continue
		}
		if err := w.WriteMsg(reply); err != nil {
			return dns.RcodeServerFailure, err
		}
		return dns.RcodeSuccess, nil
	}
	if failed != nil {
		u.log.Debug("no upstream answered", "component", "dns", "name", state.Name(), "error", failed)
	}
	return dns.RcodeServerFailure, nil
}

func (r *resolver) ask(ctx context.Context, state request.Request) (*dns.Msg, error) {
	for {
		reply, _, _, err := r.proxy.Connect(ctx, state, proxy.Options{})
		// The other side may close a connection we kept; that says nothing about its health.
		if errors.Is(err, proxy.ErrCachedClosed) {
			continue
		}
		return reply, err
	}
}

// set takes settings into force and tells whether that changed anything. It may take a second or two, in which queries
// go on as before; one call at a time.
func (u *upstream) set(s Settings) bool {
	before := u.told.Load()
	if before == nil {
		before = &told{}
	}
	if slices.Equal(before.settings.Upstream, s.Upstream) && maps.EqualFunc(before.settings.Stubs, s.Stubs, slices.Equal) {
		return false
	}
	connect := func(at []netip.AddrPort) []*resolver {
		var texts []string
		for _, a := range at {
			if a.Addr() != u.self {
				texts = append(texts, a.String())
			}
		}
		return u.withoutLoops(texts)
	}
	next := &told{settings: s, stubs: map[string][]*resolver{}}
	for domain, at := range s.Stubs {
		next.stubs[domain] = connect(at)
	}
	if len(s.Upstream) > 0 {
		next.upstream = connect(s.Upstream)
	}
	u.told.Store(next)
	return true
}

// asked are the resolvers for a name. Who is told to ask somebody does not ask others when that one is away: they might
// say that a name does not exist, or learn of names that are nobody's business.
func (u *upstream) asked(name string) []*resolver {
	t := u.told.Load()
	if t == nil {
		return u.resolvers()
	}
	if domain := domainOf(t.stubs, name); domain != "" {
		return t.stubs[domain]
	}
	if len(t.settings.Upstream) > 0 {
		return t.upstream
	}
	return u.resolvers()
}

// resolvers returns the present ones, reading the files again when they changed. Looking costs a stat per file every few
// seconds of use, and nothing when nobody asks.
func (u *upstream) resolvers() []*resolver {
	now := time.Now()
	if known := u.current.Load(); known != nil && now.Sub(known.checked) < checkEvery {
		return known.list
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	known := u.current.Load()
	if known != nil && now.Sub(known.checked) < checkEvery {
		return known.list
	}
	fresh := &resolvers{stamp: stamp(u.files), checked: now}
	if known != nil && known.stamp == fresh.stamp {
		fresh.list = known.list
	} else {
		fresh.list = u.withoutLoops(servers(u.files, u.self))
		u.log.Debug("upstream resolvers read", "component", "dns", "resolvers", len(fresh.list))
	}
	u.current.Store(fresh)
	return fresh.list
}

// withoutLoops asks every resolver for a name that only we would be asked for again. One that brings the question back
// to us would do so with every name it does not know, for ever.
func (u *upstream) withoutLoops(addrs []string) []*resolver {
	var group errgroup.Group
	looped := make([]atomic.Bool, len(addrs))
	for i, addr := range addrs {
		group.Go(func() error {
			name := fmt.Sprintf("%016x%s", rand.Uint64(), probeSuffix)
			back := make(chan struct{})
			u.probes.Store(name, sync.OnceFunc(func() { close(back) }))
			defer u.probes.Delete(name)
			query := new(dns.Msg)
			query.SetQuestion(name, dns.TypeTXT)
			client := dns.Client{Timeout: probeWithin}
			_, _, err := client.Exchange(query, addr)
			select {
			case <-back:
				looped[i].Store(true)
			default:
			}
			return err
		})
	}
	_ = group.Wait() // a resolver that does not answer now may later
	var list []*resolver
	for i, addr := range addrs {
		if looped[i].Load() {
			u.log.Warn("an upstream resolver sends queries back to the cluster DNS; not using it", "component", "dns", "resolver", addr)
			continue
		}
		p := proxy.NewProxy("forward", addr, "dns")
		p.SetReadTimeout(answerWithin)
		list = append(list, &resolver{addr: addr, proxy: p})
	}
	return list
}

// servers reads the resolvers of this host. A file that only names a local stub is passed over for one that names what
// the stub itself asks, if there is one: fewer hops, and no stub that may be told to ask us.
func servers(files []string, self netip.Addr) []string {
	var first []string
	for _, file := range files {
		config, err := dns.ClientConfigFromFile(file)
		if err != nil {
			continue // missing or unreadable: as good as empty
		}
		var addrs []string
		stub := true
		for _, text := range config.Servers {
			addr, err := netip.ParseAddr(text)
			if err != nil || addr.Unmap() == self {
				continue
			}
			stub = stub && addr.IsLoopback()
			addrs = append(addrs, net.JoinHostPort(text, config.Port))
		}
		if len(addrs) > 0 && !stub {
			return addrs
		}
		if first == nil {
			first = addrs
		}
	}
	return first
}

func stamp(files []string) string {
	var all strings.Builder
	for _, file := range files {
		if info, err := os.Stat(file); err == nil {
			fmt.Fprintf(&all, "%s %d %d;", file, info.ModTime().UnixNano(), info.Size())
		}
	}
	return all.String()
}
