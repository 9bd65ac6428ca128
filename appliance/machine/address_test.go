package machine

import (
	"net/netip"
	"testing"

	"knarr.dev/knarr/bootstrap/config"
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
		"not while it has no address of that family":        {found: six.String(), here: map[netip.Addr]int{six: ours}},
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
			next, err := config.Addresses(tc.found)
			if err != nil {
				t.Fatal(err)
			}
			if got := moved(tc.had, next, links, tc.here, routed); got != tc.want {
				t.Errorf("moved() = %v", got)
			}
		})
	}
}

func TestGiven(t *testing.T) {
	old, six, other, fresh := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("192.0.2.7")
	cases := map[string]struct {
		next   []netip.Addr
		before map[netip.Addr]int
		want   bool
	}{
		"an address that was not here before":               {next: []netip.Addr{fresh}, before: map[netip.Addr]int{old: 1, six: 1}, want: true},
		"beside one that the machine keeps":                 {next: []netip.Addr{fresh, six}, before: map[netip.Addr]int{old: 1, six: 1}, want: true},
		"not one that was here all along":                   {next: []netip.Addr{other}, before: map[netip.Addr]int{old: 1, six: 1, other: 2}},
		"nothing is known where its own were never seen":    {next: []netip.Addr{fresh}},
		"not when only one of two was given since the move": {next: []netip.Addr{fresh, other}, before: map[netip.Addr]int{old: 1, six: 1, other: 2}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := given([]netip.Addr{old, six}, tc.next, tc.before); got != tc.want {
				t.Errorf("given() = %v", got)
			}
		})
	}
}
