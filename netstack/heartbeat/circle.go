// Package heartbeat tells within a second which other machines have fallen silent.
//
// In:       machines to listen for: names, addresses, public keys.
// Out:      datagrams to them, seven a second to each and from each; which of them are gone, and whether one of them has
// lost this machine.
// Promise:  nothing is sent and no socket open while there is nobody to listen for. Only the owner of a peer's key can say
// that the peer is here, and only now: what was recorded before is worth nothing. A machine that comes back is not
// believed at once, so that nothing flaps.
// Not here: what follows from it (netstack/announce).
package heartbeat

import (
	"context"
	"crypto/ecdh"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// watched are the machines that are listened for, by what is known of them.
var watched = promauto.NewGaugeVec(prometheus.GaugeOpts{
	Namespace: "knarr", Subsystem: "heartbeat", Name: "peers", Help: "Number of machines whose heartbeats are listened for: heard, gone, or never heard.",
}, []string{"state"})

// Port of UDP, beside that of the tunnel between nodes.
const Port = 8474

// Peer is a machine to listen for.
type Peer struct {
	Name     string
	Key      *ecdh.PublicKey
	From, To netip.Addr // the address of this machine that it knows, and its own
}

// Config of a Circle.
type Config struct {
	Key     *ecdh.PrivateKey
	Changed func() // the view is another; returns at once, and calls nothing of the Circle's
	Listen  func(netip.AddrPort) (*net.UDPConn, error)
	Log     *slog.Logger
}

// Circle is this machine and those it listens for.
type Circle struct {
	cfg Config
	own short

	mu       sync.Mutex
	judge    *judge
	last     View // as it was when Changed was called last
	served   bool
	peers    map[string]member
	names    map[short]string
	conns    map[netip.Addr]*net.UDPConn
	stop     func() // ends the ticking; nil while there is none
	running  sync.WaitGroup
	deaf     bool // an address could not be listened on, and somebody was told
	shutdown bool
}

type member struct {
	Peer
	seals seals
}

// New is a circle without peers.
func New(cfg Config) *Circle {
	if cfg.Listen == nil {
		cfg.Listen = func(at netip.AddrPort) (*net.UDPConn, error) {
			return net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
		}
	}
	return &Circle{
		cfg: cfg, own: shortOf(cfg.Key.PublicKey()), judge: newJudge(rand.Uint64()>>2+1, time.Now()),
		peers: map[string]member{}, names: map[short]string{}, conns: map[netip.Addr]*net.UDPConn{},
	}
}

// Follow says whom to listen for from now on; none ends it. What is known of those who stay is kept.
func (c *Circle) Follow(peers []Peer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.shutdown {
		return
	}
	now := time.Now()
	wanted := map[string]Peer{}
	for _, p := range peers {
		wanted[p.Name] = p
	}
	for name, m := range c.peers {
		if p, stays := wanted[name]; !stays || !p.Key.Equal(m.Key) {
			delete(c.peers, name)
			delete(c.names, shortOf(m.Key))
			c.judge.forget(name)
		}
	}
	for name, p := range wanted {
		if m, known := c.peers[name]; known {
			m.Peer = p // it may have moved
			c.peers[name] = m
			continue
		}
		seals, err := newSeals(c.cfg.Key, p.Key)
		if err != nil {
			c.cfg.Log.Warn("a node's heartbeats cannot be read; its condition alone counts", "component", "heartbeat", "node", name, "error", err)
			continue
		}
		c.peers[name], c.names[shortOf(p.Key)] = member{Peer: p, seals: seals}, name
		c.judge.follow(name, now)
	}
	c.open()
	c.beat(now)
	c.note(c.judge.view(now))
	if len(c.peers) > 0 && c.stop == nil {
		ctx, cancel := context.WithCancel(context.Background())
		c.stop = cancel
		c.running.Go(func() { c.tick(ctx) })
	}
	if len(c.peers) == 0 {
		c.rest()
	}
}

// Serve says whether this machine's API server answers.
func (c *Circle) Serve(served bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.served != served {
		c.served = served
		c.beat(time.Now())
	}
}

// View of those who are listened for.
func (c *Circle) View() View {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.judge.view(time.Now())
}

// Close says goodbye, so that nobody has to wait for silence, and ends everything.
func (c *Circle) Close() {
	c.mu.Lock()
	now := time.Now()
	for name, m := range c.peers {
		words := c.judge.tell(name, false, now)
		words.flags |= leaving
		c.send(m, words)
	}
	c.shutdown, c.peers, c.names = true, map[string]member{}, map[short]string{}
	c.rest()
	c.mu.Unlock()
	c.running.Wait()
}

// rest ends the ticking and closes what is open.
func (c *Circle) rest() {
	if c.stop != nil {
		c.stop()
		c.stop = nil
	}
	for _, conn := range c.conns {
		_ = conn.Close() // nothing was promised to be sent
	}
	clear(c.conns)
}

// open the addresses that peers know, and close others. An address that cannot be had now is tried again with the next
// change; until then nobody on it is heard, and the nodes' conditions count as if there were no heartbeats.
func (c *Circle) open() {
	wanted := map[netip.Addr]bool{}
	for _, m := range c.peers {
		wanted[m.From] = true
	}
	for addr, conn := range c.conns {
		if !wanted[addr] {
			_ = conn.Close()
			delete(c.conns, addr)
		}
	}
	for addr := range wanted {
		if c.conns[addr] != nil {
			continue
		}
		conn, err := c.cfg.Listen(netip.AddrPortFrom(addr, Port))
		if err != nil {
			if !c.deaf {
				c.cfg.Log.Warn("no heartbeats here: a load balancer's address takes up to 40 s to leave a machine that died", "component", "heartbeat",
					"error", fmt.Errorf("listen on %s: %w", netip.AddrPortFrom(addr, Port), err))
			}
			c.deaf = true
			continue
		}
		c.deaf = false
		c.conns[addr] = conn
		c.running.Go(func() { c.listen(conn) })
	}
}

// listen until the connection is closed.
func (c *Circle) listen(conn *net.UDPConn) {
	var buffer [size + 1]byte // one more shows that a datagram is too long
	for {
		n, _, err := conn.ReadFromUDPAddrPort(buffer[:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			c.hear(buffer[:n])
		}
	}
}

func (c *Circle) hear(packet []byte) {
	from, ok := sender(packet)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	name, known := c.names[from]
	if !known {
		return
	}
	if m, ok := c.peers[name].seals.open(packet); ok {
		now := time.Now()
		c.judge.hear(name, m, now)
		c.compare(now)
	}
}

func (c *Circle) tick(ctx context.Context) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		c.mu.Lock()
		now := time.Now()
		c.judge.tick(now)
		for _, name := range c.judge.unheard(now) {
			c.cfg.Log.Warn("a node's heartbeats do not arrive: let UDP port 8474 pass between nodes, else its load balancers' addresses take up to 40 s to leave it when it dies",
				"component", "heartbeat", "node", name, "address", c.peers[name].To)
		}
		c.compare(now)
		c.beat(now)
		c.mu.Unlock()
	}
}

