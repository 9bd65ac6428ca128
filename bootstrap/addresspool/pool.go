// Package addresspool is addresses an operator sets aside.
//
// In:       the text of a setting.
// Out:      a Pool that knows its addresses.
// Promise:  what cannot be read is refused with what to write instead.
// Not here: who has which address (workloads/loadbalancer).
package addresspool

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Pool is the addresses that may be given to services of type LoadBalancer.
type Pool []span

// span is first to last, both included and of one family.
type span struct{ first, last netip.Addr }

// Parse reads addresses (192.0.2.7), ranges (192.0.2.10-192.0.2.20) and networks (2001:db8::/112), between commas. Of
// a network all addresses are meant: which of them are special only its owner knows.
func Parse(text string) (Pool, error) {
	var pool Pool
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		s, err := parseSpan(part)
		if err != nil {
			return nil, fmt.Errorf("%q %w: give addresses, ranges such as 192.0.2.10-192.0.2.20 or networks such as 192.0.2.16/28", part, err)
		}
		pool = append(pool, s)
	}
	return pool, nil
}

func parseSpan(text string) (span, error) {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return span{prefix.Masked().Addr(), lastOf(prefix)}, nil
	}
	from, to, ranged := strings.Cut(text, "-")
	first, err := netip.ParseAddr(strings.TrimSpace(from))
	if err != nil {
		return span{}, errors.New("is no address")
	}
	if !ranged {
		return span{first, first}, nil
	}
	last, err := netip.ParseAddr(strings.TrimSpace(to))
	switch {
	case err != nil:
		return span{}, errors.New("does not end with an address")
	case first.Is4() != last.Is4():
		return span{}, errors.New("has two families")
	case last.Less(first):
		return span{}, errors.New("ends before it begins")
	}
	return span{first, last}, nil
}

// lastOf is the highest address of a network.
func lastOf(p netip.Prefix) netip.Addr {
	raw := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(raw)*8; bit++ {
		raw[bit/8] |= 1 << (7 - bit%8)
	}
	last, _ := netip.AddrFromSlice(raw) // of the length it came with
	return last
}

func (s span) contains(ip netip.Addr) bool {
	return ip.Is4() == s.first.Is4() && !ip.Less(s.first) && !s.last.Less(ip)
}

// Contains says whether an address is in the pool.
func (p Pool) Contains(ip netip.Addr) bool {
	for _, s := range p {
		if s.contains(ip) {
			return true
		}
	}
	return false
}

// Free is the first address of a family that is not taken.
func (p Pool) Free(v6 bool, taken map[netip.Addr]bool) (netip.Addr, bool) {
	for _, s := range p {
		if s.first.Is6() != v6 {
			continue
		}
		// At most as many steps as there are addresses taken, and one.
		for ip := s.first; s.contains(ip); ip = ip.Next() {
			if !taken[ip] {
				return ip, true
			}
		}
	}
	return netip.Addr{}, false
}
