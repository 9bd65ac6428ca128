package kinds

import (
	"context"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// Bounds of what a policy writes into the audit log.
const (
	mostAuditAnnotations   = 20
	longestAuditExpression = 5 * 1024
)

// ValidatingAdmissionPolicy refuses, warns about or notes requests by expressions.
var ValidatingAdmissionPolicy = resource.Hooks[*admissionregistrationv1.ValidatingAdmissionPolicy]{
	NeedResourceVersion: true,
	Validate: always(func(p *admissionregistrationv1.ValidatingAdmissionPolicy) field.ErrorList {
		return validateValidatingPolicy(p, nil)
	}),
	ValidateUpdate: func(_ context.Context, p, old *admissionregistrationv1.ValidatingAdmissionPolicy) field.ErrorList {
		if apiequality.Semantic.DeepEqual(p.Spec, old.Spec) {
			return nil
		}
		return validateValidatingPolicy(p, validatingExpressions(&old.Spec))
	},
	ValidateStatus: func(_ context.Context, p, _ *admissionregistrationv1.ValidatingAdmissionPolicy) field.ErrorList {
		return metavalidation.ValidateConditions(p.Status.Conditions, statusPath.Child("conditions"))
	},
}

// ValidatingAdmissionPolicyBinding puts a policy into force.
var ValidatingAdmissionPolicyBinding = resource.Hooks[*admissionregistrationv1.ValidatingAdmissionPolicyBinding]{
	NeedResourceVersion: true,
	Validate: always(func(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
		errs := validatePolicyBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources, true)
		return append(errs, validateActions(b.Spec.ValidationActions, specPath.Child("validationActions"))...)
	}),
}

func commonOfValidating(spec *admissionregistrationv1.ValidatingAdmissionPolicySpec) admissionPolicy {
	return admissionPolicy{spec.ParamKind, spec.MatchConstraints, spec.Variables, spec.MatchConditions, spec.FailurePolicy, true}
}

func validatingExpressions(spec *admissionregistrationv1.ValidatingAdmissionPolicySpec) map[string]bool {
	var own []string
	for _, v := range spec.Validations {
		own = append(own, v.Expression, v.MessageExpression)
	}
	for _, a := range spec.AuditAnnotations {
		own = append(own, a.ValueExpression)
	}
	return commonOfValidating(spec).expressions(own...)
}

func validateValidatingPolicy(p *admissionregistrationv1.ValidatingAdmissionPolicy, known map[string]bool) field.ErrorList {
	common := commonOfValidating(&p.Spec)
	e, errs := common.validate(known)
	validations, annotations := specPath.Child("validations"), specPath.Child("auditAnnotations")
	if len(p.Spec.Validations)+len(p.Spec.AuditAnnotations) == 0 {
		const needed = "validations or auditAnnotations must contain at least one item"
		errs = append(errs, field.Required(validations, needed), field.Required(annotations, needed))
	}
	for i := range p.Spec.Validations {
		errs = append(errs, e.validation(&p.Spec.Validations[i], common.options(), validations.Index(i))...)
	}
	if count := len(p.Spec.AuditAnnotations); count > mostAuditAnnotations {
		errs = append(errs, field.TooMany(annotations, count, mostAuditAnnotations))
	}
	for i, a := range p.Spec.AuditAnnotations {
		at := annotations.Index(i)
		// The audit log names it by both.
		errs = append(errs, check.Text(at.Child("key"), p.Name+"/"+a.Key, validation.IsQualifiedName)...)
		if len(a.ValueExpression) > longestAuditExpression {
			errs = append(errs, field.TooLong(at.Child("valueExpression"), "", longestAuditExpression))
			continue
		}
		errs = append(errs, e.check(at.Child("valueExpression"), &validating.AuditAnnotationCondition{Key: a.Key, ValueExpression: a.ValueExpression}, common.options())...)
	}
	return append(errs, check.Unique(annotations, p.Spec.AuditAnnotations, func(a admissionregistrationv1.AuditAnnotation) string { return a.Key }, "key")...)
}

// validation checks one rule and what it says when it is broken.
func (e expressions) validation(v *admissionregistrationv1.Validation, options cel.OptionalVariableDeclarations, at *field.Path) field.ErrorList {
	errs := e.check(at.Child("expression"), &validating.ValidationCondition{Expression: v.Expression}, options)
	switch message := strings.TrimSpace(v.Message); {
	case v.Message != "" && message == "":
		errs = append(errs, field.Invalid(at.Child("message"), v.Message, "message must be non-empty if specified"))
	case strings.ContainsAny(message, "\n\r"):
		errs = append(errs, field.Invalid(at.Child("message"), v.Message, "message must not contain line breaks"))
	case message == "" && strings.ContainsAny(strings.TrimSpace(v.Expression), "\n\r"):
		errs = append(errs, field.Required(at.Child("message"), "message must be specified if expression contains line breaks"))
	}
	switch {
	case v.MessageExpression != "" && strings.TrimSpace(v.MessageExpression) == "":
		errs = append(errs, field.Invalid(at.Child("messageExpression"), v.MessageExpression, "must be non-empty if specified"))
	case v.MessageExpression != "":
		options.HasAuthorizer = false // what is told to a client says nothing about the rights of others
		errs = append(errs, e.check(at.Child("messageExpression"), &validating.MessageExpressionCondition{MessageExpression: v.MessageExpression}, options)...)
	}
	return append(errs, check.OneOfOptional(at.Child("reason"), v.Reason,
		metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge, metav1.StatusReasonUnauthorized)...)
}

func validateActions(actions []admissionregistrationv1.ValidationAction, at *field.Path) field.ErrorList {
	if len(actions) == 0 {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	for i, action := range actions {
		errs = append(errs, check.OneOf(at.Index(i), action, admissionregistrationv1.Audit, admissionregistrationv1.Deny, admissionregistrationv1.Warn)...)
	}
	if slices.Contains(actions, admissionregistrationv1.Deny) && slices.Contains(actions, admissionregistrationv1.Warn) {
		errs = append(errs, field.Invalid(at, actions, "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	return append(errs, check.Unique(at, actions, func(a admissionregistrationv1.ValidationAction) admissionregistrationv1.ValidationAction { return a }, "")...)
}

func defaultValidatingPolicy(p *admissionregistrationv1.ValidatingAdmissionPolicy) {
	set.Pointer(&p.Spec.FailurePolicy, admissionregistrationv1.Fail)
	defaultMatch(p.Spec.MatchConstraints)
}

func defaultValidatingPolicyBinding(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding) {
	defaultMatch(b.Spec.MatchResources)
}
