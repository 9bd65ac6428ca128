package kinds

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

const (
	agentPort           = 10250 // the node agent's, which a load balancer must not open to the world
	defaultStickySecond = 3 * 60 * 60
	maxStickySeconds    = 24 * 60 * 60
)

// Service is validated after its addresses and node ports were allocated (appliance/apiserver/allocation).
var Service = resource.Hooks[*corev1.Service]{
	Warnings: hints(serviceHints),
	PrepareUpdate: func(_ context.Context, svc, old *corev1.Service) {
		KeepAllocated(svc, old)
		dropOutgrown(svc, old)
	},
	Validate: always(validateService),
	ValidateUpdate: onUpdate(validateService, func(svc, old *corev1.Service) field.ErrorList {
		errs := addressesStay(svc, old)
		if loadBalanced(svc) && loadBalanced(old) {
			errs = append(errs, check.Unchanged(specPath.Child("loadBalancerClass"), svc.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass)...)
		}
		return errs
	}),
	ValidateStatus: func(_ context.Context, svc, _ *corev1.Service) field.ErrorList { return validateServiceStatus(svc) },
	ValidateName:   apivalidation.NameIsDNSLabel,
	Fields: func(svc *corev1.Service) fields.Set {
		return fields.Set{"spec.clusterIP": svc.Spec.ClusterIP, "spec.type": string(svc.Spec.Type)}
	},
}

// HasClusterIP says whether a service of this type has an address (or says None).
func HasClusterIP(svc *corev1.Service) bool { return svc.Spec.Type != corev1.ServiceTypeExternalName }

// HasNodePorts says whether a service of this type has a port on every node.
func HasNodePorts(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeNodePort ||
		loadBalanced(svc) && (svc.Spec.AllocateLoadBalancerNodePorts == nil || *svc.Spec.AllocateLoadBalancerNodePorts)
}

