package overlay

import (
	"cmp"
	"net"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Peer is one node as the overlay sees it: its pods, and the address that packets for them are sent to.
type Peer struct {
	Node    string       `json:"node"`
	Range   netip.Prefix `json:"range"`
	Address netip.Addr   `json:"address"`
}

// view is what this node knows: itself and the others, in the order of their names.
type view struct {
	Self   Peer   `json:"self"`
	Others []Peer `json:"others"`
}

func (v view) equal(other view) bool {
	return v.Self == other.Self && slices.Equal(v.Others, other.Others)
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
		if complete && peer.Node != self && peer.Address != v.Self.Address && !peer.Range.Overlaps(v.Self.Range) {
			others = append(others, peer)
		}
	}
	slices.SortFunc(others, func(a, b Peer) int { return cmp.Compare(a.Node, b.Node) })
	for _, peer := range others {
		if !slices.ContainsFunc(v.Others, func(earlier Peer) bool { return earlier.Range.Overlaps(peer.Range) }) {
			v.Others = append(v.Others, peer)
		}
	}
	return v, true
}

func peerOf(node *corev1.Node, usable func(netip.Addr) bool) (Peer, bool) {
	peer := Peer{Node: node.Name}
	for _, text := range append(slices.Clone(node.Spec.PodCIDRs), node.Spec.PodCIDR) {
		if podRange, err := netip.ParsePrefix(text); err == nil && podRange.Addr().Is4() {
			peer.Range = podRange.Masked()
			break
		}
	}
	for _, a := range node.Status.Addresses {
		if address, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP && usable(address.Unmap()) {
			peer.Address = address.Unmap()
			break
		}
	}
	return peer, peer.Range.IsValid() && peer.Address.IsValid()
}

// hardware is an Ethernet address, as a key.
type hardware [6]byte

func (h hardware) addr() net.HardwareAddr { return h[:] }

// tunnelEnd is a node's own address in the overlay: the network address of its range, which no pod gets.
func tunnelEnd(podRange netip.Prefix) netip.Addr { return podRange.Masked().Addr() }

// hardwareOf is the Ethernet address of a tunnel's end. It follows from the range, so that nodes need not tell each other.
func hardwareOf(podRange netip.Prefix) hardware {
	a := tunnelEnd(podRange).As4()
	return hardware{0x0a, 0x6b, a[0], a[1], a[2], a[3]}
}

// tables are the kernel's tables of one link. A packet for a pod of another node goes through all three: the route
// names the tunnel's end, the neighbour its Ethernet address, the forwarding entry the machine.
type tables struct {
	routes     map[netip.Prefix]netip.Addr
	neighbours map[netip.Addr]hardware
	forwarding map[hardware]netip.Addr
}

// plan is what the tables should hold.
func plan(others []Peer) tables {
	t := tables{map[netip.Prefix]netip.Addr{}, map[netip.Addr]hardware{}, map[hardware]netip.Addr{}}
	for _, peer := range others {
		end, mac := tunnelEnd(peer.Range), hardwareOf(peer.Range)
		t.routes[peer.Range] = end
		t.neighbours[end] = mac
		t.forwarding[mac] = peer.Address
	}
	return t
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
