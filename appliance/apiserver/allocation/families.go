package allocation

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/appliance/apiserver/kinds"
)

// chooseFamilies fills ipFamilyPolicy and ipFamilies of a service as far as its author left that to the cluster,
// and cuts addresses a single-stack service has no use for. Cluster lists what the cluster has, primary first.
func chooseFamilies(svc, old *corev1.Service, cluster []corev1.IPFamily) field.ErrorList {
	if !kinds.HasClusterIP(svc) {
		return nil
	}
	spec := &svc.Spec
	path := field.NewPath("spec")
	shrink(svc, old)

	// Addresses that were asked for decide their families.
	for i, address := range spec.ClusterIPs {
		ip, err := netip.ParseAddr(address)
		if err != nil {
			continue // None, or validation's to report
		}
		family := familyOf(ip)
		if i < len(spec.IPFamilies) {
			if spec.IPFamilies[i] != family {
				return field.ErrorList{field.Invalid(path.Child("clusterIPs").Index(i), spec.ClusterIPs, "expected an "+string(spec.IPFamilies[i])+" value as indicated by `ipFamilies["+string(rune('0'+i))+"]`")}
			}
			continue
		}
		spec.IPFamilies = append(spec.IPFamilies, family)
	}
	if isHeadless(svc) && len(spec.Selector) == 0 {
		// Its endpoints are its author's, who may use any family.
		chooseFree(spec, cluster)
		return nil
	}
	if spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		if len(spec.IPFamilies) > 1 || len(spec.ClusterIPs) > 1 {
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		spec.IPFamilyPolicy = &policy
	}
	for i, family := range spec.IPFamilies {
		if !slices.Contains(cluster, family) {
			return field.ErrorList{field.Invalid(path.Child("ipFamilies").Index(i), family, "not configured on this cluster")}
		}
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = cluster[:1:1]
	}
	switch *spec.IPFamilyPolicy {
	case corev1.IPFamilyPolicySingleStack:
		if len(spec.IPFamilies) > 1 {
			return field.ErrorList{field.Invalid(path.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, "may not be SingleStack when multiple IP families are specified")}
		}
	case corev1.IPFamilyPolicyRequireDualStack:
		if len(cluster) < 2 {
			return field.ErrorList{field.Invalid(path.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services")}
		}
		spec.IPFamilies = withOther(spec.IPFamilies, cluster)
	case corev1.IPFamilyPolicyPreferDualStack:
		spec.IPFamilies = withOther(spec.IPFamilies, cluster)
	}
	return nil
}

// shrink lets a client turn a dual-stack service into a single-stack one by its policy alone.
func shrink(svc, old *corev1.Service) {
	spec := &svc.Spec
	single := ptr.Deref(spec.IPFamilyPolicy, "") == corev1.IPFamilyPolicySingleStack
	was := ptr.Deref(old.Spec.IPFamilyPolicy, corev1.IPFamilyPolicySingleStack)
	if !single || was == corev1.IPFamilyPolicySingleStack {
		return
	}
	if len(spec.ClusterIPs) > 1 && slices.Equal(spec.ClusterIPs, old.Spec.ClusterIPs) {
		spec.ClusterIPs = spec.ClusterIPs[:1]
	}
	if len(spec.IPFamilies) > 1 && slices.Equal(spec.IPFamilies, old.Spec.IPFamilies) {
		spec.IPFamilies = spec.IPFamilies[:1]
	}
}

func chooseFree(spec *corev1.ServiceSpec, cluster []corev1.IPFamily) {
	if spec.IPFamilyPolicy == nil {
		spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack)
		if len(spec.IPFamilies) == 1 {
			spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicySingleStack)
		}
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = cluster[:1:1]
	}
	if *spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		spec.IPFamilies = withOther(spec.IPFamilies, []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol})
	}
}

func withOther(families, all []corev1.IPFamily) []corev1.IPFamily {
	for _, family := range all {
		if !slices.Contains(families, family) {
			families = append(slices.Clip(families), family)
		}
	}
	return families
}

func familyOf(ip netip.Addr) corev1.IPFamily {
	if ip.Unmap().Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}
