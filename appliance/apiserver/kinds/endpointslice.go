package kinds

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

const (
	maxEndpoints         = 1000
	maxEndpointAddresses = 100
	maxEndpointPorts     = 20000
	maxHints             = 8 // of zones, and of nodes
)

// EndpointSlice holds addresses of one family.
var EndpointSlice = resource.Hooks[*discoveryv1.EndpointSlice]{
	Validate: always(validateEndpointSlice),
	ValidateUpdate: onUpdate(validateEndpointSlice, func(slice, old *discoveryv1.EndpointSlice) field.ErrorList {
		return check.Unchanged(field.NewPath("addressType"), slice.AddressType, old.AddressType)
	}),
}

func defaultEndpointSlice(slice *discoveryv1.EndpointSlice) {
	for i := range slice.Ports {
		set.Pointer(&slice.Ports[i].Name, "")
		set.Pointer(&slice.Ports[i].Protocol, corev1.ProtocolTCP)
	}
}

func validateEndpointSlice(slice *discoveryv1.EndpointSlice) field.ErrorList {
	errs := check.OneOf(field.NewPath("addressType"), slice.AddressType, discoveryv1.AddressTypeFQDN, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6)
	base := field.NewPath("endpoints")
	if len(slice.Endpoints) > maxEndpoints {
		return append(errs, field.TooMany(base, len(slice.Endpoints), maxEndpoints))
	}
	for i, endpoint := range slice.Endpoints {
		errs = append(errs, validateEndpoint(endpoint, slice.AddressType, base.Index(i))...)
	}
	return append(errs, validateSlicePorts(slice.Ports)...)
}

func validateEndpoint(endpoint discoveryv1.Endpoint, kind discoveryv1.AddressType, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	addresses := at.Child("addresses")
	switch n := len(endpoint.Addresses); {
	case n == 0:
		errs = append(errs, field.Required(addresses, "must contain at least 1 address"))
	case n > maxEndpointAddresses:
		errs = append(errs, field.TooMany(addresses, n, maxEndpointAddresses))
	}
	for i, address := range endpoint.Addresses {
		switch kind {
		case discoveryv1.AddressTypeFQDN:
			errs = append(errs, validation.IsFullyQualifiedDomainName(addresses.Index(i), address)...)
		case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
			if bad := validation.IsValidIPForLegacyField(addresses.Index(i), address, false, nil); len(bad) > 0 {
				errs = append(errs, bad...)
				continue
			}
			if v4 := isIPv4(address); v4 != (kind == discoveryv1.AddressTypeIPv4) {
				errs = append(errs, field.Invalid(addresses.Index(i), address, fmt.Sprintf("must be an %s address", kind)))
			}
			errs = append(errs, reachable(addresses.Index(i), address)...)
		}
	}
	if endpoint.NodeName != nil {
		errs = append(errs, check.Text(at.Child("nodeName"), *endpoint.NodeName, check.Subdomain)...)
	}
	if endpoint.Hostname != nil {
		errs = append(errs, check.Text(at.Child("hostname"), *endpoint.Hostname, validation.IsDNS1123Label)...)
	}
	if endpoint.Hints != nil {
		errs = append(errs, validateHints(endpoint.Hints, at.Child("hints"))...)
	}
	return errs
}

// validateHints wants few zones and nodes, each once.
func validateHints(hints *discoveryv1.EndpointHints, at *field.Path) field.ErrorList {
	var zones, nodes []string
	for _, zone := range hints.ForZones {
		zones = append(zones, zone.Name)
	}
	for _, node := range hints.ForNodes {
		nodes = append(nodes, node.Name)
	}
	var errs field.ErrorList
	for _, list := range []struct {
		at    *field.Path
		names []string
		rule  func(string) []string
	}{{at.Child("forZones"), zones, validation.IsValidLabelValue}, {at.Child("forNodes"), nodes, check.Subdomain}} {
		if count := len(list.names); count > maxHints {
			errs = append(errs, field.TooMany(list.at, count, maxHints))
			continue
		}
		for i, name := range list.names {
			errs = append(errs, check.Text(list.at.Index(i).Child("name"), name, list.rule)...)
		}
		errs = append(errs, check.Unique(list.at, list.names, func(name string) string { return name }, "name")...)
	}
	return errs
}

func validateSlicePorts(ports []discoveryv1.EndpointPort) field.ErrorList {
	var errs field.ErrorList
	base := field.NewPath("ports")
	if len(ports) > maxEndpointPorts {
		return field.ErrorList{field.TooMany(base, len(ports), maxEndpointPorts)}
	}
	names := map[string]bool{}
	for i, port := range ports {
		at := base.Index(i)
		if port.Name != nil {
			if *port.Name != "" {
				errs = append(errs, check.Text(at.Child("name"), *port.Name, validation.IsDNS1123Label)...)
			}
			if names[*port.Name] {
				errs = append(errs, field.Duplicate(at.Child("name"), *port.Name))
			}
			names[*port.Name] = true
		}
		if port.Protocol == nil {
			errs = append(errs, field.Required(at.Child("protocol"), ""))
		} else {
			errs = append(errs, check.OneOf(at.Child("protocol"), *port.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		}
		if port.AppProtocol != nil {
			errs = append(errs, check.Text(at.Child("appProtocol"), *port.AppProtocol, validation.IsQualifiedName)...)
		}
	}
	return errs
}

func isIPv4(address string) bool {
	ip, err := netip.ParseAddr(address)
	return err == nil && ip.Unmap().Is4()
}
