package servicecidr

import (
	"net/netip"
	"slices"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	finalizer = "networking.k8s.io/service-cidr-finalizer"
	// grace is how long a deleted range is looked at before it may go: an API server that has not heard of the deletion
	// may still give away one of its addresses.
	grace = 10 * time.Second
)

// judge returns a range as it should be, nil when it is; gone says that nothing keeps it any more. deleting is how long
// it has been seen to be deleted.
func judge(cidr *networkingv1.ServiceCIDR, all []networkingv1.ServiceCIDR, addresses []networkingv1.IPAddress, deleting time.Duration, now time.Time) (next *networkingv1.ServiceCIDR, gone bool) {
	condition := metav1.Condition{
		Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue,
		Message: "Kubernetes Service CIDR is ready", LastTransitionTime: metav1.NewTime(now),
	}
	if cidr.DeletionTimestamp != nil {
		if !needed(cidr, all, addresses) {
			return nil, deleting >= grace
		}
		condition.Status, condition.Reason = metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating
		condition.Message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
	}
	next = cidr.DeepCopy()
	if !meta.SetStatusCondition(&next.Status.Conditions, condition) {
		return nil, false
	}
	return next, false
}

// needed says whether an address lies in a range and in no other that stays.
func needed(cidr *networkingv1.ServiceCIDR, all []networkingv1.ServiceCIDR, addresses []networkingv1.IPAddress) bool {
	var others []netip.Prefix
	for i := range all {
		if all[i].UID != cidr.UID && all[i].DeletionTimestamp == nil {
			others = append(others, prefixes(&all[i])...)
		}
	}
	own := prefixes(cidr)
	return slices.ContainsFunc(addresses, func(a networkingv1.IPAddress) bool {
		ip, err := netip.ParseAddr(a.Name)
		return err == nil && contain(own, ip) && !contain(others, ip)
	})
}

func contain(ranges []netip.Prefix, ip netip.Addr) bool {
	return slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(ip) })
}

func prefixes(cidr *networkingv1.ServiceCIDR) []netip.Prefix {
	var out []netip.Prefix
	for _, text := range cidr.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			out = append(out, p)
		}
	}
	return out
}
