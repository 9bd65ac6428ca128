package dump

import (
	"errors"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestWhole(t *testing.T) {
	broken := errors.New("no netlink")
	tests := map[string]struct {
		spoilt int // readings that something changes in
		then   error
		want   error
	}{
		"a quiet list is read once":             {},
		"a list that changed is read again":     {spoilt: 3},
		"one that always changes is an error":   {spoilt: attempts, want: netlink.ErrDumpInterrupted},
		"another error is not tried once again": {then: broken, want: broken},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			readings := 0
			got, err := Whole(func() ([]int, error) {
				readings++
				if readings <= tc.spoilt {
					return []int{1}, netlink.ErrDumpInterrupted
				}
				return []int{1, 2}, tc.then
			})
			if !errors.Is(err, tc.want) || tc.want == nil && len(got) != 2 {
				t.Errorf("Whole() = %v, %v; want error %v", got, err, tc.want)
			}
			if want := min(tc.spoilt+1, attempts); readings != want {
				t.Errorf("read %d times, want %d", readings, want)
			}
		})
	}
}
