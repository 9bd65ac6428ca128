package kinds

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/podspec"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// ResourceQuota bounds what a whole namespace may ask for.
var ResourceQuota = resource.Hooks[*corev1.ResourceQuota]{
	Validate: always(validateResourceQuota),
	ValidateUpdate: onUpdate(validateResourceQuota, func(q, old *corev1.ResourceQuota) field.ErrorList {
		if !sets.New(q.Spec.Scopes...).Equal(sets.New(old.Spec.Scopes...)) {
			return field.ErrorList{field.Invalid(specPath.Child("scopes"), q.Spec.Scopes, "field is immutable")}
		}
		return nil
	}),
	ValidateStatus: func(_ context.Context, q, _ *corev1.ResourceQuota) field.ErrorList {
		return append(validateQuotaAmounts(q.Status.Hard, statusPath.Child("hard")), validateQuotaAmounts(q.Status.Used, statusPath.Child("used"))...)
	},
}

// What a quota can count that has no domain in its name.
var (
	computeQuotas = sets.New[corev1.ResourceName](
		corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
	)
	objectQuotas = sets.New[corev1.ResourceName](
		corev1.ResourcePods, corev1.ResourceServices, corev1.ResourceReplicationControllers, corev1.ResourceQuotas, corev1.ResourceSecrets,
		corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
	)
)

// existScopes are those a pod is in or not; there is nothing to compare with.
var existScopes = sets.New(corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeBestEffort,
	corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeCrossNamespacePodAffinity)

var quotaScopes = existScopes.Union(sets.New(corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeVolumeAttributesClass))

func validateResourceQuota(q *corev1.ResourceQuota) field.ErrorList {
	errs := validateQuotaAmounts(q.Spec.Hard, specPath.Child("hard"))
	if len(q.Spec.Scopes) > 0 {
		at := specPath.Child("scopes")
		errs = append(errs, validateQuotaScopes(q.Spec.Scopes, q.Spec.Hard, at, q.Spec.Scopes)...)
	}
	if q.Spec.ScopeSelector == nil {
		return errs
	}
	at := specPath.Child("scopeSelector", "matchExpressions")
	var scopes []corev1.ResourceQuotaScope
	for _, e := range q.Spec.ScopeSelector.MatchExpressions {
		scopes = append(scopes, e.ScopeName)
		errs = append(errs, validateQuotaExpression(e, at)...)
	}
	return append(errs, validateQuotaScopes(scopes, q.Spec.Hard, at, q.Spec.ScopeSelector)...)
}

func validateQuotaAmounts(amounts corev1.ResourceList, base *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, name := range sets.List(sets.KeySet(amounts)) {
		at := base.Key(string(name))
		for _, message := range validation.IsQualifiedName(string(name)) {
			errs = append(errs, field.Invalid(at, name, message))
		}
		if !strings.Contains(string(name), "/") && !computeQuotas.Has(name) && !objectQuotas.Has(name) && name != corev1.ResourceRequestsStorage && !hugePagesQuota(name) {
			errs = append(errs, field.Invalid(at, name, "must be a standard resource for quota"))
		}
		value := amounts[name]
		errs = append(errs, podspec.ValidateQuantity(at, name, value)...)
		if objectQuotas.Has(name) && value.MilliValue()%1000 != 0 {
			errs = append(errs, field.Invalid(at, value.String(), "must be an integer"))
		}
	}
	return errs
}

func hugePagesQuota(name corev1.ResourceName) bool {
	return strings.HasPrefix(strings.TrimPrefix(string(name), corev1.DefaultResourceRequestsPrefix), corev1.ResourceHugePagesPrefix)
}

// validateQuotaScopes reports scopes that do not exist, that nothing counted can be in, or that exclude one another.
func validateQuotaScopes(scopes []corev1.ResourceQuotaScope, hard corev1.ResourceList, at *field.Path, value any) field.ErrorList {
	var errs field.ErrorList
	for _, scope := range scopes {
		if !quotaScopes.Has(scope) {
			errs = append(errs, field.Invalid(at, value, "unsupported scope"))
			continue
		}
		for _, name := range sets.List(sets.KeySet(hard)) {
			if known := computeQuotas.Has(name) || objectQuotas.Has(name); known && !countedIn(scope, name) {
				errs = append(errs, field.Invalid(at, value, "unsupported scope applied to resource"))
			}
		}
	}
	all := sets.New(scopes...)
	for _, pair := range [][2]corev1.ResourceQuotaScope{
		{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort},
		{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating},
	} {
		if all.HasAll(pair[0], pair[1]) {
			errs = append(errs, field.Invalid(at, value, "conflicting scopes"))
		}
	}
	return errs
}

// countedIn says whether a scope has anything of a resource: pods of the class best effort ask for nothing.
func countedIn(scope corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	switch scope {
	case corev1.ResourceQuotaScopeBestEffort:
		return name == corev1.ResourcePods
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return name == corev1.ResourcePersistentVolumeClaims
	default:
		return name == corev1.ResourcePods || computeQuotas.Has(name)
	}
}

func validateQuotaExpression(e corev1.ScopedResourceSelectorRequirement, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if existScopes.Has(e.ScopeName) && e.Operator != corev1.ScopeSelectorOpExists {
		errs = append(errs, field.Invalid(at.Child("operator"), e.Operator, "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
	}
	switch e.Operator {
	case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
		if len(e.Values) == 0 {
			errs = append(errs, field.Required(at.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
		}
	case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
		if len(e.Values) > 0 {
			errs = append(errs, field.Invalid(at.Child("values"), e.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
		}
	default:
		errs = append(errs, field.Invalid(at.Child("operator"), e.Operator, "not a valid selector operator"))
	}
	return errs
}
