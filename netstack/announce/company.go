package announce

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/netstack/heartbeat"
)

// introduceWithin is how long the API server may take to let others know this node's key.
const introduceWithin = 10 * time.Second

// company is who this node listens for, and whether they can read what it says.
type company struct {
	announcer *Announcer
	circle    *heartbeat.Circle // nil until there is somebody
	public    string            // the key others have to know
	under     atomic.Bool       // introducing is under way
}

// keep listens for those who may speak for the same addresses as this node. Nodes that have told no key count by their
// conditions alone.
func (c *company) keep(ctx context.Context, nodes []corev1.Node, districts []district, serves bool) heartbeat.View {
	a := c.announcer
	var peers []heartbeat.Peer
	wanted, named := false, map[string]bool{}
	for _, d := range districts {
		for _, claim := range d.claims {
			for _, name := range claim.company(a.cfg.Node) {
				wanted = true
				if named[name] {
					continue
				}
				named[name] = true
				if p, ok := peerOf(nodes, name, d); ok {
					peers = append(peers, p)
				}
			}
		}
	}
	if !wanted && c.circle == nil {
		return heartbeat.View{Settled: true}
	}
	if c.circle == nil && !c.begin() {
		return heartbeat.View{Settled: true}
	}
	if wanted {
		c.introduce(ctx, nodes)
	}
	c.circle.Serve(serves)
	c.circle.Follow(peers)
	return c.circle.View()
}

func (c *company) begin() bool {
	a := c.announcer
	key, err := a.cfg.Key()
	if err != nil {
		a.cfg.Log.Warn("no heartbeats here: an address takes up to 40 s to leave a machine that died", "component", a.Name(), "error", err)
		return false
	}
	c.public = heartbeat.FormatKey(key.PublicKey())
	c.circle = heartbeat.New(heartbeat.Config{Key: key, Changed: a.markNodes, Listen: a.ears, Log: a.cfg.Log})
	return true
}

// peerOf is how to listen for a node on a network.
func peerOf(nodes []corev1.Node, name string, d district) (heartbeat.Peer, bool) {
	for i := range nodes {
		node := &nodes[i]
		if node.Name != name {
			continue
		}
		key, ok := heartbeat.ParseKey(node.Annotations[heartbeat.Annotation])
		to := on(node, d.here.prefix)
		return heartbeat.Peer{Name: name, Key: key, From: d.ip, To: to}, ok && to.IsValid()
	}
	return heartbeat.Peer{}, false
}

// introduce this node to the others, unless they know its key. It waits for nobody: who speaks when a machine has died does
// not depend on the API server.
func (c *company) introduce(ctx context.Context, nodes []corev1.Node) {
	a := c.announcer
	for i := range nodes {
		if nodes[i].Name == a.cfg.Node && nodes[i].Annotations[heartbeat.Annotation] == c.public {
			return
		}
	}
	if !c.under.CompareAndSwap(false, true) {
		return
	}
	public := c.public
	go func() {
		ctx, cancel := context.WithTimeout(ctx, introduceWithin)
		defer cancel()
		err := a.cfg.Introduce(ctx, heartbeat.Annotation, public)
		if err == nil || errors.Is(ctx.Err(), context.Canceled) {
			c.under.Store(false)
			return
		}
		a.cfg.Log.Warn("other nodes do not know this one's heartbeats yet; trying again", "component", a.Name(), "error", err)
		time.AfterFunc(retryInterval, func() { c.under.Store(false); a.markNodes() })
	}()
}

// leave the others for now: who is not heard is not counted on.
func (c *company) leave() {
	if c.circle != nil {
		c.circle.Follow(nil)
	}
}

func (c *company) close() {
	if c.circle != nil {
		c.circle.Close()
	}
}

// district is one of this node's networks and what is claimed there.
type district struct {
	ip     netip.Addr // this node's
	here   segment
	claims []claim
}
