package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelpers "k8s.io/component-helpers/resource"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
)

var standardResources = sets.New(corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage)

// ValidateRequirements checks what a container asks for and may use.
func ValidateRequirements(r *corev1.ResourceRequirements, claims sets.Set[string], base *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, list := range []struct {
		name   string
		values corev1.ResourceList
	}{{"limits", r.Limits}, {"requests", r.Requests}} {
		for _, name := range sets.List(sets.KeySet(list.values)) {
			at := base.Child(list.name).Key(string(name))
			errs = append(errs, validateContainerResourceName(at, name)...)
			errs = append(errs, ValidateQuantity(at, name, list.values[name])...)
		}
	}
	errs = append(errs, requestsWithinLimits(r, base)...)
	for i, claim := range r.Claims {
		at := base.Child("claims").Index(i)
		switch {
		case claim.Name == "":
			errs = append(errs, field.Required(at.Child("name"), ""))
		case !claims.Has(claim.Name):
			errs = append(errs, field.NotFound(at, claim.Name))
		}
		if claim.Request != "" {
			errs = append(errs, check.Text(at.Child("request"), claim.Request, validation.IsDNS1123Label)...)
		}
	}
	return errs
}

func requestsWithinLimits(r *corev1.ResourceRequirements, base *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range sets.List(sets.KeySet(r.Requests)) {
		request, limit := r.Requests[name], r.Limits[name]
		_, limited := r.Limits[name]
		at := base.Child("requests")
		switch {
		case !limited && mustEqualLimit(name):
			errs = append(errs, field.Required(base.Child("limits"), "Limit must be set for non overcommitable resources"))
		case !limited:
		case request.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(at, request.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", name, limit.String())))
		case request.Cmp(limit) != 0 && mustEqualLimit(name):
			errs = append(errs, field.Invalid(at, request.String(), fmt.Sprintf("must be equal to %s limit of %s", name, limit.String())))
		}
	}
	return errs
}

// mustEqualLimit is true for what cannot be shared by more than it has: huge pages and extended resources.
func mustEqualLimit(name corev1.ResourceName) bool {
	return isHugePages(name) || !standardResources.Has(name) && IsExtended(name)
}

func isHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// IsExtended says whether a resource is one that a device plugin or an administrator brought.
func IsExtended(name corev1.ResourceName) bool {
	text := string(name)
	if !strings.Contains(text, "/") || strings.Contains(text, corev1.ResourceDefaultNamespacePrefix) || strings.HasPrefix(text, corev1.DefaultResourceRequestsPrefix) {
		return false
	}
	return len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+text)) == 0
}

func validateResourceName(at *field.Path, name corev1.ResourceName) field.ErrorList {
	if bad := check.Text(at, string(name), validation.IsQualifiedName); len(bad) > 0 {
		return bad
	}
	if !strings.Contains(string(name), "/") && !standardResources.Has(name) && !isHugePages(name) &&
		name != corev1.ResourceStorage && name != corev1.ResourcePods {
		return field.ErrorList{field.Invalid(at, name, "must be a standard resource type or fully qualified")}
	}
	return nil
}

func validateContainerResourceName(at *field.Path, name corev1.ResourceName) field.ErrorList {
	if bad := check.Text(at, string(name), validation.IsQualifiedName); len(bad) > 0 {
		return bad
	}
	if !strings.Contains(string(name), "/") {
		if !standardResources.Has(name) && !isHugePages(name) {
			return field.ErrorList{field.Invalid(at, name, "must be a standard resource for containers")}
		}
		return nil
	}
	if !IsExtended(name) && !strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix) {
		return field.ErrorList{field.Invalid(at, name, "doesn't follow extended resource name standard")}
	}
	return nil
}

