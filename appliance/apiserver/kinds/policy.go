package kinds

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/podspec"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// PodDisruptionBudget says how many pods of a set may be taken away at once.
var PodDisruptionBudget = resource.Hooks[*policyv1.PodDisruptionBudget]{Validate: always(validateBudget), LaxMetadata: true, NeedResourceVersion: true}

func validateBudget(b *policyv1.PodDisruptionBudget) field.ErrorList {
	var errs field.ErrorList
	if b.Spec.MinAvailable != nil && b.Spec.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(specPath, b.Spec, "minAvailable and maxUnavailable cannot be both set"))
	}
	for name, value := range map[string]*intstr.IntOrString{"minAvailable": b.Spec.MinAvailable, "maxUnavailable": b.Spec.MaxUnavailable} {
		if value != nil {
			errs = append(errs, check.CountOrPercent(specPath.Child(name), *value)...)
			errs = append(errs, check.AtMostHundredPercent(specPath.Child(name), *value)...)
		}
	}
	errs = append(errs, check.OneOfOptional(specPath.Child("unhealthyPodEvictionPolicy"), b.Spec.UnhealthyPodEvictionPolicy, policyv1.IfHealthyBudget, policyv1.AlwaysAllow)...)
	return append(errs, check.Selector(specPath.Child("selector"), b.Spec.Selector)...)
}

// RuntimeClass never changes its handler.
var RuntimeClass = resource.Hooks[*nodev1.RuntimeClass]{
	NeedResourceVersion: true,
	Validate: always(func(c *nodev1.RuntimeClass) field.ErrorList {
		errs := check.Needed(field.NewPath("handler"), c.Handler, validation.IsDNS1123Label)
		if c.Overhead != nil {
			errs = append(errs, podspec.ValidateResources(c.Overhead.PodFixed, field.NewPath("overhead", "podFixed"))...)
		}
		if c.Scheduling != nil {
			errs = append(errs, metav1validation.ValidateLabels(c.Scheduling.NodeSelector, field.NewPath("scheduling", "nodeSelector"))...)
			errs = append(errs, podspec.ValidateTolerations(c.Scheduling.Tolerations, field.NewPath("scheduling", "tolerations"))...)
		}
		return errs
	}),
	ValidateUpdate: onUpdate(func(*nodev1.RuntimeClass) field.ErrorList { return nil }, func(c, old *nodev1.RuntimeClass) field.ErrorList {
		return check.Unchanged(field.NewPath("handler"), c.Handler, old.Handler)
	}),
}

// Lease is what nodes and leaders renew, so most of the writes of an idle cluster; it stays cheap.
var Lease = resource.Hooks[*coordinationv1.Lease]{
	NeedResourceVersion: true,
	Validate: always(func(l *coordinationv1.Lease) field.ErrorList {
		var errs field.ErrorList
		if seconds := l.Spec.LeaseDurationSeconds; seconds != nil {
			errs = append(errs, check.Positive(specPath.Child("leaseDurationSeconds"), *seconds)...)
		}
		return append(errs, check.NotNegativeOptional(specPath.Child("leaseTransitions"), l.Spec.LeaseTransitions)...)
	}),
}
