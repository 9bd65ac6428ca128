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
)

// settling is how long the machine's address has to be gone before we look for another: those that manage a machine's
// network take an address off and put it on again.
const settling = 500 * time.Millisecond

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
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case _, open := <-updates:
			if !open { // ctx ended, or the kernel had more to say than fitted: then there is only the timer
				updates = nil
			}
			timer.Reset(settling)
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
		if lost > 0 {
			now := *a.cfg
			if err := now.FindNodeIP(); err == nil && moved(ours, now.NodeIP, links, here, config.RoutedAddress) {
				return &Moved{From: a.cfg.NodeIP, To: now.NodeIP}
			}
			timer.Reset(time.Second) // a route may come later than its address
		} else if updates == nil {
			timer.Reset(time.Minute)
		}
	}
}

// moved tells whether a machine that lost an address is elsewhere now: where its default route says, or, on a network
// without one, at another address of the link it had. Until then it waits: addresses of other links, a container
// runtime's bridge perhaps, were there before and were not the machine's.
func moved(ours []netip.Addr, found string, links, here map[netip.Addr]int, routed func(v6 bool) netip.Addr) bool {
	next, err := config.Addresses(found)
	if err != nil {
		return false
	}
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

// addresses of this machine, and the links they are on.
func addresses() (map[netip.Addr]int, error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
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