// ValidateQuantity reports negative amounts, and fractions of what cannot be cut.
func ValidateQuantity(at *field.Path, name corev1.ResourceName, value resource.Quantity) field.ErrorList {
	var errs field.ErrorList
	if value.Sign() < 0 {
		errs = append(errs, field.Invalid(at, value.String(), "must be greater than or equal to 0"))
	}
	if (name == corev1.ResourcePods || IsExtended(name)) && value.MilliValue()%1000 != 0 {
		errs = append(errs, field.Invalid(at, value.String(), "must be an integer"))
	}
	return errs
}

func validatePodResources(spec *corev1.PodSpec, base *field.Path) field.ErrorList {
	r := spec.Resources
	if r == nil {
		return nil
	}
	var errs field.ErrorList
	for _, list := range []struct {
		name   string
		values corev1.ResourceList
	}{{"limits", r.Limits}, {"requests", r.Requests}} {
		for _, name := range sets.List(sets.KeySet(list.values)) {
			at := base.Child(list.name).Key(string(name))
			if !resourcehelpers.IsSupportedPodLevelResource(name) {
				errs = append(errs, field.NotSupported(at, name, sets.List(resourcehelpers.SupportedPodLevelResources())))
			}
			errs = append(errs, ValidateQuantity(at, name, list.values[name])...)
		}
	}
	if len(r.Claims) > 0 {
		errs = append(errs, field.Forbidden(base.Child("claims"), "claims may not be specified at the pod level"))
	}
	errs = append(errs, requestsWithinLimits(r, base)...)
	pod := &corev1.Pod{Spec: *spec}
	for name, asked := range resourcehelpers.AggregateContainerRequests(pod, resourcehelpers.PodResourcesOptions{}) {
		if total, set := r.Requests[name]; set && asked.Cmp(total) > 0 {
			errs = append(errs, field.Invalid(base.Child("requests").Key(string(name)), total.String(), fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", asked.String())))
		}
	}
	return errs
}

func validateResizePolicies(policies []corev1.ContainerResizePolicy, restart corev1.RestartPolicy, base *field.Path) field.ErrorList {
	errs := check.Unique(base, policies, func(p corev1.ContainerResizePolicy) corev1.ResourceName { return p.ResourceName }, "")
	for i, policy := range policies {
		at := base.Index(i)
		errs = append(errs, check.OneOf(at, policy.ResourceName, corev1.ResourceCPU, corev1.ResourceMemory)...)
		errs = append(errs, check.OneOf(at, policy.RestartPolicy, corev1.NotRequired, corev1.RestartContainer)...)
		if restart == corev1.RestartPolicyNever && policy.RestartPolicy != corev1.NotRequired {
			errs = append(errs, field.Invalid(at, policy.RestartPolicy, "must be 'NotRequired' when `restartPolicy` is 'Never'"))
		}
	}
	return errs
}

// QOS is the class that decides who goes first when a node runs short.
func QOS(spec *corev1.PodSpec) corev1.PodQOSClass {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	guaranteed := true
	consider := func(r *corev1.ResourceRequirements) {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			if q, ok := r.Requests[name]; ok && !q.IsZero() {
				add(requests, name, q)
			}
			if q, ok := r.Limits[name]; ok && !q.IsZero() {
				add(limits, name, q)
			} else {
				guaranteed = false
			}
		}
	}
	if r := spec.Resources; r != nil && len(r.Requests)+len(r.Limits) > 0 {
		consider(r)
	} else {
		for _, c := range containersOf(spec, nil) {
			if c.role != ephemeralContainer {
				consider(&c.Resources)
			}
		}
	}
	if len(requests) == 0 && len(limits) == 0 {
		return corev1.PodQOSBestEffort
	}
	for name, request := range requests {
		if limit, ok := limits[name]; !ok || limit.Cmp(request) != 0 {
			guaranteed = false
		}
	}
	if guaranteed && len(requests) == len(limits) {
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

func add(list corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) {
	sum := list[name]
	sum.Add(q)
	list[name] = sum
}
