package allocation

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func TestNetwork(t *testing.T) {
	tests := map[string]struct {
		cidr              string
		size, band        uint64
		first, last       string
		refused, accepted []string
	}{
		"a large range keeps 256 addresses for those who choose": {
			cidr: "10.43.0.0/16", size: 65534, band: 256, first: "10.43.0.1", last: "10.43.255.254",
			refused: []string{"10.43.0.0", "10.43.255.255", "10.44.0.1"}, accepted: []string{"10.43.0.1", "10.43.0.10", "10.43.255.254"},
		},
		"a range of 254 addresses keeps 16": {
			cidr: "192.168.7.0/24", size: 254, band: 16, first: "192.168.7.1", last: "192.168.7.254",
			refused: []string{"192.168.7.255"}, accepted: []string{"192.168.7.254"},
		},
		"a tiny range keeps none": {
			cidr: "10.0.0.0/29", size: 6, band: 0, first: "10.0.0.1", last: "10.0.0.6",
		},
		"an IPv6 range has no broadcast address": {
			cidr: "fd00::/120", size: 255, band: 16, first: "fd00::1", last: "fd00::ff",
			refused: []string{"fd00::", "fd01::1"}, accepted: []string{"fd00::ff"},
		},
		"of an endless range only a part is given away": {
			cidr: "fd00::/64", size: maxSize, band: 256, first: "fd00::1", last: "fd00::10:0",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			n := newNetwork(netip.MustParsePrefix(tc.cidr))
			if n.size() != tc.size || n.band() != tc.band {
				t.Errorf("size %d, band %d; want %d, %d", n.size(), n.band(), tc.size, tc.band)
			}
			if first, last := n.name(0), n.name(n.size()-1); first != tc.first || last != tc.last {
				t.Errorf("from %s to %s; want %s to %s", first, last, tc.first, tc.last)
			}
			for _, address := range tc.refused {
				if n.contains(netip.MustParseAddr(address)) {
					t.Errorf("%s may be chosen", address)
				}
			}
			for _, address := range tc.accepted {
				if !n.contains(netip.MustParseAddr(address)) {
					t.Errorf("%s may not be chosen", address)
				}
			}
		})
	}
}

func TestCandidatesComeOnceAndTheBandLast(t *testing.T) {
	var order []uint64
	for i := range candidates(6, 2, 3) {
		order = append(order, i)
	}
	if diff := cmp.Diff([]uint64{5, 2, 3, 4, 0, 1}, order); diff != "" {
		t.Errorf("candidates (-want +got):\n%s", diff)
	}
}

