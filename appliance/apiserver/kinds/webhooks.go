package kinds

import (
	"fmt"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	webhookutil "k8s.io/apiserver/pkg/util/webhook"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// The registrations of admission webhooks.
var (
	ValidatingWebhookConfiguration = resource.Hooks[*admissionregistrationv1.ValidatingWebhookConfiguration]{
		NeedResourceVersion: true,
		Validate: always(func(c *admissionregistrationv1.ValidatingWebhookConfiguration) field.ErrorList {
			var errs field.ErrorList
			for i := range c.Webhooks {
				w := &c.Webhooks[i]
				errs = append(errs, webhook{w.Name, &w.ClientConfig, w.Rules, w.FailurePolicy, w.MatchPolicy, w.SideEffects, w.TimeoutSeconds, w.AdmissionReviewVersions, w.MatchConditions}.validate(field.NewPath("webhooks").Index(i))...)
			}
			return append(errs, check.Unique(field.NewPath("webhooks"), c.Webhooks, func(w admissionregistrationv1.ValidatingWebhook) string { return w.Name }, "name")...)
		}),
	}
	MutatingWebhookConfiguration = resource.Hooks[*admissionregistrationv1.MutatingWebhookConfiguration]{
		NeedResourceVersion: true,
		Validate: always(func(c *admissionregistrationv1.MutatingWebhookConfiguration) field.ErrorList {
			var errs field.ErrorList
			for i := range c.Webhooks {
				w := &c.Webhooks[i]
				errs = append(errs, webhook{w.Name, &w.ClientConfig, w.Rules, w.FailurePolicy, w.MatchPolicy, w.SideEffects, w.TimeoutSeconds, w.AdmissionReviewVersions, w.MatchConditions}.validate(field.NewPath("webhooks").Index(i))...)
			}
			return append(errs, check.Unique(field.NewPath("webhooks"), c.Webhooks, func(w admissionregistrationv1.MutatingWebhook) string { return w.Name }, "name")...)
		}),
	}
)

// webhook is what both kinds have in common.
type webhook struct {
	name     string
	client   *admissionregistrationv1.WebhookClientConfig
	rules    []admissionregistrationv1.RuleWithOperations
	failure  *admissionregistrationv1.FailurePolicyType
	match    *admissionregistrationv1.MatchPolicyType
	effects  *admissionregistrationv1.SideEffectClass
	timeout  *int32
	versions []string
	when     []admissionregistrationv1.MatchCondition
}

func (w webhook) validate(at *field.Path) field.ErrorList {
	errs := validation.IsFullyQualifiedName(at.Child("name"), w.name)
	for i, rule := range w.rules {
		errs = append(errs, validateRule(&rule.Rule, rule.Operations, at.Child("rules").Index(i))...)
	}
	errs = append(errs, check.OneOfOptional(at.Child("failurePolicy"), w.failure, admissionregistrationv1.Ignore, admissionregistrationv1.Fail)...)
	errs = append(errs, check.OneOfOptional(at.Child("matchPolicy"), w.match, admissionregistrationv1.Exact, admissionregistrationv1.Equivalent)...)
	if w.effects == nil {
		errs = append(errs, field.Required(at.Child("sideEffects"), "must specify one of None, NoneOnDryRun"))
	} else {
		errs = append(errs, check.OneOf(at.Child("sideEffects"), *w.effects, admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.SideEffectClassNoneOnDryRun)...)
	}
	if w.timeout != nil && (*w.timeout < 1 || *w.timeout > 30) {
		errs = append(errs, field.Invalid(at.Child("timeoutSeconds"), *w.timeout, "the timeout value must be between 1 and 30 seconds"))
	}
	errs = append(errs, reviewVersions(w.versions, at.Child("admissionReviewVersions"))...)
	errs = append(errs, expressions{}.conditions(w.when, false, at.Child("matchConditions"))...)
	return append(errs, validateClient(w.client, at.Child("clientConfig"))...)
}

// reviewVersions asks for at least one version of AdmissionReview that this server speaks.
func reviewVersions(versions []string, at *field.Path) field.ErrorList {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(at, "must specify one of v1, v1beta1")}
	}
	for _, version := range versions {
		if version == "v1" || version == "v1beta1" {
			return nil
		}
	}
	return field.ErrorList{field.Invalid(at, versions, "must include at least one of v1, v1beta1")}
}

