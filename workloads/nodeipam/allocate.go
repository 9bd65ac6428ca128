package nodeipam

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// nodeBits is the size of one node's range: 254 pods, more than a node should run.
const nodeBits = 24

// allocate is the lowest free /24 of cluster that overlaps none of taken.
func allocate(cluster netip.Prefix, taken []netip.Prefix) (netip.Prefix, error) {
	cluster = cluster.Masked()
	if !cluster.Addr().Is4() || cluster.Bits() > nodeBits {
		return netip.Prefix{}, fmt.Errorf("cluster CIDR %s has no room for a /%d: give an IPv4 range of /%d or larger", cluster, nodeBits, nodeBits)
	}
	used := map[netip.Addr]bool{}
	var wide []netip.Prefix // what another configuration handed out, or a hand wrote
	for _, p := range taken {
		if p.Bits() == nodeBits {
			used[p.Masked().Addr()] = true
		} else {
			wide = append(wide, p)
		}
	}
	base := binary.BigEndian.Uint32(cluster.Addr().AsSlice())
	for i := range uint32(1) << (nodeBits - cluster.Bits()) {
		var raw [4]byte
		binary.BigEndian.PutUint32(raw[:], base+i<<(32-nodeBits))
		candidate := netip.PrefixFrom(netip.AddrFrom4(raw), nodeBits)
		if used[candidate.Addr()] || overlapsAny(candidate, wide) {
			continue
		}
		return candidate, nil
	}
	return netip.Prefix{}, fmt.Errorf("cluster CIDR %s is used up by %d nodes: remove nodes that are gone, or start with a larger --cluster-cidr", cluster, len(taken))
}

func overlapsAny(p netip.Prefix, others []netip.Prefix) bool {
	for _, other := range others {
		if p.Overlaps(other) {
			return true
		}
	}
	return false
}
