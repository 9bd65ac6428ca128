package kinds

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// Endpoints is the older way to say where a service's traffic goes.
var Endpoints = resource.Hooks[*corev1.Endpoints]{Validate: always(validateEndpoints)}

func defaultEndpoints(e *corev1.Endpoints) {
	for i := range e.Subsets {
		for j := range e.Subsets[i].Ports {
			set.Default(&e.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
		}
	}
}

func validateEndpoints(e *corev1.Endpoints) field.ErrorList {
	var errs field.ErrorList
	for i, subset := range e.Subsets {
		at := field.NewPath("subsets").Index(i)
		if len(subset.Addresses)+len(subset.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(at, "must specify `addresses` or `notReadyAddresses`"))
		}
		errs = append(errs, validateEndpointAddresses(subset.Addresses, at.Child("addresses"))...)
		errs = append(errs, validateEndpointAddresses(subset.NotReadyAddresses, at.Child("notReadyAddresses"))...)
		for j, port := range subset.Ports {
			at := at.Child("ports").Index(j)
			if port.Name == "" && len(subset.Ports) > 1 {
				errs = append(errs, field.Required(at.Child("name"), ""))
			} else if port.Name != "" {
				errs = append(errs, check.Text(at.Child("name"), port.Name, validation.IsDNS1123Label)...)
			}
			errs = append(errs, check.Port(at.Child("port"), port.Port)...)
			errs = append(errs, check.OneOf(at.Child("protocol"), port.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		}
	}
	return errs
}

func validateEndpointAddresses(addresses []corev1.EndpointAddress, base *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, address := range addresses {
		at := base.Index(i)
		if bad := validation.IsValidIPForLegacyField(at.Child("ip"), address.IP, false, nil); len(bad) > 0 {
			errs = append(errs, bad...)
			continue
		}
		errs = append(errs, reachable(at.Child("ip"), address.IP)...)
		if address.Hostname != "" {
			errs = append(errs, check.Text(at.Child("hostname"), address.Hostname, validation.IsDNS1123Label)...)
		}
		if address.NodeName != nil {
			errs = append(errs, check.Text(at.Child("nodeName"), *address.NodeName, check.Subdomain)...)
		}
	}
	return errs
}
