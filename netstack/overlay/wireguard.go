package overlay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"knarr.dev/knarr/bootstrap/config"
)

// Tunnel is the overlay's link by WireGuard.
const Tunnel = "knarr-wg"

// TunnelPort is WireGuard's usual one.
const TunnelPort = 51820

// tunnel is the overlay by WireGuard. The ranges of all pods lead nowhere but for what leads into the link: a node that has
// not published its key gets nothing, and when the link is gone nothing goes out by another one.
type tunnel struct {
	cfg    Config
	log    *slog.Logger
	keys   keys
	device device // nil while there is none
	told   told   // what it was told last
	silent []string
}

func newTunnel(cfg Config) *tunnel {
	life := cfg.Rotation
	if life == 0 {
		life = rotation
	}
	return &tunnel{cfg: cfg, log: cfg.Log, keys: keys{file: filepath.Join(cfg.Paths.Network(), "wireguard.json"), life: life}}
}

// device is WireGuard itself, of the kernel or in this process.
type device interface {
	configure(wgtypes.Config) error
	// peers are the public keys it knows: the kernel's may have some from before, and lose some to others.
	peers() ([]wgtypes.Key, error)
	// resized says that the link's MTU is another one.
	resized()
	// close ends it; the kernel's works on.
	close()
}

// told is all that a device is told.
type told struct {
	key   secret
	peers map[wgtypes.Key]reach
}

// reach is where a peer is and which addresses are its own, one range of each family at most.
type reach struct {
	at   netip.AddrPort
	pods [2]netip.Prefix
}

// tell is what a device should be told, and the ways into it. Of two that say the same key the first has it; those that say
// none, or this node's own, are silent: there is no way to them.
func tell(v view, key secret, link int) (want told, ways map[netip.Prefix]route, silent []string) {
	want, ways = told{key: key, peers: map[wgtypes.Key]reach{}}, map[netip.Prefix]route{}
	for _, peer := range v.Others {
		public, err := wgtypes.ParseKey(peer.Key)
		if _, taken := want.peers[public]; err != nil || taken || peer.Key == key.public() {
			silent = append(silent, peer.Node)
			continue
		}
		to := reach{at: netip.AddrPortFrom(peer.Address, TunnelPort)}
		for i, r := range v.Self.shared(peer) {
			to.pods[i] = r
			ways[r] = route{link: link}
		}
		want.peers[public] = to
	}
	return want, ways, silent
}

// change is what makes want of have, and who should hear of it at once: those that cannot know this node yet as it is now.
func change(want, have told) (cfg wgtypes.Config, greet []wgtypes.Key) {
	if want.key != have.key {
		private := wgtypes.Key(want.key)
		cfg.PrivateKey = &private
	}
	set, remove := difference(want.peers, have.peers)
	for public, to := range set {
		peer := wgtypes.PeerConfig{PublicKey: public, Endpoint: net.UDPAddrFromAddrPort(to.at), ReplaceAllowedIPs: true}
		for _, r := range to.pods {
			if r.IsValid() {
				peer.AllowedIPs = append(peer.AllowedIPs, net.IPNet{IP: r.Addr().AsSlice(), Mask: net.CIDRMask(r.Bits(), r.Addr().BitLen())})
			}
		}
		cfg.Peers = append(cfg.Peers, peer)
	}
	for _, public := range remove { // after the others were given its addresses: a node's new key takes them from the old one
		cfg.Peers = append(cfg.Peers, wgtypes.PeerConfig{PublicKey: public, Remove: true})
	}
	for public := range want.peers {
		if _, known := have.peers[public]; !known || cfg.PrivateKey != nil {
			greet = append(greet, public)
		}
	}
	return cfg, greet
}