// HasHealthPort says whether load balancers ask nodes if they have endpoints.
func HasHealthPort(svc *corev1.Service) bool {
	return loadBalanced(svc) && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func loadBalanced(svc *corev1.Service) bool { return svc.Spec.Type == corev1.ServiceTypeLoadBalancer }

func mayHaveNodePorts(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeNodePort || loadBalanced(svc)
}

func external(svc *corev1.Service) bool {
	return mayHaveNodePorts(svc) || svc.Spec.Type == corev1.ServiceTypeClusterIP && len(svc.Spec.ExternalIPs) > 0
}

func defaultService(svc *corev1.Service) {
	spec := &svc.Spec
	set.Default(&spec.SessionAffinity, corev1.ServiceAffinityNone)
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		spec.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		set.Pointer(&spec.SessionAffinityConfig, corev1.SessionAffinityConfig{})
		set.Pointer(&spec.SessionAffinityConfig.ClientIP, corev1.ClientIPConfig{})
		set.Pointer(&spec.SessionAffinityConfig.ClientIP.TimeoutSeconds, int32(defaultStickySecond))
	}
	set.Default(&spec.Type, corev1.ServiceTypeClusterIP)
	for i := range spec.Ports {
		port := &spec.Ports[i]
		set.Default(&port.Protocol, corev1.ProtocolTCP)
		if port.TargetPort == intstr.FromInt32(0) || port.TargetPort == intstr.FromString("") {
			port.TargetPort = intstr.FromInt32(port.Port)
		}
	}
	if external(svc) {
		set.Default(&spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if HasClusterIP(svc) {
		set.Pointer(&spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if loadBalanced(svc) {
		set.Pointer(&spec.AllocateLoadBalancerNodePorts, true)
		for i := range svc.Status.LoadBalancer.Ingress {
			if ingress := &svc.Status.LoadBalancer.Ingress[i]; ingress.IP != "" {
				set.Pointer(&ingress.IPMode, corev1.LoadBalancerIPModeVIP)
			}
		}
	}
}

// KeepAllocated gives a client that replaces a service without naming what was allocated the same again.
func KeepAllocated(svc, old *corev1.Service) {
	if HasClusterIP(svc) && HasClusterIP(old) {
		set.Default(&svc.Spec.ClusterIP, old.Spec.ClusterIP)
		if len(svc.Spec.ClusterIPs) == 0 && svc.Spec.ClusterIP == old.Spec.ClusterIP {
			svc.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	}
	if HasNodePorts(svc) && HasNodePorts(old) {
		ports := map[string]int32{}
		for _, port := range old.Spec.Ports {
			ports[portKey(port)] = port.NodePort
		}
		used := map[int32]bool{}
		for _, port := range svc.Spec.Ports {
			used[port.NodePort] = true
		}
		for i := range svc.Spec.Ports {
			port := &svc.Spec.Ports[i]
			if kept := ports[portKey(*port)]; port.NodePort == 0 && !used[kept] {
				port.NodePort = kept
			}
		}
	}
	if HasHealthPort(svc) && HasHealthPort(old) {
		set.Default(&svc.Spec.HealthCheckNodePort, old.Spec.HealthCheckNodePort)
	}
	MatchClusterIPs(svc, old)
}

func portKey(port corev1.ServicePort) string { return fmt.Sprintf("%s/%d", port.Protocol, port.Port) }

// MatchClusterIPs keeps clusterIP and clusterIPs[0] the same: clients set the one they know. Old is nil on create.
func MatchClusterIPs(svc, old *corev1.Service) {
	if old == nil {
		if svc.Spec.ClusterIP != "" && len(svc.Spec.ClusterIPs) == 0 {
			svc.Spec.ClusterIPs = []string{svc.Spec.ClusterIP}
		}
		return
	}
	oneChanged := svc.Spec.ClusterIP != old.Spec.ClusterIP
	listSame := slices.Equal(svc.Spec.ClusterIPs, old.Spec.ClusterIPs)
	switch {
	case old.Spec.ClusterIP == "" && svc.Spec.ClusterIP != "" && len(svc.Spec.ClusterIPs) == 0:
		svc.Spec.ClusterIPs = []string{svc.Spec.ClusterIP}
	case oneChanged && svc.Spec.ClusterIP == "" && listSame:
		svc.Spec.ClusterIPs = nil
	case oneChanged && listSame && svc.Spec.ClusterIP != "":
		svc.Spec.ClusterIPs = []string{svc.Spec.ClusterIP}
	}
}

// dropOutgrown removes what the new type has no use for, provided the client merely left it as it was.
func dropOutgrown(svc, old *corev1.Service) {
	if HasClusterIP(old) && !HasClusterIP(svc) && slices.Equal(svc.Spec.ClusterIPs, old.Spec.ClusterIPs) {
		svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "", nil
		svc.Spec.IPFamilies, svc.Spec.IPFamilyPolicy, svc.Spec.InternalTrafficPolicy = nil, nil, nil
	}
	if HasNodePorts(old) && !mayHaveNodePorts(svc) {
		previous := map[int32]bool{}
		for _, port := range old.Spec.Ports {
			previous[port.NodePort] = true
		}
		for i := range svc.Spec.Ports {
			if previous[svc.Spec.Ports[i].NodePort] {
				svc.Spec.Ports[i].NodePort = 0
			}
		}
	}
	if HasHealthPort(old) && !HasHealthPort(svc) && svc.Spec.HealthCheckNodePort == old.Spec.HealthCheckNodePort {
		svc.Spec.HealthCheckNodePort = 0
	}
	if loadBalanced(old) && !loadBalanced(svc) {
		svc.Spec.AllocateLoadBalancerNodePorts, svc.Spec.LoadBalancerClass = nil, nil
	}
	if external(old) && !external(svc) && svc.Spec.ExternalTrafficPolicy == old.Spec.ExternalTrafficPolicy {
		svc.Spec.ExternalTrafficPolicy = ""
	}
	if !loadBalanced(svc) {
		svc.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
}

func addressesStay(svc, old *corev1.Service) field.ErrorList {
	if !HasClusterIP(svc) || !HasClusterIP(old) {
		return nil
	}
	var errs field.ErrorList
	if len(old.Spec.ClusterIPs) > 0 {
		at := specPath.Child("clusterIPs").Index(0)
		switch {
		case len(svc.Spec.ClusterIPs) == 0:
			errs = append(errs, field.Invalid(at, svc.Spec.ClusterIPs, "primary clusterIP can not be unset"))
		case svc.Spec.ClusterIPs[0] != old.Spec.ClusterIPs[0]:
			errs = append(errs, field.Invalid(at, svc.Spec.ClusterIPs, "may not change once set"))
		}
	}
	if len(old.Spec.ClusterIPs) > 1 && len(svc.Spec.ClusterIPs) > 1 && svc.Spec.ClusterIPs[1] != old.Spec.ClusterIPs[1] {
		errs = append(errs, field.Invalid(specPath.Child("clusterIPs").Index(1), svc.Spec.ClusterIPs, "may not change once set"))
	}
	if len(old.Spec.IPFamilies) > 0 {
		at := specPath.Child("ipFamilies").Index(0)
		switch {
		case len(svc.Spec.IPFamilies) == 0:
			errs = append(errs, field.Invalid(at, svc.Spec.IPFamilies, "primary ipFamily can not be unset"))
		case svc.Spec.IPFamilies[0] != old.Spec.IPFamilies[0]:
			errs = append(errs, field.Invalid(at, svc.Spec.IPFamilies, "may not change once set"))
		}
	}
	if len(old.Spec.IPFamilies) > 1 && len(svc.Spec.IPFamilies) > 1 && svc.Spec.IPFamilies[1] != old.Spec.IPFamilies[1] {
		errs = append(errs, field.Invalid(specPath.Child("ipFamilies").Index(1), svc.Spec.IPFamilies, "may not change once set"))
	}
	return errs
}

func headless(svc *corev1.Service) bool {
	return len(svc.Spec.ClusterIPs) == 1 && svc.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

func validateService(svc *corev1.Service) field.ErrorList {
	spec := &svc.Spec
	errs := check.OneOf(specPath.Child("type"), spec.Type, corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)
	if len(spec.Ports) == 0 && HasClusterIP(svc) && !headless(svc) {
		errs = append(errs, field.Required(specPath.Child("ports"), ""))
	}
	switch spec.Type {
	case corev1.ServiceTypeLoadBalancer:
		for i, port := range spec.Ports {
			if port.Port == agentPort {
				errs = append(errs, field.Invalid(specPath.Child("ports").Index(i), port.Port, fmt.Sprintf("may not expose port %v externally since it is used by kubelet", agentPort)))
			}
		}
		if headless(svc) {
			errs = append(errs, field.Invalid(specPath.Child("clusterIPs").Index(0), corev1.ClusterIPNone, "may not be set to 'None' for LoadBalancer services"))
		}
	case corev1.ServiceTypeNodePort:
		if headless(svc) {
			errs = append(errs, field.Invalid(specPath.Child("clusterIPs").Index(0), corev1.ClusterIPNone, "may not be set to 'None' for NodePort services"))
		}
	case corev1.ServiceTypeExternalName:
		if len(spec.ClusterIPs) > 0 {
			errs = append(errs, field.Forbidden(specPath.Child("clusterIPs"), "may not be set for ExternalName services"))
		}
		if name := strings.TrimSuffix(spec.ExternalName, "."); name == "" {
			errs = append(errs, field.Required(specPath.Child("externalName"), ""))
		} else {
			errs = append(errs, check.Text(specPath.Child("externalName"), name, validation.IsDNS1123Subdomain)...)
		}
	}
	errs = append(errs, validateServicePorts(svc)...)
	errs = append(errs, metavalidation.ValidateLabels(spec.Selector, specPath.Child("selector"))...)
	errs = append(errs, validateAffinity(spec)...)
	errs = append(errs, validateClusterIPs(svc)...)
	for i, address := range spec.ExternalIPs {
		at := specPath.Child("externalIPs").Index(i)
		if bad := validation.IsValidIPForLegacyField(at, address, false, nil); len(bad) > 0 {
			errs = append(errs, bad...)
			continue
		}
		errs = append(errs, reachable(at, address)...)
	}
	errs = append(errs, validateBalancing(svc)...)
	return append(errs, validateTraffic(svc)...)
}

// reachable refuses addresses that never leave a machine or a link.
func reachable(at *field.Path, address string) field.ErrorList {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return nil // already reported
	}
	var reasons []string
	if ip.IsUnspecified() {
		reasons = append(reasons, "may not be unspecified (0.0.0.0 or ::)")
	}
	if ip.IsLoopback() {
		reasons = append(reasons, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
	}
	if ip.IsLinkLocalUnicast() {
		reasons = append(reasons, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
	}
	if ip.IsLinkLocalMulticast() {
		reasons = append(reasons, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
	}
	var errs field.ErrorList
	for _, reason := range reasons {
		errs = append(errs, field.Invalid(at, address, reason))
	}
	return errs
}

func validateServicePorts(svc *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	names, numbers, nodePorts := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for i, port := range svc.Spec.Ports {
		at := specPath.Child("ports").Index(i)
		switch {
		case port.Name == "" && len(svc.Spec.Ports) > 1:
			errs = append(errs, field.Required(at.Child("name"), ""))
		case port.Name != "":
			errs = append(errs, check.Text(at.Child("name"), port.Name, validation.IsDNS1123Label)...)
			if names[port.Name] {
				errs = append(errs, field.Duplicate(at.Child("name"), port.Name))
			}
			names[port.Name] = true
		}
		errs = append(errs, check.Port(at.Child("port"), port.Port)...)
		errs = append(errs, check.OneOf(at.Child("protocol"), port.Protocol, corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		errs = append(errs, check.PortNumberOrName(at.Child("targetPort"), port.TargetPort)...)
		if port.AppProtocol != nil {
			errs = append(errs, check.Text(at.Child("appProtocol"), *port.AppProtocol, validation.IsQualifiedName)...)
		}
		if key := portKey(port); numbers[key] {
			errs = append(errs, field.Duplicate(at, corev1.ServicePort{Protocol: port.Protocol, Port: port.Port}))
		} else {
			numbers[key] = true
		}
		if port.NodePort == 0 {
			continue
		}
		if !mayHaveNodePorts(svc) {
			errs = append(errs, field.Forbidden(at.Child("nodePort"), fmt.Sprintf("may not be used when `type` is '%s'", svc.Spec.Type)))
		}
		key := fmt.Sprintf("%s/%d", port.Protocol, port.NodePort)
		if nodePorts[key] {
			errs = append(errs, field.Duplicate(at.Child("nodePort"), port.NodePort))
		}
		nodePorts[key] = true
	}
	return errs
}

func validateAffinity(spec *corev1.ServiceSpec) field.ErrorList {
	errs := check.OneOf(specPath.Child("sessionAffinity"), spec.SessionAffinity, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	at := specPath.Child("sessionAffinityConfig")
	if spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		if spec.SessionAffinityConfig != nil {
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("must not be set when session affinity is %s", corev1.ServiceAffinityNone)))
		}
		return errs
	}
	config := spec.SessionAffinityConfig
	if config == nil || config.ClientIP == nil || config.ClientIP.TimeoutSeconds == nil {
		return append(errs, field.Required(at, fmt.Sprintf("when session affinity type is %s", corev1.ServiceAffinityClientIP)))
	}
	if seconds := *config.ClientIP.TimeoutSeconds; seconds <= 0 || seconds > maxStickySeconds {
		errs = append(errs, field.Invalid(at.Child("clientIP", "timeoutSeconds"), seconds, fmt.Sprintf("must be greater than 0 and less than %d", maxStickySeconds)))
	}
	return errs
}

// validateClusterIPs checks the shape of addresses and families; whether they are free was allocation's business.
func validateClusterIPs(svc *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	at := specPath.Child("clusterIPs")
	ips := svc.Spec.ClusterIPs
	if svc.Spec.ClusterIP != "" && len(ips) == 0 {
		errs = append(errs, field.Required(at, ""))
	}
	if len(ips) > 0 && svc.Spec.ClusterIP != ips[0] {
		errs = append(errs, field.Invalid(at, ips, "first value must match `clusterIP`"))
	}
	if len(ips) > 2 {
		errs = append(errs, field.Invalid(at, ips, "may only hold up to 2 values"))
	}
	for i, address := range ips {
		if address == corev1.ClusterIPNone {
			if len(ips) > 1 {
				errs = append(errs, field.Invalid(at, ips, "'None' must be the first and only value"))
			}
			continue
		}
		errs = append(errs, validation.IsValidIPForLegacyField(at.Index(i), address, false, nil)...)
	}
	families := specPath.Child("ipFamilies")
	errs = append(errs, check.Unique(families, svc.Spec.IPFamilies, func(f corev1.IPFamily) corev1.IPFamily { return f }, "")...)
	for i, family := range svc.Spec.IPFamilies {
		errs = append(errs, check.OneOf(families.Index(i), family, corev1.IPv4Protocol, corev1.IPv6Protocol)...)
	}
	errs = append(errs, check.OneOfOptional(specPath.Child("ipFamilyPolicy"), svc.Spec.IPFamilyPolicy,
		corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)...)
	if !HasClusterIP(svc) {
		if len(svc.Spec.IPFamilies) > 0 {
			errs = append(errs, field.Forbidden(families, "may not be set for ExternalName services"))
		}
		if svc.Spec.IPFamilyPolicy != nil {
			errs = append(errs, field.Forbidden(specPath.Child("ipFamilyPolicy"), "may not be set for ExternalName services"))
		}
	}
	return errs
}

func validateBalancing(svc *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	spec := &svc.Spec
	const only = "may only be used when `type` is 'LoadBalancer'"
	if len(spec.LoadBalancerSourceRanges) > 0 {
		at := specPath.Child("loadBalancerSourceRanges")
		if !loadBalanced(svc) {
			errs = append(errs, field.Forbidden(at, only))
		}
		for i, cidr := range spec.LoadBalancerSourceRanges {
			errs = append(errs, validation.IsValidCIDRForLegacyField(at.Index(i), strings.TrimSpace(cidr), false, nil)...)
		}
	}
	switch {
	case loadBalanced(svc) && spec.AllocateLoadBalancerNodePorts == nil:
		errs = append(errs, field.Required(specPath.Child("allocateLoadBalancerNodePorts"), ""))
	case !loadBalanced(svc) && spec.AllocateLoadBalancerNodePorts != nil:
		errs = append(errs, field.Forbidden(specPath.Child("allocateLoadBalancerNodePorts"), only))
	}
	if class := spec.LoadBalancerClass; class != nil {
		if !loadBalanced(svc) {
			errs = append(errs, field.Forbidden(specPath.Child("loadBalancerClass"), only))
		}
		errs = append(errs, check.Text(specPath.Child("loadBalancerClass"), *class, validation.IsQualifiedName)...)
	}
	return errs
}

func validateTraffic(svc *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	spec := &svc.Spec
	at := specPath.Child("externalTrafficPolicy")
	if external(svc) {
		errs = append(errs, check.OneOf(at, spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	} else if spec.ExternalTrafficPolicy != "" {
		errs = append(errs, field.Invalid(at, spec.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
	}
	if port := spec.HealthCheckNodePort; port != 0 {
		at := specPath.Child("healthCheckNodePort")
		if !HasHealthPort(svc) {
			errs = append(errs, field.Invalid(at, port, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
		}
		errs = append(errs, check.Port(at, port)...)
	}
	if policy := specPath.Child("internalTrafficPolicy"); !HasClusterIP(svc) {
		errs = append(errs, check.OneOfOptional(policy, spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	} else if spec.InternalTrafficPolicy == nil {
		errs = append(errs, field.Required(policy, ""))
	} else {
		errs = append(errs, check.OneOf(policy, *spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	}
	if spec.TrafficDistribution != nil {
		errs = append(errs, check.OneOf(specPath.Child("trafficDistribution"), *spec.TrafficDistribution,
			corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)...)
	}
	return errs
}

func validateServiceStatus(svc *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	base := statusPath.Child("loadBalancer", "ingress")
	if !loadBalanced(svc) && len(svc.Status.LoadBalancer.Ingress) > 0 {
		return field.ErrorList{field.Forbidden(base, "may only be used when `spec.type` is \"LoadBalancer\"")}
	}
	for i, ingress := range svc.Status.LoadBalancer.Ingress {
		if ingress.IP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(base.Index(i).Child("ip"), ingress.IP, false, nil)...)
		}
		if ingress.Hostname != "" {
			errs = append(errs, check.Text(base.Index(i).Child("hostname"), ingress.Hostname, validation.IsDNS1123Subdomain)...)
		}
		errs = append(errs, check.OneOfOptional(base.Index(i).Child("ipMode"), ingress.IPMode, corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy)...)
	}
	return errs
}
