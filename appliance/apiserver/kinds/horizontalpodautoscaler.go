package kinds

import (
	"slices"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// HorizontalPodAutoscaler sizes a workload by what its pods use.
var HorizontalPodAutoscaler = resource.Hooks[*autoscalingv2.HorizontalPodAutoscaler]{
	Validate: always(func(h *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
		return append(validateAutoscaler(h), validateScaledGroup(h.Spec.ScaleTargetRef)...)
	}),
	// One from before the rule may keep its target.
	ValidateUpdate: onUpdate(validateAutoscaler, func(h, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
		if h.Spec.ScaleTargetRef == old.Spec.ScaleTargetRef {
			return nil
		}
		return validateScaledGroup(h.Spec.ScaleTargetRef)
	}),
}

// validateScaledGroup wants a group: of the kinds without one only replication controllers can be scaled.
func validateScaledGroup(ref autoscalingv2.CrossVersionObjectReference) field.ErrorList {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil || gv.Group != "" || ref.Kind == "ReplicationController" {
		return nil // validateReference says what is wrong with it
	}
	return field.ErrorList{field.Invalid(specPath.Child("scaleTargetRef", "apiVersion"), ref.APIVersion, "apiVersion must specify API group")}
}

// validateReference wants a kind and a name that can stand in a path.
func validateReference(ref autoscalingv2.CrossVersionObjectReference, at *field.Path) field.ErrorList {
	errs := check.Needed(at.Child("kind"), ref.Kind, path.IsValidPathSegmentName)
	errs = append(errs, check.Needed(at.Child("name"), ref.Name, path.IsValidPathSegmentName)...)
	if _, err := schema.ParseGroupVersion(ref.APIVersion); err != nil {
		errs = append(errs, field.Invalid(at.Child("apiVersion"), ref.APIVersion, err.Error()))
	}
	return errs
}

const (
	cpuTarget         = 80 // percent of what pods request, when nothing else is asked for
	maxStabilizationS = 3600
	maxScalingPeriodS = 1800
)

func defaultHorizontalPodAutoscalerV1(h *autoscalingv1.HorizontalPodAutoscaler) {
	set.Pointer(&h.Spec.MinReplicas, int32(1))
}

func defaultHorizontalPodAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) {
	set.Pointer(&h.Spec.MinReplicas, int32(1))
	if len(h.Spec.Metrics) == 0 {
		h.Spec.Metrics = []autoscalingv2.MetricSpec{{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{
				Name:   corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: ptr.To[int32](cpuTarget)},
			},
		}}
	}
	if h.Spec.Behavior == nil {
		return
	}
	percent := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}
	pods := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15}
	h.Spec.Behavior.ScaleUp = defaultRules(h.Spec.Behavior.ScaleUp, ptr.To[int32](0), pods, percent)
	// No window here means the controller's own, which its operator may have set.
	h.Spec.Behavior.ScaleDown = defaultRules(h.Spec.Behavior.ScaleDown, nil, percent)
}

