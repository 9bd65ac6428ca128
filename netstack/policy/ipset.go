package policy

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// ipset is a set of addresses that rules of ip_tables name.
type ipset struct {
	kind    string // hash:ip, hash:ip,port, hash:net
	v6      bool
	members map[member]bool
}

func (s ipset) equal(other ipset) bool {
	return s.kind == other.kind && s.v6 == other.v6 && maps.Equal(s.members, other.members)
}

// member of a set. Protocol and port are 0 unless the set has them.
type member struct {
	prefix   netip.Prefix
	protocol uint8
	port     uint16
}

// roomiest is how many members a set may have; the kernel takes memory for those it has.
const roomiest = 1 << 20

// readSets are our sets as the kernel has them.
func readSets() (map[string]ipset, error) {
	list, err := netlink.IpsetListAll()
	if err != nil {
		return nil, fmt.Errorf("list sets: %w; network policies without nftables need a kernel with ip_set (modprobe -a ip_set_hash_ip ip_set_hash_ipport ip_set_hash_net xt_set)", err)
	}
	sets := map[string]ipset{}
	for _, part := range list { // a large set comes in parts
		if !strings.HasPrefix(part.SetName, ownerName+"-") {
			continue
		}
		set, begun := sets[part.SetName]
		if !begun {
			set = ipset{kind: part.TypeName, v6: part.Family == unix.AF_INET6, members: map[member]bool{}}
			sets[part.SetName] = set
		}
		for _, e := range part.Entries {
			if m, ok := memberOf(e); ok {
				set.members[m] = true
			}
		}
	}
	return sets, nil
}

func memberOf(e netlink.IPSetEntry) (m member, ok bool) {
	address, ok := netip.AddrFromSlice(e.IP)
	bits := address.BitLen()
	if e.CIDR != 0 {
		bits = int(e.CIDR)
	}
	m.prefix = netip.PrefixFrom(address, bits)
	if e.Port != nil && e.Protocol != nil {
		m.protocol, m.port = *e.Protocol, *e.Port
	}
	return m, ok
}

func (m member) entry() *netlink.IPSetEntry {
	e := &netlink.IPSetEntry{IP: m.prefix.Addr().AsSlice(), Replace: true} // there or gone already is as good
	if m.prefix.Bits() < m.prefix.Addr().BitLen() {
		e.CIDR = uint8(m.prefix.Bits())
	}
	if m.protocol != 0 {
		e.Protocol, e.Port = &m.protocol, &m.port
	}
	return e
}

// settleSets makes the sets that are wanted, with the members that they should have.
func settleSets(has, want map[string]ipset) error {
	for name, set := range want {
		before, there := has[name]
		if !there {
			options := netlink.IpsetCreateOptions{Replace: true, Family: unix.AF_INET, MaxElements: roomiest}
			if set.v6 {
				options.Family = unix.AF_INET6
			}
			if err := netlink.IpsetCreate(name, set.kind, options); err != nil {
				return fmt.Errorf("make set %s (%s): %w", name, set.kind, err)
			}
		}
		for m := range before.members {
			if set.members[m] {
				continue
			}
			if err := netlink.IpsetDel(name, m.entry()); err != nil {
				return fmt.Errorf("take %s from set %s: %w", m.prefix, name, err)
			}
		}
		for m := range set.members {
			if before.members[m] {
				continue
			}
			if err := netlink.IpsetAdd(name, m.entry()); err != nil {
				return fmt.Errorf("put %s into set %s: %w", m.prefix, name, err)
			}
		}
	}
	return nil
}

// dropSets destroys the sets that are not wanted any more, which no rule may name.
func dropSets(has, want map[string]ipset) error {
	var errs []error
	for name := range has {
		if _, stays := want[name]; stays {
			continue
		}
		if err := netlink.IpsetDestroy(name); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("destroy set %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// removeSets destroys all of ours; a kernel that can have none has none.
func removeSets() error {
	has, err := readSets()
	if err != nil {
		return nil
	}
	return dropSets(has, nil)
}