func validateRule(rule *admissionregistrationv1.Rule, operations []admissionregistrationv1.OperationType, at *field.Path) field.ErrorList {
	errs := wildcardAlone(operations, "operations", at.Child("operations"))
	errs = append(errs, wildcardAlone(rule.APIGroups, "API groups", at.Child("apiGroups"))...)
	errs = append(errs, wildcardAlone(rule.APIVersions, "API versions", at.Child("apiVersions"))...)
	if i := slices.Index(rule.APIVersions, ""); i >= 0 {
		errs = append(errs, field.Required(at.Child("apiVersions").Index(i), ""))
	}
	errs = append(errs, validateRuleResources(rule.Resources, at.Child("resources"))...)
	for i, operation := range operations {
		errs = append(errs, check.OneOf(at.Child("operations").Index(i), operation, admissionregistrationv1.OperationAll, admissionregistrationv1.Create,
			admissionregistrationv1.Update, admissionregistrationv1.Delete, admissionregistrationv1.Connect)...)
	}
	return append(errs, check.OneOfOptional(at.Child("scope"), rule.Scope, admissionregistrationv1.ClusterScope, admissionregistrationv1.NamespacedScope, admissionregistrationv1.AllScopes)...)
}

// wildcardAlone wants something named, or everything and then nothing else: who reads a list must not miss its '*'.
func wildcardAlone[T ~string](list []T, what string, at *field.Path) field.ErrorList {
	if len(list) == 0 {
		return field.ErrorList{field.Required(at, "")}
	}
	if len(list) > 1 && slices.Contains(list, "*") {
		return field.ErrorList{field.Invalid(at, list, "if '*' is present, must not specify other "+what)}
	}
	return nil
}

// validateRuleResources refuses resources that another one of the list includes.
func validateRuleResources(resources []string, at *field.Path) field.ErrorList {
	if len(resources) == 0 {
		return field.ErrorList{field.Required(at, "")}
	}
	if len(resources) > 1 && slices.Contains(resources, "*/*") {
		return field.ErrorList{field.Invalid(at, resources, "if '*/*' is present, must not specify other resources")}
	}
	var errs field.ErrorList
	for i, name := range resources {
		resource, sub, nested := strings.Cut(name, "/")
		switch {
		case name == "":
			errs = append(errs, field.Required(at.Index(i), ""))
		case nested && sub != "*" && slices.Contains(resources, resource+"/*"):
			errs = append(errs, field.Invalid(at.Index(i), name, fmt.Sprintf("if '%s/*' is present, must not specify %s", resource, name)))
		case nested && resource != "*" && slices.Contains(resources, "*/"+sub):
			errs = append(errs, field.Invalid(at.Index(i), name, fmt.Sprintf("if '*/%s' is present, must not specify %s", sub, name)))
		case !nested && name != "*" && slices.Contains(resources, "*"):
			errs = append(errs, field.Invalid(at, resources, "if '*' is present, must not specify other resources without subresources"))
		}
	}
	return errs
}

func validateClient(c *admissionregistrationv1.WebhookClientConfig, at *field.Path) field.ErrorList {
	switch {
	case (c.URL == nil) == (c.Service == nil):
		return field.ErrorList{field.Required(at, "exactly one of url or service is required")}
	case c.URL != nil:
		return webhookutil.ValidateWebhookURL(at.Child("url"), *c.URL, true)
	}
	port := int32(443)
	if c.Service.Port != nil {
		port = *c.Service.Port
	}
	return webhookutil.ValidateWebhookService(at.Child("service"), c.Service.Namespace, c.Service.Name, c.Service.Path, port)
}

func defaultValidatingWebhooks(c *admissionregistrationv1.ValidatingWebhookConfiguration) {
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		defaultWebhook(&w.FailurePolicy, &w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector, &w.TimeoutSeconds, w.Rules, &w.ClientConfig)
	}
}

func defaultMutatingWebhooks(c *admissionregistrationv1.MutatingWebhookConfiguration) {
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		set.Pointer(&w.ReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)
		defaultWebhook(&w.FailurePolicy, &w.MatchPolicy, &w.NamespaceSelector, &w.ObjectSelector, &w.TimeoutSeconds, w.Rules, &w.ClientConfig)
	}
}

func defaultWebhook(failure **admissionregistrationv1.FailurePolicyType, match **admissionregistrationv1.MatchPolicyType, namespaces, objects **metav1.LabelSelector,
	timeout **int32, rules []admissionregistrationv1.RuleWithOperations, client *admissionregistrationv1.WebhookClientConfig) {
	set.Pointer(failure, admissionregistrationv1.Fail)
	set.Pointer(match, admissionregistrationv1.Equivalent)
	set.Pointer(namespaces, metav1.LabelSelector{})
	set.Pointer(objects, metav1.LabelSelector{})
	set.Pointer(timeout, int32(10))
	for i := range rules {
		set.Pointer(&rules[i].Scope, admissionregistrationv1.AllScopes)
	}
	if client.Service != nil {
		set.Pointer(&client.Service.Port, int32(443))
	}
}
