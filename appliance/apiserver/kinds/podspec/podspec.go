// Package podspec holds the rules of pods and of the pod templates inside workloads.
//
// In:       a pod, a template, or a spec as a client sent it.
// Out:      the same with every default filled in; field errors; the quality-of-service class.
// Promise:  a template that passes makes pods that pass.
// Not here: what happens to a pod when it is written (kinds), what admission changes (admission).
package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
)

// These bound what goes into a container's resolv.conf.
const (
	maxNameservers   = 3
	maxSearchDomains = 32
	maxSearchChars   = 2048
)

// ValidateTemplate reports what is wrong with a pod template.
func ValidateTemplate(template *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	errs := metavalidation.ValidateLabels(template.Labels, path.Child("labels"))
	errs = append(errs, apivalidation.ValidateAnnotations(template.Annotations, path.Child("annotations"))...)
	errs = append(errs, Validate(&template.Spec, &template.ObjectMeta, path.Child("spec"))...)
	if len(template.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(path.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}

// Validate reports what is wrong with a complete pod spec.
func Validate(spec *corev1.PodSpec, meta *metav1.ObjectMeta, path *field.Path) field.ErrorList {
	volumes, errs := validateVolumes(spec.Volumes, meta, path.Child("volumes"))
	errs = append(errs, validateContainers(spec, volumes, path)...)

	errs = append(errs, check.OneOf(path.Child("restartPolicy"), spec.RestartPolicy,
		corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)...)
	errs = append(errs, check.OneOf(path.Child("dnsPolicy"), spec.DNSPolicy,
		corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)...)
	errs = append(errs, validateDNSConfig(spec.DNSConfig, spec.DNSPolicy, path.Child("dnsConfig"))...)
	errs = append(errs, metavalidation.ValidateLabels(spec.NodeSelector, path.Child("nodeSelector"))...)

	if spec.TerminationGracePeriodSeconds == nil {
		errs = append(errs, field.Required(path.Child("terminationGracePeriodSeconds"), ""))
	} else {
		errs = append(errs, check.NotNegative(path.Child("terminationGracePeriodSeconds"), *spec.TerminationGracePeriodSeconds)...)
	}
	if deadline := spec.ActiveDeadlineSeconds; deadline != nil && (*deadline < 1 || *deadline > 1<<31-1) {
		errs = append(errs, field.Invalid(path.Child("activeDeadlineSeconds"), *deadline, validation.InclusiveRangeError(1, 1<<31-1)))
	}

	for _, ref := range []struct {
		field, value string
		rule         func(string) []string
	}{
		{"serviceAccountName", spec.ServiceAccountName, check.Subdomain},
		{"nodeName", spec.NodeName, check.Subdomain},
		{"priorityClassName", spec.PriorityClassName, check.Subdomain},
		{"hostname", spec.Hostname, validation.IsDNS1123Label},
		{"subdomain", spec.Subdomain, validation.IsDNS1123Label},
	} {
		if ref.value != "" {
			errs = append(errs, check.Text(path.Child(ref.field), ref.value, ref.rule)...)
		}
	}
	if spec.RuntimeClassName != nil {
		errs = append(errs, check.Text(path.Child("runtimeClassName"), *spec.RuntimeClassName, check.Subdomain)...)
	}
	for i, secret := range spec.ImagePullSecrets {
		if secret.Name == "" {
			errs = append(errs, field.Required(path.Child("imagePullSecrets").Index(i).Child("name"), ""))
		}
	}
	errs = append(errs, validateHost(spec, path)...)
	errs = append(errs, validateHostAliases(spec.HostAliases, path.Child("hostAliases"))...)
	errs = append(errs, validateSecurity(spec, path.Child("securityContext"))...)
	errs = append(errs, validatePlacement(spec, path)...)
	errs = append(errs, validatePodResources(spec, path.Child("resources"))...)
	errs = append(errs, validateClaims(spec.ResourceClaims, path.Child("resourceClaims"))...)
	errs = append(errs, ValidateResources(spec.Overhead, path.Child("overhead"))...)
	for i, gate := range spec.ReadinessGates {
		errs = append(errs, metavalidation.ValidateLabelName(string(gate.ConditionType), path.Child("readinessGates").Index(i).Child("conditionType"))...)
	}
	return errs
}

// validateHost looks at what shares the node's namespaces.
func validateHost(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.HostNetwork {
		for _, list := range []struct {
			name       string
			containers []corev1.Container
		}{{"containers", spec.Containers}, {"initContainers", spec.InitContainers}} {
			for i, c := range list.containers {
				for j, port := range c.Ports {
					// A template's host ports are filled in when its pods are made.
					if port.HostPort != 0 && port.HostPort != port.ContainerPort {
						at := path.Child(list.name).Index(i).Child("ports").Index(j).Child("hostPort")
						errs = append(errs, field.Invalid(at, port.HostPort, "must match `containerPort` when `hostNetwork` is true"))
					}
				}
			}
		}
	}
	if spec.HostPID && spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace {
		errs = append(errs, field.Invalid(path.Child("shareProcessNamespace"), *spec.ShareProcessNamespace, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	if spec.HostUsers != nil && !*spec.HostUsers {
		for name, used := range map[string]bool{"hostNetwork": spec.HostNetwork, "hostPID": spec.HostPID, "hostIPC": spec.HostIPC} {
			if used {
				errs = append(errs, field.Forbidden(path.Child(name), "when `hostUsers` is false"))
			}
		}
	}
	if override := spec.HostnameOverride; override != nil {
		errs = append(errs, check.Text(path.Child("hostnameOverride"), *override, validation.IsDNS1123Subdomain)...)
		if len(*override) > 64 {
			errs = append(errs, field.TooLong(path.Child("hostnameOverride"), *override, 64))
		}
		if spec.HostNetwork {
			errs = append(errs, field.Forbidden(path.Child("hostnameOverride"), "may not be set when hostNetwork is true"))
		}
		if spec.SetHostnameAsFQDN != nil && *spec.SetHostnameAsFQDN {
			errs = append(errs, field.Forbidden(path.Child("setHostnameAsFQDN"), "may not be set when hostnameOverride is set"))
		}
	}
	if spec.OS != nil {
		errs = append(errs, check.OneOf(path.Child("os"), spec.OS.Name, corev1.Linux, corev1.Windows)...)
	}
	return errs
}

func validateHostAliases(aliases []corev1.HostAlias, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, alias := range aliases {
		errs = append(errs, validateIP(path.Index(i).Child("ip"), alias.IP)...)
		for j, name := range alias.Hostnames {
			errs = append(errs, check.Text(path.Index(i).Child("hostnames").Index(j), name, validation.IsDNS1123Subdomain)...)
		}
	}
	return errs
}

func validateIP(path *field.Path, address string) field.ErrorList {
	return validation.IsValidIPForLegacyField(path, address, false, nil)
}

func validateDNSConfig(config *corev1.PodDNSConfig, policy corev1.DNSPolicy, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if policy == corev1.DNSNone && (config == nil || len(config.Nameservers) == 0) {
		at := path
		if config != nil {
			at = path.Child("nameservers")
		}
		return append(errs, field.Required(at, fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", corev1.DNSNone)))
	}
	if config == nil {
		return nil
	}
	if len(config.Nameservers) > maxNameservers {
		errs = append(errs, field.Invalid(path.Child("nameservers"), config.Nameservers, fmt.Sprintf("must not have more than %v nameservers", maxNameservers)))
	}
	for i, server := range config.Nameservers {
		errs = append(errs, validateIP(path.Child("nameservers").Index(i), server)...)
	}
	if len(config.Searches) > maxSearchDomains {
		errs = append(errs, field.Invalid(path.Child("searches"), config.Searches, fmt.Sprintf("must not have more than %v search paths", maxSearchDomains)))
	}
	if len(strings.Join(config.Searches, " ")) > maxSearchChars {
		errs = append(errs, field.Invalid(path.Child("searches"), config.Searches, fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", maxSearchChars)))
	}
	for i, domain := range config.Searches {
		if domain == "." {
			continue // resolve as written, nothing appended
		}
		errs = append(errs, check.Text(path.Child("searches").Index(i), strings.TrimSuffix(domain, "."), validation.IsDNS1123SubdomainWithUnderscore)...)
	}
	for i, option := range config.Options {
		if option.Name == "" {
			errs = append(errs, field.Required(path.Child("options").Index(i), "must not be empty"))
		}
	}
	return errs
}

func validateClaims(claims []corev1.PodResourceClaim, path *field.Path) field.ErrorList {
	errs := check.Unique(path, claims, func(c corev1.PodResourceClaim) string { return c.Name }, "name")
	for i, claim := range claims {
		at := path.Index(i)
		errs = append(errs, check.Needed(at.Child("name"), claim.Name, validation.IsDNS1123Label)...)
		switch {
		case claim.ResourceClaimName != nil && claim.ResourceClaimTemplateName != nil:
			errs = append(errs, field.Invalid(at, claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
		case claim.ResourceClaimName == nil && claim.ResourceClaimTemplateName == nil:
			errs = append(errs, field.Invalid(at, claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
		case claim.ResourceClaimName != nil:
			errs = append(errs, check.Text(at.Child("resourceClaimName"), *claim.ResourceClaimName, check.Subdomain)...)
		default:
			errs = append(errs, check.Text(at.Child("resourceClaimTemplateName"), *claim.ResourceClaimTemplateName, check.Subdomain)...)
		}
	}
	return errs
}

// ValidateResources reports quantities and names no resource list may hold.
func ValidateResources(list corev1.ResourceList, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range sets.List(sets.KeySet(list)) {
		errs = append(errs, validateResourceName(path.Key(string(name)), name)...)
		errs = append(errs, ValidateQuantity(path.Key(string(name)), name, list[name])...)
	}
	return errs
}

// containersOf lists a spec's containers with their paths.
func containersOf(spec *corev1.PodSpec, path *field.Path) []located {
	var all []located
	for i := range spec.InitContainers {
		all = append(all, located{&spec.InitContainers[i], path.Child("initContainers").Index(i), initContainer})
	}
	for i := range spec.Containers {
		all = append(all, located{&spec.Containers[i], path.Child("containers").Index(i), mainContainer})
	}
	for i := range spec.EphemeralContainers {
		all = append(all, located{(*corev1.Container)(&spec.EphemeralContainers[i].EphemeralContainerCommon), path.Child("ephemeralContainers").Index(i), ephemeralContainer})
	}
	return all
}

type role int

const (
	initContainer role = iota
	mainContainer
	ephemeralContainer
)

type located struct {
	*corev1.Container
	path *field.Path
	role role
}

// sidecar says whether an init container keeps running beside the main ones.
func (c located) sidecar() bool {
	return c.role == initContainer && c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}
