package proxy

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRefill(t *testing.T) {
	cases := map[string]struct {
		slots, pool []netip.AddrPort
		want        []netip.AddrPort
		changed     []int
	}{
		"the first endpoints": {
			pool: pool("10.0.0.1:1", "10.0.0.2:1"), want: pool("10.0.0.1:1", "10.0.0.2:1"), changed: []int{0, 1},
		},
		"the same ones stay where they are": {
			slots: pool("10.0.0.2:1", "10.0.0.1:1"), pool: pool("10.0.0.1:1", "10.0.0.2:1"), want: pool("10.0.0.2:1", "10.0.0.1:1"),
		},
		"one more goes to the end": {
			slots: pool("10.0.0.2:1", "10.0.0.3:1"), pool: pool("10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"),
			want: pool("10.0.0.2:1", "10.0.0.3:1", "10.0.0.1:1"), changed: []int{2},
		},
		"one for another takes its slot": {
			slots: pool("10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"), pool: pool("10.0.0.1:1", "10.0.0.3:1", "10.0.0.4:1"),
			want: pool("10.0.0.1:1", "10.0.0.4:1", "10.0.0.3:1"), changed: []int{1},
		},
		"the last one fills the gap of one that goes": {
			slots: pool("10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"), pool: pool("10.0.0.2:1", "10.0.0.3:1"),
			want: pool("10.0.0.3:1", "10.0.0.2:1"), changed: []int{0},
		},
		"all go": {slots: pool("10.0.0.1:1"), want: pool()},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			after, changed := refill(tc.slots, tc.pool)
			if diff := cmp.Diff(tc.want, after, same...); diff != "" {
				t.Errorf("slots (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.changed, changed); diff != "" {
				t.Errorf("changed slots (-want +got):\n%s", diff)
			}
		})
	}
}
