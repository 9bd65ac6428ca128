package bootstrapobjects

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"
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

func TestTheServiceCIDRGainsAFamily(t *testing.T) {
	four, six := "10.43.0.0/16", "fd43::/112"
	tests := map[string]struct{ have, want, after []string }{
		"the cluster has gained a family": {have: []string{four}, want: []string{four, six}, after: []string{four, six}},
		"nothing has changed":             {have: []string{four, six}, want: []string{four, six}, after: []string{four, six}},
		"a family is not taken away":      {have: []string{four, six}, want: []string{four}, after: []string{four, six}},
		"nor is one exchanged":            {have: []string{four}, want: []string{six}, after: []string{four}},
		"nor made the second":             {have: []string{four}, want: []string{six, four}, after: []string{four}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			have := &networkingv1.ServiceCIDR{Spec: networkingv1.ServiceCIDRSpec{CIDRs: slices.Clone(tc.have)}}
			want := &networkingv1.ServiceCIDR{Spec: networkingv1.ServiceCIDRSpec{CIDRs: tc.want}}
			changed := healServiceCIDR(have, want)
			if diff := cmp.Diff(tc.after, have.Spec.CIDRs); diff != "" || changed == slices.Equal(tc.have, tc.after) {
				t.Errorf("healed %v (-want +got):\n%s", changed, diff)
			}
		})
	}
}
