package overlay

import (
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
	wireguard "golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// openDevice takes the kernel's WireGuard where there is one, and brings its own where not. present is what has the name now:
// the kernel's from an earlier run works on.
func openDevice(present netlink.Link, mtu int, log *slog.Logger) (device, error) {
	if present != nil && present.Type() != "wireguard" { // nobody is behind it any more
		if err := removeLink(Tunnel); err != nil {
			return nil, err
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = Tunnel, mtu
	err := netlink.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs})
	switch {
	case err == nil || errors.Is(err, os.ErrExist):
		client, err := wgctrl.New()
		if err != nil {
			return nil, fmt.Errorf("talk to the kernel's WireGuard: %w", err)
		}
		return kernel{client}, nil
	case !errors.Is(err, syscall.EOPNOTSUPP):
		return nil, fmt.Errorf("add link %s: %w", Tunnel, err)
	}
	own, err := newProcess(mtu, log)
	if err != nil {
		return nil, fmt.Errorf("add link %s: %w: the kernel needs wireguard, or tun and /dev/net/tun", Tunnel, err)
	}
	log.Info("this kernel has no WireGuard: knarr encrypts itself, and other nodes' pods are not reached while it is away", "link", Tunnel)
	return own, nil
}

// kernel is the kernel's WireGuard.
type kernel struct{ client *wgctrl.Client }

func (k kernel) configure(cfg wgtypes.Config) error { return k.client.ConfigureDevice(Tunnel, cfg) }

func (k kernel) peers() ([]wgtypes.Key, error) {
	found, err := k.client.Device(Tunnel)
	if err != nil {
		return nil, err
	}
	var all []wgtypes.Key
	for _, peer := range found.Peers {
		all = append(all, peer.PublicKey)
	}
	return all, nil
}

func (k kernel) resized() {} // it sees to it itself

func (k kernel) close() { _ = k.client.Close() }

// process is WireGuard in this process. Its link goes with it.
type process struct {
	device *wireguard.Device
	link   *link
}

func newProcess(mtu int, log *slog.Logger) (*process, error) {
	l, err := newLink(mtu)
	if err != nil {
		return nil, err
	}
	return &process{link: l, device: wireguard.NewDevice(l, bind{conn.NewDefaultBind()}, &wireguard.Logger{
		Verbosef: wireguard.DiscardLogf,
		Errorf: func(format string, args ...any) {
			log.Warn("WireGuard complains", "error", fmt.Sprintf(format, args...))
		},
	})}, nil
}

func (p *process) configure(cfg wgtypes.Config) error {
	if err := p.device.IpcSet(words(cfg)); err != nil {
		return err
	}
	return p.device.Up() // at first: the port is known now
}

func (p *process) peers() ([]wgtypes.Key, error) {
	text, err := p.device.IpcGet()
	if err != nil {
		return nil, err
	}
	var all []wgtypes.Key
	for line := range strings.Lines(text) {
		value, found := strings.CutPrefix(strings.TrimSpace(line), "public_key=")
		if !found {
			continue
		}
		raw, err := hex.DecodeString(value)
		if err != nil {
			return nil, err
		}
		public, err := wgtypes.NewKey(raw)
		if err != nil {
			return nil, err
		}
		all = append(all, public)
	}
	return all, nil
}

func (p *process) resized() { p.link.say(tun.EventMTUUpdate) }

func (p *process) close() { p.device.Close() }

// words are a configuration in the words of WireGuard's configuration protocol (https://www.wireguard.com/xplatform/). They
// hold the private key.
func words(cfg wgtypes.Config) string {
	var b strings.Builder
	say := func(key string, value any) { fmt.Fprintf(&b, "%s=%v\n", key, value) }
	if cfg.PrivateKey != nil {
		say("private_key", hex.EncodeToString(cfg.PrivateKey[:]))
	}
	if cfg.ListenPort != nil {
		say("listen_port", *cfg.ListenPort)
	}
	for _, peer := range cfg.Peers {
		say("public_key", hex.EncodeToString(peer.PublicKey[:]))
		if peer.Remove {
			say("remove", true)
			continue
		}
		if peer.UpdateOnly {
			say("update_only", true)
		}
		if peer.Endpoint != nil {
			at := peer.Endpoint.AddrPort()
			say("endpoint", netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
		}
		if peer.PersistentKeepaliveInterval != nil {
			say("persistent_keepalive_interval", int(peer.PersistentKeepaliveInterval.Seconds()))
		}
		if peer.ReplaceAllowedIPs {
			say("replace_allowed_ips", true)
		}
		for _, pods := range peer.AllowedIPs {
			say("allowed_ip", pods.String())
		}
	}
	return b.String()
}

// bind is the library's sockets. It hands the kernel many packets as one, which the kernel refuses when it knows the path to be
// narrower than the link; and it sends from the address it was last reached at, which this machine may have lost.
type bind struct{ conn.Bind }

// Send sends what was refused together one by one, so that the kernel may cut it to pieces, and from whatever address there is.
func (b bind) Send(packets [][]byte, to conn.Endpoint) error {
	err := b.Bind.Send(packets, to)
	if !errors.Is(err, unix.EMSGSIZE) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	to.ClearSrc()
	var errs []error
	for i := range packets {
		errs = append(errs, b.Bind.Send(packets[i:i+1], to))
	}
	return errors.Join(errs...)
}

// link is a TUN device. The library's own watch over its MTU asks every second; here it is said.
type link struct {
	tun.Device
	events chan tun.Event

	mu     sync.Mutex
	closed bool // by the library as well, when somebody removed the link
}

func newLink(mtu int) (*link, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(Tunnel)
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a TUN device: %w", err), unix.Close(fd))
	}
	opened, _, err := tun.CreateUnmonitoredTUNFromFD(fd)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the TUN device: %w", err), unix.Close(fd))
	}
	l := &link{Device: opened, events: make(chan tun.Event, 1)}
	made, err := netlink.LinkByName(Tunnel)
	if err == nil {
		err = netlink.LinkSetMTU(made, mtu)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set MTU of the TUN device: %w", err), l.Close())
	}
	return l, nil
}

// Events that the device hears of.
func (l *link) Events() <-chan tun.Event { return l.events }

func (l *link) say(event tun.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	select {
	case l.events <- event:
	default: // it is about to look at the link anyway
	}
}

// Close ends the device's reading as well.
func (l *link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		close(l.events)
	}
	return l.Device.Close()
}
