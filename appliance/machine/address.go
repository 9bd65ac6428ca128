package machine

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/netstack/dns"
	"knarr.dev/knarr/netstack/dump"
)

// settling is how long the machine's address has to be gone before one that it had all along takes its place: those that
// manage a machine's network take an address off and put it on again.
const settling = 500 * time.Millisecond

// replaced is how long nothing may change before we look: addresses come and go one by one. One that is new, where ours
// is gone, is what the machine was given instead; then there is nothing more to wait for.
const replaced = 100 * time.Millisecond

// Moved ends a machine's run: others reach it at other addresses now. Certificates, the datastore and the node object all
// say where the machine is, so it begins anew with the new ones; pods run on meanwhile.
type Moved struct {
	From, To string

	sockets dns.Sockets // that the next run goes on with
}

func (m *Moved) Error() string {
	return fmt.Sprintf("this machine's address is %s now, it was %s: start knarr again", m.To, m.From)
}

// address watches over addresses that we found ourselves. Those that were set are what the administrator wants them to be.
type address struct{ cfg *config.Config }

func (a address) Name() string { return "address" }

func (a address) Run(ctx context.Context, ready func()) error {
	ours, err := config.Addresses(a.cfg.NodeIP)
	if err != nil {
		return err
	}
	updates := make(chan netlink.AddrUpdate)
	if err := netlink.AddrSubscribe(updates, ctx.Done()); err != nil {
		return fmt.Errorf("follow this machine's addresses: %w", err)
	}
	ready()
	links := map[netip.Addr]int{} // that our addresses are on, or were
	var before map[netip.Addr]int // what was here when all of ours last were
	var gone time.Time            // since when not all of them are
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case _, open := <-updates:
			if !open { // ctx ended, or the kernel had more to say than fitted: then there is only the timer
				updates = nil
			}
			timer.Reset(replaced)
			continue
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		here, err := addresses()
		if err != nil {
			return err
		}
		lost := 0
		for _, ip := range ours {
			if on, there := here[ip]; there {
				links[ip] = on
			} else {
				lost++
			}
		}
		if lost == 0 {
			before, gone = here, time.Time{}
			if updates == nil {
				timer.Reset(time.Minute)
			}
			continue
		}
		if gone.IsZero() {
			gone = time.Now()
		}
		now, left := *a.cfg, settling-time.Since(gone)
		if err := now.FindNodeIP(); err == nil {
			next, err := config.Addresses(now.NodeIP)
			if err == nil && moved(ours, next, links, here, config.RoutedAddress) && (left <= 0 || given(ours, next, before)) {
				return &Moved{From: a.cfg.NodeIP, To: now.NodeIP}
			}
		}
		if left <= 0 {
			left = time.Second // a route may come later than its address
		}
		timer.Reset(left)
	}
}

// moved tells whether a machine that lost an address is elsewhere now: where its default route says, or, on a network
// without one, at another address of the link it had. Until then it waits: addresses of other links, a container
// runtime's bridge perhaps, were there before and were not the machine's.
func moved(ours, next []netip.Addr, links, here map[netip.Addr]int, routed func(v6 bool) netip.Addr) bool {
	for _, ip := range ours {
		if _, there := here[ip]; there {
			continue
		}
		i := slices.IndexFunc(next, func(n netip.Addr) bool { return n.Is4() == ip.Is4() })
		if i < 0 || next[i] != routed(ip.Is6()) && here[next[i]] != links[ip] {
			return false
		}
	}
	return true
}

// given tells whether a machine's next addresses, other than those it keeps, came after all of its own were last here.
func given(ours, next []netip.Addr, before map[netip.Addr]int) bool {
	return before != nil && !slices.ContainsFunc(next, func(ip netip.Addr) bool {
		_, was := before[ip]
		return was && !slices.Contains(ours, ip)
	})
}

// addresses of this machine, and the links they are on.
func addresses() (map[netip.Addr]int, error) {
	list, err := dump.Addresses(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list this machine's addresses: %w", err)
	}
	here := make(map[netip.Addr]int, len(list))
	for _, a := range list {
		if ip, ok := netip.AddrFromSlice(a.IP); ok {
			here[ip.Unmap()] = a.LinkIndex
		}
	}
	return here, nil
}