// settle makes one pass; current says that the view is the API server's and not that of the last run.
func (t *tunnel) settle(ctx context.Context, v view, at place, current bool) error {
	have, err := readRoutes()
	if err != nil {
		return err
	}
	want := map[netip.Prefix]route{}
	for _, all := range t.cfg.Pods {
		want[all] = route{}
	}
	shut, _ := difference(want, have)
	if err := setRoutes(shut); err != nil { // first of all
		return err
	}
	if err := removeLink(Link); err != nil {
		return err
	}
	if len(v.Self.Ranges) == 0 {
		return nil // while nothing is known, what an earlier run left goes on working
	}
	unheard := t.settleKeys(ctx, v.Self.Key, current)
	if len(v.Others) == 0 {
		t.close()
		return errors.Join(unheard, reroute(want, have), removeLink(Tunnel))
	}
	link, err := t.raise(v.Self, at)
	if err != nil {
		return errors.Join(unheard, err)
	}
	say, ways, silent := tell(v, t.keys.now.Current, link)
	if err := t.tell(say); err != nil {
		return errors.Join(unheard, err)
	}
	if !slices.Equal(silent, t.silent) {
		if t.silent = silent; len(silent) > 0 {
			t.log.Warn("nodes have no key for WireGuard: their pods are not reached until they run with the same overlay", "nodes", silent)
		}
	}
	maps.Copy(want, ways)
	return errors.Join(unheard, reroute(want, have))
}

// settleKeys fails only when others cannot know this node: a successor that cannot be published waits.
func (t *tunnel) settleKeys(ctx context.Context, published string, current bool) error {
	now := time.Now()
	if err := t.keys.ensure(now); err != nil || !current {
		return err
	}
	before := t.keys.now.Current
	err := t.keys.settle(ctx, published, now, func(ctx context.Context, key string) error {
		return t.cfg.Publish(ctx, KeyAnnotation, key)
	})
	if err != nil && published == before.public() {
		t.log.Warn("this node keeps its key for WireGuard for now", "error", err)
		return nil
	}
	if before != t.keys.now.Current {
		t.log.Info("this node has another key for WireGuard", "public", t.keys.now.Current.public())
	}
	return err
}

// raise makes the link what it should be.
func (t *tunnel) raise(self Peer, at place) (index int, err error) {
	mtu := at.mtu - Overhead(config.WireGuard, self.Address)
	link, err := find(Tunnel)
	if err != nil {
		return 0, err
	}
	if link == nil {
		t.close() // somebody took its link away
	}
	if t.device == nil {
		if t.device, err = openDevice(link, mtu, t.log); err != nil {
			return 0, err
		}
		if link, err = netlink.LinkByName(Tunnel); err != nil {
			return 0, fmt.Errorf("find link %s: %w", Tunnel, err)
		}
	}
	resized := link.Attrs().MTU != mtu
	if err := bringUp(link, self.Ranges, mtu); err != nil {
		return 0, err
	}
	if resized {
		t.device.resized()
	}
	return link.Attrs().Index, nil
}

// tell tells the device what it does not know.
func (t *tunnel) tell(want told) error {
	present, err := t.device.peers()
	if err != nil {
		return fmt.Errorf("ask %s for its peers: %w", Tunnel, err)
	}
	have := told{key: t.told.key, peers: map[wgtypes.Key]reach{}}
	for _, public := range present {
		have.peers[public] = t.told.peers[public]
	}
	cfg, greet := change(want, have)
	if t.told.key == (secret{}) {
		port := TunnelPort
		cfg.ListenPort = &port
	}
	if cfg.PrivateKey == nil && len(cfg.Peers) == 0 {
		return nil
	}
	if err := t.device.configure(cfg); err != nil {
		return fmt.Errorf("configure %s: %w: UDP port %d must be free", Tunnel, err, TunnelPort)
	}
	t.told = want
	return t.greet(greet)
}

// greet has the device shake hands with peers now, by a sign of life that is asked for and called off. Otherwise the first
// packet would; and whoever has a session with a device that is no more sends into it until 15 s brought no answer. Both sides
// greet when they learn something new, so that the one who learns last finds the other prepared.
func (t *tunnel) greet(peers []wgtypes.Key) error {
	for _, every := range []time.Duration{time.Minute, 0} {
		var cfg wgtypes.Config
		for _, public := range peers {
			cfg.Peers = append(cfg.Peers, wgtypes.PeerConfig{PublicKey: public, UpdateOnly: true, PersistentKeepaliveInterval: &every})
		}
		if len(peers) == 0 {
			return nil
		}
		if err := t.device.configure(cfg); err != nil {
			return fmt.Errorf("greet the peers of %s: %w", Tunnel, err)
		}
	}
	return nil
}

func (t *tunnel) close() {
	if t.device != nil {
		t.device.close()
	}
	t.device, t.told = nil, told{}
}
