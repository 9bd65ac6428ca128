package allocation

import (
	"encoding/binary"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

// space is a row of names to choose from. The first ones, below band, are for those who choose themselves; they
// are given away only when nothing else is left.
type space interface {
	size() uint64
	band() uint64
	name(i uint64) string
}

// maxSize bounds what is ever given away of a network, so that looking through it ends.
const maxSize = 1 << 20

// network is the addresses of a range without its own and, in IPv4, its broadcast address.
type network struct{ prefix netip.Prefix }

func newNetwork(prefix netip.Prefix) network { return network{prefix.Masked()} }

func (n network) family() corev1.IPFamily { return familyOf(n.prefix.Addr()) }

func (n network) size() uint64 {
	bits := n.prefix.Addr().BitLen() - n.prefix.Bits()
	if bits > 32 {
		return maxSize
	}
	all := uint64(1) << bits
	reserved := uint64(1)
	if n.prefix.Addr().Is4() {
		reserved = 2
	}
	if all <= reserved {
		return 0
	}
	return min(all-reserved, maxSize)
}

// band is a sixteenth of the range, between 16 and 256 addresses; none in ranges too small to share.
func (n network) band() uint64 {
	size := n.size()
	if size < 16 {
		return 0
	}
	return min(max(size/16, 16), 256)
}

func (n network) name(i uint64) string { return n.address(i + 1).String() }

// address is the i-th after the network's own.
func (n network) address(i uint64) netip.Addr {
	if n.prefix.Addr().Is4() {
		base := n.prefix.Addr().As4()
		var ip [4]byte
		binary.BigEndian.PutUint32(ip[:], binary.BigEndian.Uint32(base[:])+uint32(i))
		return netip.AddrFrom4(ip)
	}
	ip := n.prefix.Addr().As16()
	// The ranges given away are far smaller than the lower half, so nothing is carried over.
	binary.BigEndian.PutUint64(ip[8:], binary.BigEndian.Uint64(ip[8:])+i)
	return netip.AddrFrom16(ip)
}

// contains says whether somebody may choose an address: neither the network's own nor the broadcast address.
func (n network) contains(ip netip.Addr) bool {
	if !n.prefix.Contains(ip) || ip == n.prefix.Addr() {
		return false
	}
	if !ip.Is4() {
		return true
	}
	return ip != n.address(uint64(1)<<(32-n.prefix.Bits())-1)
}

// portRange is node ports as a space.
type portRange resource.PortRange

func (r portRange) size() uint64 { return uint64(r.Last-r.First) + 1 }

// band is a thirty-second of the range, between 16 and 128 ports; none in ranges too small to share.
func (r portRange) band() uint64 {
	size := r.size()
	if size < 32 {
		return 0
	}
	return min(max(size/32, 16), 128)
}

func (r portRange) name(i uint64) string     { return portName(r.First + int32(i)) }
func (r portRange) contains(port int32) bool { return port >= r.First && port <= r.Last }

func portName(port int32) string { return strconv.Itoa(int(port)) }

// parsePort reads what portName wrote.
func parsePort(name string) int32 {
	port, _ := strconv.ParseInt(name, 10, 32) // 0 for what is no port, which validation refuses
	return int32(port)
}
