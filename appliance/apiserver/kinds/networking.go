package kinds

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// NetworkPolicy names pods and who may talk with them.
var NetworkPolicy = resource.Hooks[*networkingv1.NetworkPolicy]{Validate: always(validateNetworkPolicy)}

func defaultNetworkPolicy(p *networkingv1.NetworkPolicy) {
	if len(p.Spec.PolicyTypes) == 0 {
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(p.Spec.Egress) > 0 {
			p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	ports := func(ports []networkingv1.NetworkPolicyPort) {
		for i := range ports {
			set.Pointer(&ports[i].Protocol, corev1.ProtocolTCP)
		}
	}
	for i := range p.Spec.Ingress {
		ports(p.Spec.Ingress[i].Ports)
	}
	for i := range p.Spec.Egress {
		ports(p.Spec.Egress[i].Ports)
	}
}

func validateNetworkPolicy(p *networkingv1.NetworkPolicy) field.ErrorList {
	errs := check.Selector(specPath.Child("podSelector"), &p.Spec.PodSelector)
	for i, rule := range p.Spec.Ingress {
		at := specPath.Child("ingress").Index(i)
		errs = append(errs, validatePolicyRule(rule.Ports, rule.From, at, "from")...)
	}
	for i, rule := range p.Spec.Egress {
		at := specPath.Child("egress").Index(i)
		errs = append(errs, validatePolicyRule(rule.Ports, rule.To, at, "to")...)
	}
	if n := len(p.Spec.PolicyTypes); n > 2 {
		return append(errs, field.Invalid(specPath.Child("policyTypes"), p.Spec.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, kind := range p.Spec.PolicyTypes {
		errs = append(errs, check.OneOf(specPath.Child("policyTypes").Index(i), kind, networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)...)
	}
	return errs
}

func validatePolicyRule(ports []networkingv1.NetworkPolicyPort, peers []networkingv1.NetworkPolicyPeer, at *field.Path, direction string) field.ErrorList {
	var errs field.ErrorList
	for i, port := range ports {
		at := at.Child("ports").Index(i)
		errs = append(errs, check.OneOfOptional(at.Child("protocol"), port.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
		if port.Port != nil {
			errs = append(errs, check.PortNumberOrName(at.Child("port"), *port.Port)...)
		}
		if end := port.EndPort; end != nil {
			switch {
			case port.Port == nil:
				errs = append(errs, field.Required(at.Child("endPort"), "must be specified with a port"))
			case port.Port.StrVal != "":
				errs = append(errs, field.Invalid(at.Child("endPort"), *end, "may not be specified when `port` is non-numeric"))
			case *end < port.Port.IntVal:
				errs = append(errs, field.Invalid(at.Child("endPort"), *end, "must be greater than or equal to `port`"))
			}
			errs = append(errs, check.Port(at.Child("endPort"), *end)...)
		}
	}
	for i, peer := range peers {
		errs = append(errs, validatePeer(peer, at.Child(direction).Index(i))...)
	}
	return errs
}

func validatePeer(peer networkingv1.NetworkPolicyPeer, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for name, selector := range map[string]*metav1.LabelSelector{"podSelector": peer.PodSelector, "namespaceSelector": peer.NamespaceSelector} {
		if selector != nil {
			errs = append(errs, check.Selector(at.Child(name), selector)...)
		}
	}
	selects := peer.PodSelector != nil || peer.NamespaceSelector != nil
	switch {
	case !selects && peer.IPBlock == nil:
		errs = append(errs, field.Required(at, "must specify a peer"))
	case selects && peer.IPBlock != nil:
		errs = append(errs, field.Forbidden(at, "may not specify both ipBlock and another peer"))
	case peer.IPBlock != nil:
		errs = append(errs, validateIPBlock(peer.IPBlock, at.Child("ipBlock"))...)
	}
	return errs
}

func validateIPBlock(block *networkingv1.IPBlock, at *field.Path) field.ErrorList {
	if block.CIDR == "" {
		return field.ErrorList{field.Required(at.Child("cidr"), "")}
	}
	errs := validation.IsValidCIDRForLegacyField(at.Child("cidr"), block.CIDR, false, nil)
	outer, err := netip.ParsePrefix(block.CIDR)
	if err != nil {
		return errs
	}
	for i, except := range block.Except {
		at := at.Child("except").Index(i)
		errs = append(errs, validation.IsValidCIDRForLegacyField(at, except, false, nil)...)
		inner, err := netip.ParsePrefix(except)
		if err == nil && (!outer.Contains(inner.Addr()) || inner.Bits() <= outer.Bits()) {
			errs = append(errs, field.Invalid(at, except, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}

// Ingress routes by host and path.
var Ingress = resource.Hooks[*networkingv1.Ingress]{Warnings: hints(ingressHints), Validate: always(validateIngress)}

func validateIngress(i *networkingv1.Ingress) field.ErrorList {
	var errs field.ErrorList
	if len(i.Spec.Rules) == 0 && i.Spec.DefaultBackend == nil {
		errs = append(errs, field.Invalid(specPath, i.Spec.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if class := i.Spec.IngressClassName; class != nil {
		errs = append(errs, check.Text(specPath.Child("ingressClassName"), *class, check.Subdomain)...)
	}
	if i.Spec.DefaultBackend != nil {
		errs = append(errs, validateBackend(i.Spec.DefaultBackend, specPath.Child("defaultBackend"))...)
	}
	for j, tls := range i.Spec.TLS {
		for k, host := range tls.Hosts {
			errs = append(errs, check.Text(specPath.Child("tls").Index(j).Child("hosts").Index(k), host, hostRule(host))...)
		}
		if tls.SecretName != "" {
			errs = append(errs, check.Text(specPath.Child("tls").Index(j).Child("secretName"), tls.SecretName, check.Subdomain)...)
		}
	}
	for j, rule := range i.Spec.Rules {
		at := specPath.Child("rules").Index(j)
		if rule.Host != "" {
			if _, err := netip.ParseAddr(rule.Host); err == nil {
				errs = append(errs, field.Invalid(at.Child("host"), rule.Host, "must be a DNS name, not an IP address"))
			}
			errs = append(errs, check.Text(at.Child("host"), rule.Host, hostRule(rule.Host))...)
		}
		if rule.HTTP != nil {
			errs = append(errs, validatePaths(rule.HTTP.Paths, at.Child("http", "paths"))...)
		}
	}
	return errs
}

func hostRule(host string) func(string) []string {
	if strings.Contains(host, "*") {
		return validation.IsWildcardDNS1123Subdomain
	}
	return validation.IsDNS1123Subdomain
}

// confusing are parts of a path that proxies read differently.
var confusing = []string{"//", "/./", "/../", "%2f", "%2F"}

func validatePaths(paths []networkingv1.HTTPIngressPath, base *field.Path) field.ErrorList {
	if len(paths) == 0 {
		return field.ErrorList{field.Required(base, "")}
	}
	var errs field.ErrorList
	for i, path := range paths {
		at := base.Index(i)
		if path.PathType == nil {
			errs = append(errs, field.Required(at.Child("pathType"), "pathType must be specified"))
			continue
		}
		switch *path.PathType {
		case networkingv1.PathTypeExact, networkingv1.PathTypePrefix:
			if !strings.HasPrefix(path.Path, "/") {
				errs = append(errs, field.Invalid(at.Child("path"), path.Path, "must be an absolute path"))
			}
			for _, part := range confusing {
				if strings.Contains(path.Path, part) {
					errs = append(errs, field.Invalid(at.Child("path"), path.Path, "must not contain '"+part+"'"))
				}
			}
			if strings.HasSuffix(path.Path, "/..") || strings.HasSuffix(path.Path, "/.") {
				errs = append(errs, field.Invalid(at.Child("path"), path.Path, "cannot end with '"+path.Path[strings.LastIndex(path.Path, "/"):]+"'"))
			}
		case networkingv1.PathTypeImplementationSpecific:
			if path.Path != "" && !strings.HasPrefix(path.Path, "/") {
				errs = append(errs, field.Invalid(at.Child("path"), path.Path, "must be an absolute path"))
			}
		default:
			errs = append(errs, check.OneOf(at.Child("pathType"), *path.PathType, networkingv1.PathTypeExact, networkingv1.PathTypePrefix, networkingv1.PathTypeImplementationSpecific)...)
		}
		errs = append(errs, validateBackend(&path.Backend, at.Child("backend"))...)
	}
	return errs
}

func validateBackend(b *networkingv1.IngressBackend, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case b.Resource != nil && b.Service != nil:
		errs = append(errs, field.Invalid(at, "", "cannot set both resource and service backends"))
	case b.Resource != nil:
		at := at.Child("resource")
		if group := b.Resource.APIGroup; group != nil {
			errs = append(errs, check.Text(at.Child("apiGroup"), *group, validation.IsDNS1123Subdomain)...)
		}
		errs = append(errs, check.Needed(at.Child("kind"), b.Resource.Kind, path.IsValidPathSegmentName)...)
		errs = append(errs, check.Needed(at.Child("name"), b.Resource.Name, path.IsValidPathSegmentName)...)
	case b.Service != nil:
		errs = append(errs, check.Needed(at.Child("service", "name"), b.Service.Name, validation.IsDNS1123Label)...)
		port := at.Child("service", "port")
		switch p := b.Service.Port; {
		case p.Name != "" && p.Number != 0:
			errs = append(errs, field.Invalid(at, "", "cannot set both port name & port number"))
		case p.Name != "":
			errs = append(errs, check.Text(port.Child("name"), p.Name, validation.IsValidPortName)...)
		case p.Number != 0:
			errs = append(errs, check.Port(port.Child("number"), p.Number)...)
		default:
			errs = append(errs, field.Required(at, "port name or number is required"))
		}
	default:
		errs = append(errs, field.Invalid(at, "", "resource or service backend is required"))
	}
	return errs
}

// IngressClass never changes its controller.
var IngressClass = resource.Hooks[*networkingv1.IngressClass]{
	Validate: always(func(c *networkingv1.IngressClass) field.ErrorList {
		at := specPath.Child("controller")
		if c.Spec.Controller == "" {
			return append(validateParameters(c), field.Required(at, ""))
		}
		return append(validation.IsDomainPrefixedPath(at, c.Spec.Controller), validateParameters(c)...)
	}),
	ValidateUpdate: onUpdate(validateParameters, func(c, old *networkingv1.IngressClass) field.ErrorList {
		return check.Unchanged(specPath.Child("controller"), c.Spec.Controller, old.Spec.Controller)
	}),
}

// validateParameters wants a namespace if the parameters are in one, and none otherwise.
func validateParameters(c *networkingv1.IngressClass) field.ErrorList {
	p, at := c.Spec.Parameters, specPath.Child("parameters")
	if p == nil {
		return nil
	}
	var errs field.ErrorList
	if p.APIGroup != nil {
		errs = append(errs, check.Text(at.Child("apiGroup"), *p.APIGroup, validation.IsDNS1123Subdomain)...)
	}
	errs = append(errs, check.Needed(at.Child("kind"), p.Kind, path.IsValidPathSegmentName)...)
	errs = append(errs, check.Needed(at.Child("name"), p.Name, path.IsValidPathSegmentName)...)
	namespace := at.Child("namespace")
	switch scope := ptr.Deref(p.Scope, ""); scope {
	case "":
		errs = append(errs, field.Required(at.Child("scope"), ""))
	case networkingv1.IngressClassParametersReferenceScopeCluster:
		if p.Namespace != nil {
			errs = append(errs, field.Forbidden(namespace, "`parameters.scope` is set to 'Cluster'"))
		}
	case networkingv1.IngressClassParametersReferenceScopeNamespace:
		if p.Namespace == nil {
			errs = append(errs, field.Required(namespace, "`parameters.scope` is set to 'Namespace'"))
		} else {
			errs = append(errs, check.Text(namespace, *p.Namespace, validation.IsDNS1123Label)...)
		}
	default:
		errs = append(errs, field.NotSupported(at.Child("scope"), scope, []string{networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace}))
	}
	return errs
}

func defaultIngressClass(c *networkingv1.IngressClass) {
	if c.Spec.Parameters != nil {
		set.Pointer(&c.Spec.Parameters.Scope, networkingv1.IngressClassParametersReferenceScopeCluster)
	}
}

// IPAddress is named after the address it reserves, in its one canonical spelling.
var IPAddress = resource.Hooks[*networkingv1.IPAddress]{
	Validate: always(func(a *networkingv1.IPAddress) field.ErrorList {
		ref := a.Spec.ParentRef
		at := specPath.Child("parentRef")
		if ref == nil {
			return field.ErrorList{field.Required(at, "")}
		}
		var errs field.ErrorList
		if ref.Group != "" {
			errs = append(errs, check.Text(at.Child("group"), ref.Group, validation.IsDNS1123Subdomain)...)
		}
		errs = append(errs, check.Needed(at.Child("resource"), ref.Resource, path.IsValidPathSegmentName)...)
		errs = append(errs, check.Needed(at.Child("name"), ref.Name, path.IsValidPathSegmentName)...)
		return append(errs, check.Text(at.Child("namespace"), ref.Namespace, path.IsValidPathSegmentName)...)
	}),
	ValidateUpdate: onUpdate(func(*networkingv1.IPAddress) field.ErrorList { return nil }, func(a, old *networkingv1.IPAddress) field.ErrorList {
		return check.Unchanged(specPath.Child("parentRef"), a.Spec.ParentRef, old.Spec.ParentRef)
	}),
	ValidateName: func(name string, _ bool) []string {
		if ip, err := netip.ParseAddr(name); err != nil || ip.String() != name {
			return []string{"must be a valid IP address in canonical form"}
		}
		return nil
	},
}

// ServiceCIDR may gain a family but keep what it has.
var ServiceCIDR = resource.Hooks[*networkingv1.ServiceCIDR]{
	Validate: always(validateServiceCIDR),
	ValidateUpdate: onUpdate(validateServiceCIDR, func(c, old *networkingv1.ServiceCIDR) field.ErrorList {
		if len(c.Spec.CIDRs) < len(old.Spec.CIDRs) || !slices.Equal(c.Spec.CIDRs[:len(old.Spec.CIDRs)], old.Spec.CIDRs) {
			return field.ErrorList{field.Invalid(specPath.Child("cidrs"), c.Spec.CIDRs, "field is immutable")}
		}
		return nil
	}),
}

func validateServiceCIDR(c *networkingv1.ServiceCIDR) field.ErrorList {
	at := specPath.Child("cidrs")
	switch n := len(c.Spec.CIDRs); {
	case n == 0:
		return field.ErrorList{field.Required(at, "at least one CIDR required")}
	case n > 2:
		return field.ErrorList{field.Invalid(at, c.Spec.CIDRs, "may only hold up to 2 values")}
	}
	var errs field.ErrorList
	for i, cidr := range c.Spec.CIDRs {
		errs = append(errs, validation.IsValidCIDR(at.Index(i), cidr)...)
	}
	return errs
}
