package machine

import (
	"net/netip"
	"testing"
)

func TestMoved(t *testing.T) {
	const ours, others = 2, 3
	old, a, b, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8::1")
	cases := map[string]struct {
		had    []netip.Addr // only old by default
		found  string
		routed netip.Addr
		here   map[netip.Addr]int
		want   bool
	}{
		"to where the default route leaves from":            {found: a.String(), routed: a, here: map[netip.Addr]int{a: others}, want: true},
		"without a default route to its link's new address": {found: b.String(), here: map[netip.Addr]int{b: ours}, want: true},
		"not to an address that another link had all along": {found: b.String(), here: map[netip.Addr]int{b: others}},
		"not while it has no address that others reach":     {here: map[netip.Addr]int{}},
		"of two families only one is another":               {had: []netip.Addr{old, six}, found: a.String() + "," + six.String(), routed: a, here: map[netip.Addr]int{a: ours, six: ours}, want: true},
		"a family that is gone may come back":               {had: []netip.Addr{old, six}, found: old.String(), routed: old, here: map[netip.Addr]int{old: ours}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if tc.had == nil {
				tc.had = []netip.Addr{old}
			}
			links := map[netip.Addr]int{old: ours, six: ours}
			routed := func(v6 bool) netip.Addr {
				if v6 == tc.routed.Is6() {
					return tc.routed
				}
				return netip.Addr{}
			}
			if got := moved(tc.had, tc.found, links, tc.here, routed); got != tc.want {
				t.Errorf("moved() = %v", got)
			}
		})
	}
}
