package announce

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// voice is what this node says, from pass to pass. One goroutine uses it.
type voice struct {
	announcer *Announcer
	claimed   map[types.NamespacedName]bool // Services with addresses to announce
	speaker   *speaker                      // nil while there is nothing to say
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
	if v.speaker != nil && v.speaker.ended() != nil {
		return v.speaker.ended()
	}
	if decide || v.unsettled {
		if err := v.decide(ctx); err != nil {
			return err
		}
		v.unsettled = false
	}
	for addr := range v.untold {
		if err := v.speaker.announce(addr); err != nil {
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
	a := v.announcer
	if len(v.claimed) == 0 {
		v.silence()
		return nil
	}
	here, err := a.find(a.cfg.NodeIP)
	if err != nil {
		return err
	}
	var nodes corev1.NodeList
	if err := a.cfg.Nodes.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list nodes: %w", err)
	}
	able, taken := candidates(nodes.Items, here.prefix), nodeAddresses(nodes.Items)
	mine := map[netip.Addr]bool{}
	for key := range v.claimed {
		entry := a.view.Get(key)
		for _, addr := range addressesOf(entry.Service) {
			if here.prefix.Contains(addr) && !taken[addr] && chosen(addr, serving(entry, able)) == a.cfg.Node {
				mine[addr] = true
			}
		}
	}
	if len(mine) == 0 {
		v.silence()
		return nil
	}
	if v.speaker != nil && !v.speaker.at.same(here) {
		v.silence()
	}
	if v.speaker == nil {
		if v.speaker, err = a.open(here); err != nil {
			return err
		}
		go v.speaker.answer(a.markNodes)
	}
	before := v.speaker.speakFor(mine)
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
		if v.untold == nil {
			v.untold = map[netip.Addr]int{}
		}
		v.untold[addr] = announcements
		a.cfg.Log.Info("a load balancer's address is announced from here", "component", a.Name(), "address", addr, "link", here.name)
	}
	return nil
}

func (v *voice) silence() {
	if v.speaker != nil {
		v.speaker.close()
	}
	v.speaker, v.untold = nil, nil
}
