package podnet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/vishvananda/netlink"
)

// Elsewhere stands in for Network on a machine whose pods somebody else's CNI plugin connects: the bridge then has no ports
// and no address but that of the cluster's DNS, which netstack/dns answers at. It is a component.
type Elsewhere struct {
	ConfigDir string     // where the plugin's configuration is looked for: ours must not be found before it
	DNS       netip.Addr // may be unset
	Log       *slog.Logger
}

// Name of the component.
func (e Elsewhere) Name() string { return "pod network" }

// Run keeps the bridge until ctx ends.
func (e Elsewhere) Run(ctx context.Context, ready func()) error {
	if err := os.Remove(filepath.Join(e.ConfigDir, configName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove knarr's CNI configuration: %w", err)
	}
	if !e.DNS.IsValid() {
		ready()
		<-ctx.Done()
		return nil
	}
	if err := raiseForDNS(e.DNS); err != nil {
		return err
	}
	ready()
	tick := time.NewTicker(healInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := raiseForDNS(e.DNS); err != nil {
			e.Log.Error("the cluster's DNS has no address on this machine", "address", e.DNS, "error", err)
		}
	}
}

// raiseForDNS makes the bridge what it should be; a second pass changes nothing.
func raiseForDNS(dns netip.Addr) error {
	link, err := netlink.LinkByName(Bridge)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = Bridge
		link = &netlink.Bridge{LinkAttrs: attrs}
		err = netlink.LinkAdd(link)
	}
	if err != nil {
		return fmt.Errorf("add bridge %s: %w", Bridge, err)
	}
	if err := addresses(link, []netip.Prefix{netip.PrefixFrom(dns, dns.BitLen())}); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("bring up %s: %w", Bridge, err)
	}
	return nil
}
