package kinds

import (
	"context"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// MutatingAdmissionPolicy changes objects on their way in by expressions.
var MutatingAdmissionPolicy = resource.Hooks[*admissionregistrationv1.MutatingAdmissionPolicy]{
	NeedResourceVersion: true,
	Validate: always(func(p *admissionregistrationv1.MutatingAdmissionPolicy) field.ErrorList {
		return validateMutatingPolicy(&p.Spec, nil)
	}),
	ValidateUpdate: func(_ context.Context, p, old *admissionregistrationv1.MutatingAdmissionPolicy) field.ErrorList {
		if apiequality.Semantic.DeepEqual(p.Spec, old.Spec) {
			return nil
		}
		return validateMutatingPolicy(&p.Spec, mutatingExpressions(&old.Spec))
	},
}

// MutatingAdmissionPolicyBinding puts a policy into force.
var MutatingAdmissionPolicyBinding = resource.Hooks[*admissionregistrationv1.MutatingAdmissionPolicyBinding]{
	NeedResourceVersion: true,
	Validate: always(func(b *admissionregistrationv1.MutatingAdmissionPolicyBinding) field.ErrorList {
		return validatePolicyBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources, false)
	}),
}

func commonOfMutating(spec *admissionregistrationv1.MutatingAdmissionPolicySpec) admissionPolicy {
	return admissionPolicy{spec.ParamKind, spec.MatchConstraints, spec.Variables, spec.MatchConditions, spec.FailurePolicy, false}
}

func mutatingExpressions(spec *admissionregistrationv1.MutatingAdmissionPolicySpec) map[string]bool {
	var own []string
	for _, m := range spec.Mutations {
		if m.ApplyConfiguration != nil {
			own = append(own, m.ApplyConfiguration.Expression)
		}
		if m.JSONPatch != nil {
			own = append(own, m.JSONPatch.Expression)
		}
	}
	return commonOfMutating(spec).expressions(own...)
}

func validateMutatingPolicy(spec *admissionregistrationv1.MutatingAdmissionPolicySpec, known map[string]bool) field.ErrorList {
	common := commonOfMutating(spec)
	e, errs := common.validate(known)
	errs = append(errs, check.OneOf(specPath.Child("reinvocationPolicy"), spec.ReinvocationPolicy,
		admissionregistrationv1.NeverReinvocationPolicy, admissionregistrationv1.IfNeededReinvocationPolicy)...)
	mutations := specPath.Child("mutations")
	if len(spec.Mutations) == 0 {
		errs = append(errs, field.Required(mutations, "mutations must contain at least one item"))
	}
	for i := range spec.Mutations {
		errs = append(errs, e.mutation(&spec.Mutations[i], common.options(), mutations.Index(i))...)
	}
	return errs
}

// mutation wants the expression of the patch's type, and no other.
func (e expressions) mutation(m *admissionregistrationv1.Mutation, options cel.OptionalVariableDeclarations, at *field.Path) field.ErrorList {
	options.HasPatchTypes = true
	apply, json := at.Child("applyConfiguration"), at.Child("jsonPatch")
	var errs field.ErrorList
	switch m.PatchType {
	case admissionregistrationv1.PatchTypeApplyConfiguration:
		if m.JSONPatch != nil {
			errs = append(errs, field.Invalid(json, "{jsonPatch}", "must not be specified when patchType is ApplyConfiguration"))
		}
		if m.ApplyConfiguration == nil {
			return append(errs, field.Required(apply, "must be specified when patchType is ApplyConfiguration"))
		}
		return append(errs, e.check(apply.Child("expression"), &patch.ApplyConfigurationCondition{Expression: m.ApplyConfiguration.Expression}, options)...)
	case admissionregistrationv1.PatchTypeJSONPatch:
		if m.ApplyConfiguration != nil {
			errs = append(errs, field.Invalid(apply, "{applyConfiguration}", "must not be specified when patchType is JSONPatch"))
		}
		if m.JSONPatch == nil {
			return append(errs, field.Required(json, "must be specified when patchType is JSONPatch"))
		}
		return append(errs, e.check(json.Child("expression"), &patch.JSONPatchCondition{Expression: m.JSONPatch.Expression}, options)...)
	}
	return check.OneOf(at.Child("patchType"), m.PatchType, admissionregistrationv1.PatchTypeApplyConfiguration, admissionregistrationv1.PatchTypeJSONPatch)
}

func defaultMutatingPolicy(p *admissionregistrationv1.MutatingAdmissionPolicy) {
	set.Pointer(&p.Spec.FailurePolicy, admissionregistrationv1.Fail)
	defaultMatch(p.Spec.MatchConstraints)
}

func defaultMutatingPolicyBinding(b *admissionregistrationv1.MutatingAdmissionPolicyBinding) {
	defaultMatch(b.Spec.MatchResources)
}
