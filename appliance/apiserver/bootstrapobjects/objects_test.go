package bootstrapobjects

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAddressesOf(t *testing.T) {
	tests := map[string]struct {
		present []string
		own     string
		want    []string
	}{
		"alone":                            {own: "10.0.0.2", present: []string{"10.0.0.2"}, want: []string{"10.0.0.2"}},
		"before anybody was asked":         {own: "10.0.0.2", want: []string{"10.0.0.2"}},
		"others, as numbers are in order":  {own: "10.0.0.10", present: []string{"10.0.0.10", "10.0.0.9"}, want: []string{"10.0.0.9", "10.0.0.10"}},
		"what is no address is left out":   {own: "10.0.0.2", present: []string{"health", "10.0.0.1"}, want: []string{"10.0.0.1", "10.0.0.2"}},
		"another family is another's list": {own: "fd00::1", present: []string{"10.0.0.1", "fd00::2"}, want: []string{"fd00::1", "fd00::2"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, addressesOf(tc.present, netip.MustParseAddr(tc.own))); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
		})
	}
}