// compare tells whoever asked when the view is another; peers hear it as well, without waiting for the next tick.
func (c *Circle) compare(now time.Time) {
	view := c.judge.view(now)
	if view.Doubted == c.last.Doubted && view.Settled == c.last.Settled && maps.Equal(view.Peers, c.last.Peers) {
		return
	}
	said := view.Doubted != c.last.Doubted || !maps.Equal(gone(view), gone(c.last))
	c.note(view)
	if said {
		c.beat(now)
	}
	c.cfg.Changed()
}

// note what the view is now.
func (c *Circle) note(view View) {
	c.last = view
	states := map[string]float64{"heard": 0, "gone": 0, "unheard": 0}
	for _, p := range view.Peers {
		switch {
		case p.Gone:
			states["gone"]++
		case p.Heard:
			states["heard"]++
		default:
			states["unheard"]++
		}
	}
	for state, n := range states {
		watched.WithLabelValues(state).Set(n)
	}
}

func gone(v View) map[string]bool {
	names := map[string]bool{}
	for name, p := range v.Peers {
		if p.Gone {
			names[name] = true
		}
	}
	return names
}

// beat once.
func (c *Circle) beat(now time.Time) {
	for name, m := range c.peers {
		c.send(m, c.judge.tell(name, c.served, now))
	}
}

func (c *Circle) send(m member, words message) {
	if conn := c.conns[m.From]; conn != nil {
		// What cannot be sent is not heard, which says it all.
		_, _ = conn.WriteToUDPAddrPort(m.seals.pack(c.own, words), netip.AddrPortFrom(m.To, Port))
	}
}