func TestChooseFamilies(t *testing.T) {
	single, dual := []corev1.IPFamily{corev1.IPv4Protocol}, []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	tests := map[string]struct {
		spec     corev1.ServiceSpec
		old      corev1.ServiceSpec
		cluster  []corev1.IPFamily
		families []corev1.IPFamily
		policy   corev1.IPFamilyPolicy
		wrong    string
	}{
		"a service that says nothing gets the cluster's first family": {
			cluster: dual, families: single, policy: corev1.IPFamilyPolicySingleStack,
		},
		"one that prefers two gets what there is": {
			spec: corev1.ServiceSpec{IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyPreferDualStack)}, cluster: single, families: single, policy: corev1.IPFamilyPolicyPreferDualStack,
		},
		"one that requires two gets both": {
			spec: corev1.ServiceSpec{IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyRequireDualStack)}, cluster: dual, families: dual, policy: corev1.IPFamilyPolicyRequireDualStack,
		},
		"one that requires two is refused where there is one": {
			spec: corev1.ServiceSpec{IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyRequireDualStack)}, cluster: single, wrong: "this cluster is not configured for dual-stack services",
		},
		"an address decides its family": {
			spec: corev1.ServiceSpec{ClusterIPs: []string{"fd00::7"}}, cluster: dual, families: []corev1.IPFamily{corev1.IPv6Protocol}, policy: corev1.IPFamilyPolicySingleStack,
		},
		"a family the cluster has not is refused": {
			spec: corev1.ServiceSpec{IPFamilies: []corev1.IPFamily{corev1.IPv6Protocol}}, cluster: single, wrong: "not configured on this cluster",
		},
		"a headless service without a selector may use any family": {
			spec: corev1.ServiceSpec{ClusterIPs: []string{corev1.ClusterIPNone}}, cluster: single, families: dual, policy: corev1.IPFamilyPolicyRequireDualStack,
		},
		"a selector makes a headless service like others": {
			spec: corev1.ServiceSpec{ClusterIPs: []string{corev1.ClusterIPNone}, Selector: map[string]string{"app": "web"}}, cluster: single, families: single, policy: corev1.IPFamilyPolicySingleStack,
		},
		"two families need a policy of two": {
			spec: corev1.ServiceSpec{IPFamilies: dual}, cluster: dual, wrong: "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
		},
		"two addresses need a policy of two": {
			spec: corev1.ServiceSpec{ClusterIPs: []string{"10.0.0.1", "fd00::1"}}, cluster: dual, wrong: "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified",
		},
		"two addresses of one family are refused": {
			spec: corev1.ServiceSpec{IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyRequireDualStack), ClusterIPs: []string{"10.0.0.1", "10.0.0.2"}}, cluster: dual,
			wrong: "may specify no more than one IP for each IP family",
		},
		"an address of a family the cluster has not is refused": {
			spec: corev1.ServiceSpec{ClusterIPs: []string{"fd00::7"}}, cluster: single, wrong: "IPv6 is not configured on this cluster",
		},
		"an address of another family than was said is refused": {
			spec: corev1.ServiceSpec{ClusterIPs: []string{"fd00::7"}, IPFamilies: single}, cluster: dual, wrong: "expected an IPv4 value as indicated by `ipFamilies[0]`",
		},
		"one that prefers two may put the second family first": {
			spec:    corev1.ServiceSpec{IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyPreferDualStack), IPFamilies: []corev1.IPFamily{corev1.IPv6Protocol}},
			cluster: dual, families: []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}, policy: corev1.IPFamilyPolicyPreferDualStack,
		},
		"a policy that is left out is the one it had": {
			spec: corev1.ServiceSpec{ClusterIPs: []string{"10.0.0.1", "fd00::1"}},
			old:  corev1.ServiceSpec{IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyPreferDualStack), IPFamilies: dual, ClusterIPs: []string{"10.0.0.1", "fd00::1"}}, cluster: dual,
			families: dual, policy: corev1.IPFamilyPolicyPreferDualStack,
		},
		"one that prefers two and is left alone keeps the one it has": {
			spec: corev1.ServiceSpec{IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyPreferDualStack), IPFamilies: single, ClusterIPs: []string{"10.0.0.1"}},
			old:  corev1.ServiceSpec{IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyPreferDualStack), IPFamilies: single, ClusterIPs: []string{"10.0.0.1"}}, cluster: dual,
			families: single, policy: corev1.IPFamilyPolicyPreferDualStack,
		},
		"a new policy adds the second family": {
			spec: corev1.ServiceSpec{IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyPreferDualStack), IPFamilies: single, ClusterIPs: []string{"10.0.0.1"}},
			old:  corev1.ServiceSpec{IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicySingleStack), IPFamilies: single, ClusterIPs: []string{"10.0.0.1"}}, cluster: dual,
			families: dual, policy: corev1.IPFamilyPolicyPreferDualStack,
		},
		"the second address goes by the policy only": {
			spec: corev1.ServiceSpec{IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyPreferDualStack), IPFamilies: dual, ClusterIPs: []string{"10.0.0.1"}},
			old:  corev1.ServiceSpec{IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyPreferDualStack), IPFamilies: dual, ClusterIPs: []string{"10.0.0.1", "fd00::1"}}, cluster: dual,
			wrong: "must be 'SingleStack' to release the secondary cluster IP",
		},
		"a policy of one cuts what two left": {
			spec: corev1.ServiceSpec{IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicySingleStack), IPFamilies: dual, ClusterIPs: []string{"10.0.0.1", "fd00::1"}},
			old:  corev1.ServiceSpec{IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyRequireDualStack), IPFamilies: dual, ClusterIPs: []string{"10.0.0.1", "fd00::1"}}, cluster: dual,
			families: single, policy: corev1.IPFamilyPolicySingleStack,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			svc, old := &corev1.Service{Spec: tc.spec}, &corev1.Service{Spec: tc.old}
			svc.Spec.Type, old.Spec.Type = corev1.ServiceTypeClusterIP, corev1.ServiceTypeClusterIP
			errs := chooseFamilies(svc, old, slices.Clip(tc.cluster))
			if tc.wrong != "" {
				if len(errs) != 1 || !strings.Contains(errs[0].Detail, tc.wrong) {
					t.Fatalf("errors = %v, want %q", errs, tc.wrong)
				}
				return
			}
			if len(errs) > 0 {
				t.Fatalf("errors = %v", errs)
			}
			if diff := cmp.Diff(tc.families, svc.Spec.IPFamilies); diff != "" || *svc.Spec.IPFamilyPolicy != tc.policy {
				t.Errorf("policy %s, want %s; families (-want +got):\n%s", *svc.Spec.IPFamilyPolicy, tc.policy, diff)
			}
		})
	}
}
