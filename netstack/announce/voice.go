package announce

import (
	"context"
	"fmt"
	"maps"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/netstack/heartbeat"
)

// voice is what this node says, from pass to pass. One goroutine uses it.
type voice struct {
	announcer *Announcer
	company   company
	claimed   map[types.NamespacedName]bool // Services with addresses to announce
	serves    bool                          // the API server here answers
	speakers  map[bool]*speaker             // by family (IPv6: true), while there is something to say in it
	untold    map[netip.Addr]int            // announcements that are due
	unsettled bool                          // the last pass failed
	seen      heartbeat.View                // in the last pass
	warned    bool                          // that the API's address is on none of this node's networks
}

func newVoice(a *Announcer) *voice {
	return &voice{
		announcer: a, company: company{announcer: a},
		claimed: map[types.NamespacedName]bool{}, speakers: map[bool]*speaker{}, untold: map[netip.Addr]int{},
	}
}

// pass decides anew when something that matters has changed, and makes the announcements that are due.
func (v *voice) pass(ctx context.Context) error {
	news := v.announcer.takeChanges()
	decide := news.nodes
	v.serves = news.serves
	for key := range news.dirty {
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
	a := v.announcer
	var nodes corev1.NodeList
	if len(v.claimed) > 0 || a.cfg.API.IsValid() {
		if err := a.cfg.Nodes.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
			return fmt.Errorf("list nodes: %w", err)
		}
	}
	var districts []district
	for _, ip := range a.cfg.NodeIPs {
		d, err := v.district(ip, nodes.Items)
		if err != nil {
			return err
		}
		districts = append(districts, d)
	}
	seen := v.company.keep(ctx, nodes.Items, districts, v.serves)
	for _, d := range districts {
		if err := v.say(d, v.mine(d, seen)); err != nil {
			return err
		}
	}
	if returned(v.seen, seen) {
		v.repeat()
	}
	v.seen = seen
	return nil
}

// returned tells whether somebody is back who was gone. Behind a cable that was cut such a one may have gone on to speak, and
// neighbours have listened.
func returned(before, now heartbeat.View) bool {
	for name, p := range now.Peers {
		if before.Peers[name].Gone && !p.Gone {
			return true
		}
	}
	return false
}

// repeat what was announced.
func (v *voice) repeat() {
	for _, s := range v.speakers {
		for addr := range *s.mine.Load() {
			v.untold[addr] = announcements
		}
	}
}

// district is what is claimed on the network where this node has an address.
func (v *voice) district(ip netip.Addr, nodes []corev1.Node) (district, error) {
	a, d := v.announcer, district{ip: ip}
	wanted := map[netip.Addr]types.NamespacedName{}
	for key := range v.claimed {
		for _, addr := range addressesOf(a.view.Get(key).Service) {
			if addr.Is6() == ip.Is6() {
				wanted[addr] = key
			}
		}
	}
	api := a.cfg.API.IsValid() && a.cfg.API.Is6() == ip.Is6()
	if len(wanted) == 0 && !api {
		return d, nil
	}
	var err error
	if d.here, err = a.find(ip); err != nil {
		return d, err
	}
	able, taken := candidates(nodes, d.here.prefix), nodeAddresses(nodes)
	for addr, key := range wanted {
		entry := a.view.Get(key)
		if entry.Service == nil || !d.here.prefix.Contains(addr) || taken[addr] {
			continue // gone since it was looked at: its own news is on the way; or not to be announced on this network
		}
		d.claims = append(d.claims, claim{addr: addr, line: ranked(addr, serving(entry, able))})
	}
	if !api {
		return d, nil
	}
	if !d.here.prefix.Contains(a.cfg.API) || taken[a.cfg.API] {
		if !v.warned {
			a.cfg.Log.Warn("api-virtual-address is not announced: it has to be a free address of this machine's network",
				"component", a.Name(), "address", a.cfg.API, "network", d.here.prefix)
		}
		v.warned = true
		return d, nil
	}
	names, ready := servers(nodes, d.here.prefix, a.cfg.Node)
	d.claims = append(d.claims, claim{addr: a.cfg.API, line: ranked(a.cfg.API, names), api: true, ready: ready})
	return d, nil
}

// mine are the addresses that are spoken for from here. While it is not known who else is here, none is added: who has one
// would have to give it up at once.
func (v *voice) mine(d district, seen heartbeat.View) map[netip.Addr]bool {
	var before map[netip.Addr]bool
	if s := v.speakers[d.ip.Is6()]; s != nil {
		before = *s.mine.Load()
	}
	mine := map[netip.Addr]bool{}
	for _, c := range d.claims {
		if c.speaker(v.announcer.cfg.Node, v.serves, seen) == v.announcer.cfg.Node && (seen.Settled || before[c.addr]) {
			mine[c.addr] = true
		}
	}
	return mine
}

// say that these addresses are in a district.
func (v *voice) say(d district, mine map[netip.Addr]bool) (err error) {
	a, v6 := v.announcer, d.ip.Is6()
	s := v.speakers[v6]
	if s == nil && len(mine) == 0 {
		return nil
	}
	if s != nil && len(mine) > 0 && !s.at.same(d.here) {
		v.hush(v6)
		s = nil
	}
	if s == nil {
		if s, err = a.open(d.here); err != nil {
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
			a.cfg.Log.Info("an address is no longer announced from here", "component", a.Name(), "address", addr)
		}
	}
	for addr := range mine {
		if before[addr] {
			continue
		}
		v.untold[addr] = announcements
		a.cfg.Log.Info("an address is announced from here", "component", a.Name(), "address", addr, "link", d.here.name)
	}
	if len(mine) == 0 {
		v.hush(v6)
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

// close falls silent first: whoever hears the goodbye speaks at once.
func (v *voice) close() {
	v.silence()
	v.company.close()
}
