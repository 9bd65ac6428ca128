package announce

import (
	"context"
	"fmt"
	"maps"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// voice is what this node says, from pass to pass. One goroutine uses it.
type voice struct {
	announcer *Announcer
	claimed   map[types.NamespacedName]bool // Services with addresses to announce
	speakers  map[bool]*speaker             // by family (IPv6: true), while there is something to say in it
	untold    map[netip.Addr]int            // announcements that are due
	unsettled bool                          // the last pass failed
}

// pass decides anew when something that matters has changed, and makes the announcements that are due.
func (v *voice) pass(ctx context.Context) error {
	dirty, decide := v.announcer.takeChanges()
	for key := range dirty {
		was := v.claimed[key]
		if delete(v.claimed, key); len(addressesOf(v.announcer.view.Get(key).Service)) > 0 {
			v.claimed[key] = true
		}
		decide = decide || was || v.claimed[key]
	}
	for _, s := range v.speakers {
		if err := s.ended(); err != nil {
			return err
		}
	}
	if decide || v.unsettled {
		if err := v.decide(ctx); err != nil {
			return err
		}
		v.unsettled = false
	}
	for addr := range v.untold {
		if err := v.speakers[addr.Is6()].announce(addr); err != nil {
			return err
		}
		if v.untold[addr]--; v.untold[addr] == 0 {
			delete(v.untold, addr)
		}
	}
	return nil
}

// decide which addresses are spoken for from here.
func (v *voice) decide(ctx context.Context) error {
	if len(v.claimed) == 0 {
		v.silence()
		return nil
	}
	var nodes corev1.NodeList
	if err := v.announcer.cfg.Nodes.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	for _, ip := range v.announcer.cfg.NodeIPs {
		if err := v.decideOn(ip, nodes.Items); err != nil {
			return err
		}
	}
	return nil
}

// decideOn decides on the network where this node has an address.
func (v *voice) decideOn(ip netip.Addr, nodes []corev1.Node) error {
	a, v6 := v.announcer, ip.Is6()
	wanted := map[types.NamespacedName][]netip.Addr{}
	for key := range v.claimed {
		for _, addr := range addressesOf(a.view.Get(key).Service) {
			if addr.Is6() == v6 {
				wanted[key] = append(wanted[key], addr)
			}
		}
	}
	if len(wanted) == 0 {
		v.hush(v6)
		return nil
	}
	here, err := a.find(ip)
	if err != nil {
		return err
	}
	able, taken := candidates(nodes, here.prefix), nodeAddresses(nodes)
	mine := map[netip.Addr]bool{}
	for key, addrs := range wanted {
		entry := a.view.Get(key)
		if entry.Service == nil {
			continue // gone since it was looked at: its own news is on the way
		}
		for _, addr := range addrs {
			if here.prefix.Contains(addr) && !taken[addr] && chosen(addr, serving(entry, able)) == a.cfg.Node {
				mine[addr] = true
			}
		}
	}
	if len(mine) == 0 {
		v.hush(v6)
		return nil
	}
	return v.say(v6, here, mine)
}

// say that these addresses of a family are here.
func (v *voice) say(v6 bool, here segment, mine map[netip.Addr]bool) (err error) {
	a, s := v.announcer, v.speakers[v6]
	if s != nil && !s.at.same(here) {
		v.hush(v6)
		s = nil
	}
	if s == nil {
		if s, err = a.open(here); err != nil {
			return err
		}
		v.speakers[v6] = s
		go s.talk(a.markNodes)
	}
	before, err := s.speakFor(mine)
	if err != nil {
		return err
	}
	for addr := range before {
		if !mine[addr] {
			delete(v.untold, addr)
			a.cfg.Log.Info("a load balancer's address is no longer announced from here", "component", a.Name(), "address", addr)
		}
	}
	for addr := range mine {
		if before[addr] {
			continue
		}
		v.untold[addr] = announcements
		a.cfg.Log.Info("a load balancer's address is announced from here", "component", a.Name(), "address", addr, "link", here.name)
	}
	return nil
}

// hush ends what is said in a family.
func (v *voice) hush(v6 bool) {
	if s := v.speakers[v6]; s != nil {
		s.close()
		delete(v.speakers, v6)
	}
	maps.DeleteFunc(v.untold, func(addr netip.Addr, _ int) bool { return addr.Is6() == v6 })
}

func (v *voice) silence() {
	v.hush(false)
	v.hush(true)
}
