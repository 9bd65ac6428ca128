package virtual

import (
	"context"
	"errors"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

// Access answers whether anybody may do something.
func Access(env *resource.Env) (rest.Storage, error) {
	return &question[authorizationv1.SubjectAccessReview]{answer: func(ctx context.Context, review *authorizationv1.SubjectAccessReview) error {
		if errs := append(validateSubject(review.Spec, field.NewPath("spec")), validateNameless(review.ObjectMeta, "")...); len(errs) > 0 {
			return apierrors.NewInvalid(authorizationv1.SchemeGroupVersion.WithKind("SubjectAccessReview").GroupKind(), "", errs)
		}
		review.Status = decide(ctx, env, attributes(subject(review.Spec), review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes))
		return nil
	}}, nil
}

// LocalAccess answers the same for one namespace, so that the right to ask can be given for one namespace.
func LocalAccess(env *resource.Env) (rest.Storage, error) {
	return &question[authorizationv1.LocalSubjectAccessReview]{namespaced: true, answer: func(ctx context.Context, review *authorizationv1.LocalSubjectAccessReview) error {
		path := field.NewPath("spec")
		errs := append(validateSubject(review.Spec, path), validateNameless(review.ObjectMeta, review.Namespace)...)
		if review.Spec.NonResourceAttributes != nil {
			errs = append(errs, field.Invalid(path.Child("nonResourceAttributes"), review.Spec.NonResourceAttributes, "disallowed on this kind of request"))
		}
		if r := review.Spec.ResourceAttributes; r != nil && r.Namespace != review.Namespace {
			errs = append(errs, field.Invalid(path.Child("resourceAttributes", "namespace"), r.Namespace, "must match metadata.namespace"))
		}
		if len(errs) > 0 {
			return apierrors.NewInvalid(authorizationv1.SchemeGroupVersion.WithKind("LocalSubjectAccessReview").GroupKind(), "", errs)
		}
		review.Status = decide(ctx, env, attributes(subject(review.Spec), review.Spec.ResourceAttributes, nil))
		return nil
	}}, nil
}

// SelfAccess answers whether who is asking may do something.
func SelfAccess(env *resource.Env) (rest.Storage, error) {
	return &question[authorizationv1.SelfSubjectAccessReview]{answer: func(ctx context.Context, review *authorizationv1.SelfSubjectAccessReview) error {
		errs := validateAttributes(review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes, field.NewPath("spec"))
		errs = append(errs, validateNameless(review.ObjectMeta, "")...)
		if len(errs) > 0 {
			return apierrors.NewInvalid(authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview").GroupKind(), "", errs)
		}
		asking, ok := genericapirequest.UserFrom(ctx)
		if !ok {
			return apierrors.NewBadRequest("no user on the request")
		}
		review.Status = decide(ctx, env, attributes(asking, review.Spec.ResourceAttributes, review.Spec.NonResourceAttributes))
		return nil
	}}, nil
}

// SelfRules lists what who is asking may do in a namespace.
func SelfRules(env *resource.Env) (rest.Storage, error) {
	return &question[authorizationv1.SelfSubjectRulesReview]{answer: func(ctx context.Context, review *authorizationv1.SelfSubjectRulesReview) error {
		asking, ok := genericapirequest.UserFrom(ctx)
		if !ok {
			return apierrors.NewBadRequest("no user on the request")
		}
		if review.Spec.Namespace == "" {
			return apierrors.NewBadRequest("no namespace on the request")
		}
		resources, paths, incomplete, err := env.Rules.RulesFor(ctx, asking, review.Spec.Namespace)
		status := authorizationv1.SubjectRulesReviewStatus{
			ResourceRules:    []authorizationv1.ResourceRule{},
			NonResourceRules: []authorizationv1.NonResourceRule{},
			Incomplete:       incomplete,
		}
		for _, r := range resources {
			status.ResourceRules = append(status.ResourceRules, authorizationv1.ResourceRule{
				Verbs: r.GetVerbs(), APIGroups: r.GetAPIGroups(), Resources: r.GetResources(), ResourceNames: r.GetResourceNames(),
			})
		}
		for _, r := range paths {
			status.NonResourceRules = append(status.NonResourceRules, authorizationv1.NonResourceRule{
				Verbs: r.GetVerbs(), NonResourceURLs: r.GetNonResourceURLs(),
			})
		}
		if err != nil {
			status.EvaluationError = err.Error()
		}
		review.Status = status
		return nil
	}}, nil
}

func decide(ctx context.Context, env *resource.Env, a authorizer.Attributes) authorizationv1.SubjectAccessReviewStatus {
	decision, reason, err := env.Authorizer.Authorize(ctx, a)
	status := authorizationv1.SubjectAccessReviewStatus{
		Allowed: decision == authorizer.DecisionAllow,
		Denied:  decision == authorizer.DecisionDeny,
		Reason:  reason,
	}
	if err != nil {
		status.EvaluationError = err.Error()
	}
	return status
}

func subject(spec authorizationv1.SubjectAccessReviewSpec) user.Info {
	info := &user.DefaultInfo{Name: spec.User, UID: spec.UID, Groups: spec.Groups}
	for key, values := range spec.Extra {
		if info.Extra == nil {
			info.Extra = map[string][]string{}
		}
		info.Extra[key] = values
	}
	return info
}

func attributes(u user.Info, r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes) authorizer.Attributes {
	if r == nil {
		return authorizer.AttributesRecord{User: u, Verb: n.Verb, Path: n.Path}
	}
	a := authorizer.AttributesRecord{
		User:            u,
		Verb:            r.Verb,
		Namespace:       r.Namespace,
		APIGroup:        r.Group,
		APIVersion:      r.Version,
		Resource:        r.Resource,
		Subresource:     r.Subresource,
		Name:            r.Name,
		ResourceRequest: true,
	}
	if a.APIVersion == "" {
		a.APIVersion = "*"
	}
	if s := r.FieldSelector; s != nil {
		a.FieldSelectorRequirements, a.FieldSelectorParsingErr = fieldRequirements(s)
	}
	if s := r.LabelSelector; s != nil {
		a.LabelSelectorRequirements, a.LabelSelectorParsingErr = labelRequirements(s)
	}
	return a
}

// fieldRequirements leaves out what a field selector cannot say, with an error: the question becomes a wider one,
// which is never allowed because of it.
func fieldRequirements(s *authorizationv1.FieldSelectorAttributes) (fields.Requirements, error) {
	if s.RawSelector != "" {
		parsed, err := fields.ParseSelector(s.RawSelector)
		if err != nil {
			return nil, err
		}
		return parsed.Requirements(), nil
	}
	var requirements fields.Requirements
	var errs []error
	for _, r := range s.Requirements {
		switch {
		case r.Operator == metav1.FieldSelectorOpIn && len(r.Values) == 1:
			requirements = append(requirements, fields.Requirement{Field: r.Key, Operator: selection.Equals, Value: r.Values[0]})
		case r.Operator == metav1.FieldSelectorOpNotIn && len(r.Values) == 1:
			requirements = append(requirements, fields.Requirement{Field: r.Key, Operator: selection.NotEquals, Value: r.Values[0]})
		default:
			errs = append(errs, fmt.Errorf("requirement %s %s %q: only In and NotIn with one value are possible", r.Key, r.Operator, r.Values))
		}
	}
	return requirements, errors.Join(errs...)
}

func labelRequirements(s *authorizationv1.LabelSelectorAttributes) (labels.Requirements, error) {
	if s.RawSelector != "" {
		parsed, err := labels.Parse(s.RawSelector)
		if err != nil {
			return nil, err
		}
		requirements, _ := parsed.Requirements()
		return requirements, nil
	}
	operators := map[metav1.LabelSelectorOperator]selection.Operator{
		metav1.LabelSelectorOpIn:           selection.In,
		metav1.LabelSelectorOpNotIn:        selection.NotIn,
		metav1.LabelSelectorOpExists:       selection.Exists,
		metav1.LabelSelectorOpDoesNotExist: selection.DoesNotExist,
	}
	var requirements labels.Requirements
	var errs []error
	for _, r := range s.Requirements {
		requirement, err := labels.NewRequirement(r.Key, operators[r.Operator], r.Values)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		requirements = append(requirements, *requirement)
	}
	return requirements, errors.Join(errs...)
}

func validateSubject(spec authorizationv1.SubjectAccessReviewSpec, path *field.Path) field.ErrorList {
	errs := validateAttributes(spec.ResourceAttributes, spec.NonResourceAttributes, path)
	if spec.User == "" && len(spec.Groups) == 0 {
		errs = append(errs, field.Invalid(path.Child("user"), spec.User, "at least one of user or group must be specified"))
	}
	return errs
}

// validateNameless refuses metadata of a question: it is no object that anybody could find by it.
func validateNameless(m metav1.ObjectMeta, namespace string) field.ErrorList {
	m.ManagedFields = nil // the server's own
	if apiequality.Semantic.DeepEqual(m, metav1.ObjectMeta{Namespace: namespace}) {
		return nil
	}
	must := "must be empty"
	if namespace != "" {
		must = "must be empty except for namespace"
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata"), m, must)}
}

func validateAttributes(r *authorizationv1.ResourceAttributes, n *authorizationv1.NonResourceAttributes, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if (r == nil) == (n == nil) {
		errs = append(errs, field.Invalid(path, n, "exactly one of nonResourceAttributes or resourceAttributes must be specified"))
	}
	if r == nil {
		return errs
	}
	at := path.Child("resourceAttributes")
	if s := r.FieldSelector; s != nil {
		at := at.Child("fieldSelector")
		errs = append(errs, validateSelector(s.RawSelector, len(s.Requirements), "resourceAttributes.fieldSelector", at)...)
		for i, requirement := range s.Requirements {
			errs = append(errs, metav1validation.ValidateFieldSelectorRequirement(requirement, metav1validation.FieldSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}, at.Child("requirements").Index(i))...)
		}
	}
	if s := r.LabelSelector; s != nil {
		at := at.Child("labelSelector")
		errs = append(errs, validateSelector(s.RawSelector, len(s.Requirements), "resourceAttributes.labelSelector", at)...)
		for i, requirement := range s.Requirements {
			errs = append(errs, metav1validation.ValidateLabelSelectorRequirement(requirement, metav1validation.LabelSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}, at.Child("requirements").Index(i))...)
		}
	}
	return errs
}

// validateSelector wants a selector in one of its two forms.
func validateSelector(raw string, requirements int, name string, at *field.Path) field.ErrorList {
	switch {
	case raw != "" && requirements > 0:
		return field.ErrorList{field.Invalid(at.Child("rawSelector"), raw, "may not specified at the same time as requirements")}
	case raw == "" && requirements == 0:
		return field.ErrorList{field.Required(at.Child("requirements"), "when "+name+" is specified, requirements or rawSelector is required")}
	}
	return nil
}