func defaultRules(rules *autoscalingv2.HPAScalingRules, window *int32, policies ...autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
	if rules == nil {
		rules = &autoscalingv2.HPAScalingRules{}
	}
	set.Pointer(&rules.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if rules.StabilizationWindowSeconds == nil {
		rules.StabilizationWindowSeconds = window
	}
	if len(rules.Policies) == 0 {
		rules.Policies = policies
	}
	return rules
}

func validateAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	var errs field.ErrorList
	if least := h.Spec.MinReplicas; least != nil && *least < 0 {
		errs = append(errs, field.Invalid(specPath.Child("minReplicas"), *least, "must be greater than or equal to 0"))
	} else if least != nil && *least == 0 && !slices.ContainsFunc(h.Spec.Metrics, wakes) {
		errs = append(errs, field.Forbidden(specPath.Child("metrics"), "must specify at least one Object or External metric to support scaling to zero replicas"))
	}
	if h.Spec.MaxReplicas < 1 {
		errs = append(errs, field.Invalid(specPath.Child("maxReplicas"), h.Spec.MaxReplicas, "must be greater than 0"))
	}
	if h.Spec.MinReplicas != nil && h.Spec.MaxReplicas < *h.Spec.MinReplicas {
		errs = append(errs, field.Invalid(specPath.Child("maxReplicas"), h.Spec.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	errs = append(errs, validateReference(h.Spec.ScaleTargetRef, specPath.Child("scaleTargetRef"))...)
	for i, metric := range h.Spec.Metrics {
		errs = append(errs, validateMetric(metric, specPath.Child("metrics").Index(i))...)
	}
	if b := h.Spec.Behavior; b != nil {
		errs = append(errs, validateRules(b.ScaleUp, specPath.Child("behavior", "scaleUp"))...)
		errs = append(errs, validateRules(b.ScaleDown, specPath.Child("behavior", "scaleDown"))...)
	}
	return errs
}

// wakes says whether a metric has a value while there are no pods (KEP-2021).
func wakes(metric autoscalingv2.MetricSpec) bool {
	return metric.Type == autoscalingv2.ObjectMetricSourceType || metric.Type == autoscalingv2.ExternalMetricSourceType
}

func validateMetric(metric autoscalingv2.MetricSpec, at *field.Path) field.ErrorList {
	errs := check.OneOf(at.Child("type"), metric.Type, autoscalingv2.ObjectMetricSourceType, autoscalingv2.PodsMetricSourceType,
		autoscalingv2.ResourceMetricSourceType, autoscalingv2.ContainerResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType)
	type source struct {
		name   string
		target *autoscalingv2.MetricTarget
	}
	sources := map[autoscalingv2.MetricSourceType]source{}
	if metric.Object != nil {
		sources[autoscalingv2.ObjectMetricSourceType] = source{"object", &metric.Object.Target}
		errs = append(errs, validateReference(metric.Object.DescribedObject, at.Child("object", "describedObject"))...)
	}
	if metric.Pods != nil {
		sources[autoscalingv2.PodsMetricSourceType] = source{"pods", &metric.Pods.Target}
	}
	if metric.Resource != nil {
		sources[autoscalingv2.ResourceMetricSourceType] = source{"resource", &metric.Resource.Target}
	}
	if metric.ContainerResource != nil {
		sources[autoscalingv2.ContainerResourceMetricSourceType] = source{"containerResource", &metric.ContainerResource.Target}
	}
	if metric.External != nil {
		sources[autoscalingv2.ExternalMetricSourceType] = source{"external", &metric.External.Target}
	}
	for kind, s := range sources {
		if kind != metric.Type {
			errs = append(errs, field.Forbidden(at.Child(s.name), "must populate the given metric source only"))
		}
		errs = append(errs, validateTarget(s.target, at.Child(s.name, "target"))...)
	}
	if _, found := sources[metric.Type]; !found && len(errs) == 0 {
		errs = append(errs, field.Required(at, "must populate information for the given metric source"))
	}
	return errs
}

func validateTarget(target *autoscalingv2.MetricTarget, at *field.Path) field.ErrorList {
	errs := check.OneOf(at.Child("type"), target.Type, autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType)
	if target.AverageUtilization != nil && *target.AverageUtilization < 1 {
		errs = append(errs, field.Invalid(at.Child("averageUtilization"), *target.AverageUtilization, "must be greater than 0"))
	}
	if target.Value == nil && target.AverageValue == nil && target.AverageUtilization == nil {
		errs = append(errs, field.Required(at.Child("averageUtilization"), "must set either a target raw value or a target utilization"))
	}
	return errs
}

func validateRules(rules *autoscalingv2.HPAScalingRules, at *field.Path) field.ErrorList {
	if rules == nil {
		return nil
	}
	var errs field.ErrorList
	if window := rules.StabilizationWindowSeconds; window != nil && (*window < 0 || *window > maxStabilizationS) {
		errs = append(errs, field.Invalid(at.Child("stabilizationWindowSeconds"), *window, "must be between 0 and 3600"))
	}
	if rules.Tolerance != nil && rules.Tolerance.Sign() < 0 {
		errs = append(errs, field.Invalid(at.Child("tolerance"), rules.Tolerance.String(), "must be greater than or equal to zero"))
	}
	errs = append(errs, check.OneOfOptional(at.Child("selectPolicy"), rules.SelectPolicy, autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)...)
	for i, policy := range rules.Policies {
		at := at.Child("policies").Index(i)
		errs = append(errs, check.OneOf(at.Child("type"), policy.Type, autoscalingv2.PodsScalingPolicy, autoscalingv2.PercentScalingPolicy)...)
		errs = append(errs, check.Positive(at.Child("value"), policy.Value)...)
		errs = append(errs, check.Positive(at.Child("periodSeconds"), policy.PeriodSeconds)...)
		if policy.PeriodSeconds > maxScalingPeriodS {
			errs = append(errs, field.Invalid(at.Child("periodSeconds"), policy.PeriodSeconds, "must be less than or equal to 1800"))
		}
	}
	return errs
}
