package overlay

import (
	"cmp"
	"net"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Peer is one node as the overlay sees it: its pods, in one or both families, and the address that packets for them are
// sent to. The first range names its tunnel's end.
type Peer struct {
	Node    string         `json:"node"`
	Ranges  []netip.Prefix `json:"ranges"`
	Address netip.Addr     `json:"address"`
	Key     string         `json:"key,omitempty"` // public, of WireGuard; "" before the node published one
}

func (p Peer) equal(o Peer) bool {
	return p.Node == o.Node && p.Address == o.Address && p.Key == o.Key && slices.Equal(p.Ranges, o.Ranges)
}

// overlaps says whether two nodes claim the same addresses.
func (p Peer) overlaps(o Peer) bool {
	return slices.ContainsFunc(p.Ranges, func(r netip.Prefix) bool { return slices.ContainsFunc(o.Ranges, r.Overlaps) })
}

// view is what this node knows: itself and the others, in the order of their names.
type view struct {
	Self   Peer   `json:"self"`
	Others []Peer `json:"others"`
}

func (v view) equal(other view) bool {
	return v.Self.equal(other.Self) && slices.EqualFunc(v.Others, other.Others, Peer.equal)
}

// look makes a view of the nodes. Without a range or an address this node takes no part yet: ok is false. Others that
// have none are left out, and so are those that contradict: a range that overlaps an earlier one, an address that is
// this node's.
func look(nodes []corev1.Node, self string) (v view, ok bool) {
	for i := range nodes {
		if nodes[i].Name == self {
			v.Self, ok = peerOf(&nodes[i], func(netip.Addr) bool { return true })
		}
	}
	if !ok {
		return view{}, false
	}
	sameFamily := func(a netip.Addr) bool { return a.Is4() == v.Self.Address.Is4() }
	var others []Peer
	for i := range nodes {
		peer, complete := peerOf(&nodes[i], sameFamily)
		if complete && peer.Node != self && peer.Address != v.Self.Address && !peer.overlaps(v.Self) {
			others = append(others, peer)
		}
	}
	slices.SortFunc(others, func(a, b Peer) int { return cmp.Compare(a.Node, b.Node) })
	for _, peer := range others {
		if !slices.ContainsFunc(v.Others, peer.overlaps) {
			v.Others = append(v.Others, peer)
		}
	}
	return v, true
}

func peerOf(node *corev1.Node, usable func(netip.Addr) bool) (Peer, bool) {
	peer := Peer{Node: node.Name, Key: node.Annotations[KeyAnnotation]}
	for _, text := range append(slices.Clone(node.Spec.PodCIDRs), node.Spec.PodCIDR) {
		r, err := netip.ParsePrefix(text)
		sameFamily := func(o netip.Prefix) bool { return o.Addr().Is4() == r.Addr().Is4() }
		if err == nil && !slices.ContainsFunc(peer.Ranges, sameFamily) {
			peer.Ranges = append(peer.Ranges, r.Masked())
		}
	}
	for _, a := range node.Status.Addresses {
		if address, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP && usable(address.Unmap()) {
			peer.Address = address.Unmap()
			break
		}
	}
	return peer, len(peer.Ranges) > 0 && peer.Address.IsValid()
}

// hardware is an Ethernet address, as a key.
type hardware [6]byte

func (h hardware) addr() net.HardwareAddr { return h[:] }

// tunnelEnd is a node's own address in the overlay: the network address of its range, which no pod gets.
func tunnelEnd(podRange netip.Prefix) netip.Addr { return podRange.Masked().Addr() }

// hardwareOf is the Ethernet address of a tunnel's end. It follows from the range, so that nodes need not tell each other. Of
// IPv6 the middle is taken, in which the nodes of a cluster differ.
func hardwareOf(podRange netip.Prefix) hardware {
	if podRange.Addr().Is4() {
		a := tunnelEnd(podRange).As4()
		return hardware{0x0a, 0x6b, a[0], a[1], a[2], a[3]}
	}
	a := tunnelEnd(podRange).As16()
	return hardware{0x0a, 0x6c, a[4], a[5], a[6], a[7]}
}

// tables are the kernel's tables of one link. A packet for a pod of another node goes through all three: the route
// names the tunnel's end, the neighbour its Ethernet address, the forwarding entry the machine.
type tables struct {
	routes     map[netip.Prefix]netip.Addr
	neighbours map[netip.Addr]hardware
	forwarding map[hardware]netip.Addr
}

// plan is what the tables should hold, in the families that this node's own pods have. Ranges in elsewhere have another way.
func plan(others []Peer, self Peer, elsewhere map[netip.Prefix]route) tables {
	t := tables{map[netip.Prefix]netip.Addr{}, map[netip.Addr]hardware{}, map[hardware]netip.Addr{}}
	for _, peer := range others {
		mac := hardwareOf(peer.Ranges[0])
		for _, r := range self.shared(peer) {
			if _, has := elsewhere[r]; has {
				continue
			}
			t.forwarding[mac] = peer.Address
			t.routes[r] = tunnelEnd(r)
			t.neighbours[tunnelEnd(r)] = mac
		}
	}
	return t
}

// shared are the ranges of a peer in families that this node's pods have as well.
func (p Peer) shared(peer Peer) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(peer.Ranges), func(r netip.Prefix) bool {
		return !slices.ContainsFunc(p.Ranges, func(own netip.Prefix) bool { return own.Addr().Is4() == r.Addr().Is4() })
	})
}

// direct are the ways to peers whose machines are on a network of the link with this node's address. A next hop has the
// family of what it is the next hop for.
func direct(v view, at place) map[netip.Prefix]route {
	ways := map[netip.Prefix]route{}
	for _, peer := range v.Others {
		near := slices.ContainsFunc(at.networks, func(n netip.Prefix) bool { return n.Contains(peer.Address) })
		for _, r := range v.Self.shared(peer) {
			if near && r.Addr().Is4() == peer.Address.Is4() {
				ways[r] = route{via: peer.Address, link: at.link}
			}
		}
	}
	return ways
}

// difference is what has to be set and what has to go, to make want of have.
func difference[K, V comparable](want, have map[K]V) (set map[K]V, remove []K) {
	set = map[K]V{}
	for key, value := range want {
		if present, ok := have[key]; !ok || present != value {
			set[key] = value
		}
	}
	for key := range have {
		if _, ok := want[key]; !ok {
			remove = append(remove, key)
		}
	}
	return set, remove
}
