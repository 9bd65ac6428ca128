package podspec

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
)

// validatePlacement looks at what the scheduler reads.
func validatePlacement(spec *corev1.PodSpec, base *field.Path) field.ErrorList {
	errs := validateAffinity(spec.Affinity, base.Child("affinity"))
	errs = append(errs, ValidateTolerations(spec.Tolerations, base.Child("tolerations"))...)
	errs = append(errs, validateSpread(spec.TopologySpreadConstraints, base.Child("topologySpreadConstraints"))...)
	errs = append(errs, check.OneOfOptional(base.Child("preemptionPolicy"), spec.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	gates := base.Child("schedulingGates")
	for i, gate := range spec.SchedulingGates {
		errs = append(errs, check.Text(gates.Index(i).Child("name"), gate.Name, validation.IsQualifiedName)...)
	}
	errs = append(errs, check.Unique(gates, spec.SchedulingGates, func(g corev1.PodSchedulingGate) string { return g.Name }, "")...)
	if len(spec.SchedulingGates) > 0 && spec.NodeName != "" {
		errs = append(errs, field.Forbidden(base.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	return errs
}

func validateAffinity(affinity *corev1.Affinity, base *field.Path) field.ErrorList {
	if affinity == nil {
		return nil
	}
	var errs field.ErrorList
	if node := affinity.NodeAffinity; node != nil {
		at := base.Child("nodeAffinity")
		if required := node.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
			errs = append(errs, ValidateNodeSelector(required, at.Child("requiredDuringSchedulingIgnoredDuringExecution"))...)
		}
		for i, term := range node.PreferredDuringSchedulingIgnoredDuringExecution {
			at := at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
			errs = append(errs, validateWeight(term.Weight, at.Child("weight"))...)
			errs = append(errs, validateNodeTerm(term.Preference, at.Child("preference"))...)
		}
	}
	if pod := affinity.PodAffinity; pod != nil {
		errs = append(errs, validatePodTerms(pod.RequiredDuringSchedulingIgnoredDuringExecution, pod.PreferredDuringSchedulingIgnoredDuringExecution, base.Child("podAffinity"))...)
	}
	if pod := affinity.PodAntiAffinity; pod != nil {
		errs = append(errs, validatePodTerms(pod.RequiredDuringSchedulingIgnoredDuringExecution, pod.PreferredDuringSchedulingIgnoredDuringExecution, base.Child("podAntiAffinity"))...)
	}
	return errs
}

func validateWeight(weight int32, at *field.Path) field.ErrorList {
	if weight <= 0 || weight > 100 {
		return field.ErrorList{field.Invalid(at, weight, "must be in the range 1-100")}
	}
	return nil
}

// ValidateNodeSelector is shared with persistent volumes.
func ValidateNodeSelector(selector *corev1.NodeSelector, base *field.Path) field.ErrorList {
	terms := base.Child("nodeSelectorTerms")
	if len(selector.NodeSelectorTerms) == 0 {
		return field.ErrorList{field.Required(terms, "must have at least one node selector term")}
	}
	var errs field.ErrorList
	for i, term := range selector.NodeSelectorTerms {
		errs = append(errs, validateNodeTerm(term, terms.Index(i))...)
	}
	return errs
}

func validateNodeTerm(term corev1.NodeSelectorTerm, base *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, requirement := range term.MatchExpressions {
		at := base.Child("matchExpressions").Index(i)
		errs = append(errs, validateNodeRequirement(requirement, at)...)
		errs = append(errs, metavalidation.ValidateLabelName(requirement.Key, at.Child("key"))...)
	}
	for i, requirement := range term.MatchFields {
		at := base.Child("matchFields").Index(i)
		switch requirement.Operator {
		case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
			if len(requirement.Values) != 1 {
				errs = append(errs, field.Required(at.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector"))
			}
		default:
			errs = append(errs, field.Invalid(at.Child("operator"), requirement.Operator, "not a valid selector operator"))
		}
		if requirement.Key != "metadata.name" {
			errs = append(errs, field.Invalid(at.Child("key"), requirement.Key, "not a valid field selector key"))
			continue
		}
		for j, value := range requirement.Values {
			errs = append(errs, check.Text(at.Child("values").Index(j), value, check.Name(apivalidation.NameIsDNSSubdomain))...)
		}
	}
	return errs
}

func validateNodeRequirement(r corev1.NodeSelectorRequirement, base *field.Path) field.ErrorList {
	values := base.Child("values")
	switch r.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(r.Values) == 0 {
			return field.ErrorList{field.Required(values, "must be specified when `operator` is 'In' or 'NotIn'")}
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(r.Values) > 0 {
			return field.ErrorList{field.Forbidden(values, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")}
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(r.Values) != 1 {
			return field.ErrorList{field.Required(values, "must be specified single value when `operator` is 'Lt' or 'Gt'")}
		}
	default:
		return field.ErrorList{field.Invalid(base.Child("operator"), r.Operator, "not a valid selector operator")}
	}
	return nil
}

func validatePodTerms(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, base *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, term := range required {
		errs = append(errs, validatePodTerm(term, base.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i))...)
	}
	for i, term := range preferred {
		at := base.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
		errs = append(errs, validateWeight(term.Weight, at.Child("weight"))...)
		errs = append(errs, validatePodTerm(term.PodAffinityTerm, at.Child("podAffinityTerm"))...)
	}
	return errs
}

func validatePodTerm(term corev1.PodAffinityTerm, base *field.Path) field.ErrorList {
	var errs field.ErrorList
	errs = append(errs, check.Selector(base.Child("labelSelector"), term.LabelSelector)...)
	errs = append(errs, check.Selector(base.Child("namespaceSelector"), term.NamespaceSelector)...)
	for _, namespace := range term.Namespaces {
		errs = append(errs, check.Text(base.Child("namespace"), namespace, validation.IsDNS1123Label)...)
	}
	if term.TopologyKey == "" {
		errs = append(errs, field.Required(base.Child("topologyKey"), "can not be empty"))
	}
	errs = append(errs, metavalidation.ValidateLabelName(term.TopologyKey, base.Child("topologyKey"))...)
	for _, list := range []struct {
		name string
		keys []string
	}{{"matchLabelKeys", term.MatchLabelKeys}, {"mismatchLabelKeys", term.MismatchLabelKeys}} {
		for i, key := range list.keys {
			errs = append(errs, metavalidation.ValidateLabelName(key, base.Child(list.name).Index(i))...)
		}
		if len(list.keys) > 0 && term.LabelSelector == nil {
			errs = append(errs, field.Forbidden(base.Child(list.name), "must not be specified when labelSelector is not set"))
		}
	}
	return errs
}

// ValidateTolerations is shared with runtime classes.
func ValidateTolerations(tolerations []corev1.Toleration, base *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, t := range tolerations {
		at := base.Index(i)
		if t.Key != "" {
			errs = append(errs, metavalidation.ValidateLabelName(t.Key, at.Child("key"))...)
		}
		if t.Key == "" && t.Operator != corev1.TolerationOpExists {
			errs = append(errs, field.Invalid(at.Child("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\""))
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			errs = append(errs, field.Invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set"))
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			for _, message := range validation.IsValidLabelValue(t.Value) {
				errs = append(errs, field.Invalid(at.Child("operator"), t.Value, message))
			}
		case corev1.TolerationOpExists:
			if t.Value != "" {
				errs = append(errs, field.Invalid(at.Child("operator"), t, "value must be empty when `operator` is 'Exists'"))
			}
		case corev1.TolerationOpLt, corev1.TolerationOpGt:
			if _, err := strconv.ParseInt(t.Value, 10, 64); err != nil {
				errs = append(errs, field.Invalid(at.Child("value"), t.Value, fmt.Sprintf("must be an integer when `operator` is '%s'", t.Operator)))
			}
		default:
			errs = append(errs, field.NotSupported(at.Child("operator"), t.Operator, []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}))
		}
		if t.Effect != "" {
			errs = append(errs, ValidateTaintEffect(t.Effect, at.Child("effect"))...)
		}
	}
	return errs
}

// ValidateTaintEffect is shared with nodes.
func ValidateTaintEffect(effect corev1.TaintEffect, at *field.Path) field.ErrorList {
	return check.OneOf(at, effect, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
}

func validateSpread(constraints []corev1.TopologySpreadConstraint, base *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, c := range constraints {
		at := base.Index(i)
		errs = append(errs, check.Positive(at.Child("maxSkew"), c.MaxSkew)...)
		if c.TopologyKey == "" {
			errs = append(errs, field.Required(at.Child("topologyKey"), "can not be empty"))
		} else {
			errs = append(errs, metavalidation.ValidateLabelName(c.TopologyKey, at.Child("topologyKey"))...)
		}
		errs = append(errs, check.OneOf(at.Child("whenUnsatisfiable"), c.WhenUnsatisfiable, corev1.DoNotSchedule, corev1.ScheduleAnyway)...)
		key := fmt.Sprintf("{%s, %s}", c.TopologyKey, c.WhenUnsatisfiable)
		if seen.Has(key) {
			errs = append(errs, field.Duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), key))
		}
		seen.Insert(key)
		if c.MinDomains != nil {
			errs = append(errs, check.Positive(at.Child("minDomains"), *c.MinDomains)...)
			if c.WhenUnsatisfiable != corev1.DoNotSchedule {
				errs = append(errs, field.Invalid(at.Child("minDomains"), *c.MinDomains, fmt.Sprintf("can only use minDomains if whenUnsatisfiable=%s, not %s", corev1.DoNotSchedule, c.WhenUnsatisfiable)))
			}
		}
		errs = append(errs, check.OneOfOptional(at.Child("nodeAffinityPolicy"), c.NodeAffinityPolicy, corev1.NodeInclusionPolicyIgnore, corev1.NodeInclusionPolicyHonor)...)
		errs = append(errs, check.OneOfOptional(at.Child("nodeTaintsPolicy"), c.NodeTaintsPolicy, corev1.NodeInclusionPolicyIgnore, corev1.NodeInclusionPolicyHonor)...)
		errs = append(errs, check.Selector(at.Child("labelSelector"), c.LabelSelector)...)
		for j, label := range c.MatchLabelKeys {
			errs = append(errs, metavalidation.ValidateLabelName(label, at.Child("matchLabelKeys").Index(j))...)
		}
		if len(c.MatchLabelKeys) > 0 && c.LabelSelector == nil {
			errs = append(errs, field.Forbidden(at.Child("matchLabelKeys"), "must not be specified when labelSelector is not set"))
		}
	}
	return errs
}
