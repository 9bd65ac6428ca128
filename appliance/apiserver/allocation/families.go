package allocation

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/appliance/apiserver/kinds"
)

// chooseFamilies fills ipFamilyPolicy and ipFamilies of a service as far as its author left that to the cluster,
// and cuts addresses a single-stack service has no use for. Cluster lists what the cluster has, primary first.
//
// Between one family and two a service changes only when its author says so (KEP-563): a policy that is left out is
// the one the service had, and a service that prefers two and is left alone keeps what it has when the cluster gets a
// second family.
func chooseFamilies(svc, old *corev1.Service, cluster []corev1.IPFamily) field.ErrorList {
	if !kinds.HasClusterIP(svc) || leftAlone(svc, old) {
		return nil
	}
	spec := &svc.Spec
	path := field.NewPath("spec")
	free := isHeadless(svc) && len(spec.Selector) == 0 // its endpoints are its author's, who may use any family
	switch {
	case spec.IPFamilyPolicy != nil:
	case old.Spec.IPFamilyPolicy != nil:
		spec.IPFamilyPolicy = ptr.To(*old.Spec.IPFamilyPolicy)
	case free:
		spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack)
	default:
		spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicySingleStack)
	}
	errs := shrink(svc, old)
	single := *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
	if single && len(spec.ClusterIPs) > 1 {
		errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified"))
	}
	if single && len(spec.IPFamilies) > 1 {
		errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"))
	}
	errs = append(errs, familiesOfAddresses(spec, cluster, free)...)
	if len(errs) > 0 {
		return errs
	}
	available := cluster
	if free {
		available = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	}
	if *spec.IPFamilyPolicy == corev1.IPFamilyPolicyRequireDualStack && len(available) < 2 {
		errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, "this cluster is not configured for dual-stack services"))
	}
	for i, family := range spec.IPFamilies {
		if !slices.Contains(available, family) {
			errs = append(errs, field.Invalid(path.Child("ipFamilies").Index(i), family, "not configured on this cluster"))
		}
	}
	if len(errs) > 0 {
		return errs
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = cluster[:1:1]
	}
	if !single {
		spec.IPFamilies = withOther(spec.IPFamilies, available)
	}
	return nil
}

// leftAlone is true of an update that says nothing new about a service that prefers two families.
func leftAlone(svc, old *corev1.Service) bool {
	prefers := func(s *corev1.Service) bool {
		return ptr.Deref(s.Spec.IPFamilyPolicy, "") == corev1.IPFamilyPolicyPreferDualStack
	}
	return prefers(svc) && prefers(old) && kinds.HasClusterIP(old) && len(old.Spec.ClusterIPs) > 0 &&
		slices.Equal(svc.Spec.ClusterIPs, old.Spec.ClusterIPs) && slices.Equal(svc.Spec.IPFamilies, old.Spec.IPFamilies)
}

// familiesOfAddresses lets addresses that were asked for decide their families, unless those were asked for as well.
func familiesOfAddresses(spec *corev1.ServiceSpec, cluster []corev1.IPFamily, free bool) field.ErrorList {
	path := field.NewPath("spec", "clusterIPs")
	var errs field.ErrorList
	for i, address := range spec.ClusterIPs {
		ip, err := netip.ParseAddr(address)
		if err != nil {
			continue // None, or validation's to report
		}
		family := familyOf(ip)
		switch {
		case i < len(spec.IPFamilies) && spec.IPFamilies[i] != family:
			errs = append(errs, field.Invalid(path.Index(i), address, fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%d]`", spec.IPFamilies[i], i)))
		case i < len(spec.IPFamilies):
		case i > 0 && slices.Contains(spec.IPFamilies, family):
			errs = append(errs, field.Invalid(path, spec.ClusterIPs, "may specify no more than one IP for each IP family"))
		case !free && !slices.Contains(cluster, family):
			errs = append(errs, field.Invalid(path.Index(i), spec.ClusterIPs, string(family)+" is not configured on this cluster"))
		default:
			spec.IPFamilies = append(spec.IPFamilies, family)
		}
	}
	return errs
}

// shrink lets a client turn a dual-stack service into a single-stack one by its policy alone, and by nothing else.
func shrink(svc, old *corev1.Service) field.ErrorList {
	spec, was := &svc.Spec, &old.Spec
	if *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack {
		if len(spec.ClusterIPs) > 1 && slices.Equal(spec.ClusterIPs, was.ClusterIPs) {
			spec.ClusterIPs = spec.ClusterIPs[:1]
		}
		if len(spec.IPFamilies) > 1 && slices.Equal(spec.IPFamilies, was.IPFamilies) {
			spec.IPFamilies = spec.IPFamilies[:1]
		}
		return nil
	}
	var errs field.ErrorList
	path := field.NewPath("spec", "ipFamilyPolicy")
	if len(was.ClusterIPs) > 1 && len(spec.ClusterIPs) == 1 {
		errs = append(errs, field.Invalid(path, *spec.IPFamilyPolicy, "must be 'SingleStack' to release the secondary cluster IP"))
	}
	if len(was.IPFamilies) > 1 && len(spec.IPFamilies) == 1 {
		errs = append(errs, field.Invalid(path, *spec.IPFamilyPolicy, "must be 'SingleStack' to release the secondary IP family"))
	}
	return errs
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
