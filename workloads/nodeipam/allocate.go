package nodeipam

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// The sizes of one node's ranges: 254 pods, more than a node should run, and what a network of IPv6 always has.
const (
	nodeBits4 = 24
	nodeBits6 = 64
)

// most bounds how many ranges of a network are ever looked at.
const most = 1 << 20

// allocate is the lowest free range for a node in cluster that overlaps none of taken.
func allocate(cluster netip.Prefix, taken []netip.Prefix) (netip.Prefix, error) {
	cluster = cluster.Masked()
	bits := nodeBits(cluster)
	if cluster.Bits() > bits {
		return netip.Prefix{}, fmt.Errorf("cluster CIDR %s has no room for a /%d: give a range of /%d or larger", cluster, bits, bits)
	}
	used := map[netip.Addr]bool{}
	var wide []netip.Prefix // what another configuration handed out, or a hand wrote
	for _, p := range taken {
		if p.Bits() == bits {
			used[p.Masked().Addr()] = true
		} else {
			wide = append(wide, p)
		}
	}
	for i := range min(uint64(1)<<min(bits-cluster.Bits(), 63), most) {
		candidate := nth(cluster, bits, i)
		if !used[candidate.Addr()] && !overlapsAny(candidate, wide) {
			return candidate, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("cluster CIDR %s is used up by %d nodes: remove nodes that are gone, or start with a larger --cluster-cidr", cluster, len(taken))
}

func nodeBits(cluster netip.Prefix) int {
	if cluster.Addr().Is4() {
		return nodeBits4
	}
	return nodeBits6
}

// nth is the i-th range of that size in a network.
func nth(network netip.Prefix, bits int, i uint64) netip.Prefix {
	raw := network.Addr().AsSlice()
	if len(raw) == 4 {
		binary.BigEndian.PutUint32(raw, binary.BigEndian.Uint32(raw)+uint32(i)<<(32-bits))
	} else {
		// A node's range is the lower half of an address, or more.
		binary.BigEndian.PutUint64(raw, binary.BigEndian.Uint64(raw)+i<<(64-bits))
	}
	address, _ := netip.AddrFromSlice(raw) // of the length it came with
	return netip.PrefixFrom(address, bits)
}

func overlapsAny(p netip.Prefix, others []netip.Prefix) bool {
	for _, other := range others {
		if p.Overlaps(other) {
			return true
		}
	}
	return false
}
