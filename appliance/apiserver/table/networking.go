package table

import (
	networkingv1 "k8s.io/api/networking/v1"

	"knarr.dev/knarr/appliance/apiserver/kinds"
	"knarr.dev/knarr/appliance/apiserver/printing"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

func networking() []resource.Row {
	v1 := networkingv1.SchemeGroupVersion
	return []resource.Row{
		{In: v1, Object: &networkingv1.Ingress{}, List: &networkingv1.IngressList{}, Plural: "ingresses", Hooks: resource.Erase(kinds.Ingress), Table: printing.Ingresses(), Short: []string{"ing"}, Namespaced: true, Status: true, Generation: true},
		{In: v1, Object: &networkingv1.IngressClass{}, List: &networkingv1.IngressClassList{}, Plural: "ingressclasses", Hooks: resource.Erase(kinds.IngressClass), Table: printing.IngressClasses(), Generation: true},
		{In: v1, Object: &networkingv1.NetworkPolicy{}, List: &networkingv1.NetworkPolicyList{}, Plural: "networkpolicies", Hooks: resource.Erase(kinds.NetworkPolicy), Table: printing.NetworkPolicies(), Short: []string{"netpol"}, Namespaced: true, Generation: true},
		{In: v1, Object: &networkingv1.IPAddress{}, List: &networkingv1.IPAddressList{}, Plural: "ipaddresses", Hooks: resource.Erase(kinds.IPAddress), Table: printing.IPAddresses(), Short: []string{"ip"}},
		{In: v1, Object: &networkingv1.ServiceCIDR{}, List: &networkingv1.ServiceCIDRList{}, Plural: "servicecidrs", Hooks: resource.Erase(kinds.ServiceCIDR), Table: printing.ServiceCIDRs(), Status: true},
	}
}
