package kinds

import (
	"net/url"
	"strings"
	"sync"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel/environment"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// The registrations of admission webhooks.
var (
	ValidatingWebhookConfiguration = resource.Hooks[*admissionregistrationv1.ValidatingWebhookConfiguration]{
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
	errs = append(errs, validateConditions(w.when, at.Child("matchConditions"))...)
	return append(errs, validateClient(w.client, at.Child("clientConfig"))...)
}

// mostConditions bounds what every request would have to evaluate.
const mostConditions = 64

// validateConditions compiles the conditions as admission will: one that can't be evaluated must not wait for a request.
func validateConditions(conditions []admissionregistrationv1.MatchCondition, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(conditions) > mostConditions {
		errs = append(errs, field.TooMany(at, len(conditions), mostConditions))
	}
	for i, c := range conditions {
		at := at.Index(i)
		errs = append(errs, check.Needed(at.Child("name"), c.Name, validation.IsQualifiedName)...)
		if strings.TrimSpace(c.Expression) == "" {
			errs = append(errs, field.Required(at.Child("expression"), ""))
			continue
		}
		condition := matchconditions.MatchCondition(c)
		result := expressions().CompileCELExpression(&condition, cel.OptionalVariableDeclarations{HasAuthorizer: true}, environment.NewExpressions)
		if result.Error != nil {
			errs = append(errs, field.Invalid(at.Child("expression"), c.Expression, result.Error.Detail))
		}
	}
	return append(errs, check.Unique(at, conditions, func(c admissionregistrationv1.MatchCondition) string { return c.Name }, "name")...)
}

// expressions compiles what conditions are written in; making it costs more than most clusters ever need.
var expressions = sync.OnceValue(func() cel.Compiler {
	return cel.NewCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
})

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
	var errs field.ErrorList
	for _, list := range []struct {
		name  string
		count int
	}{{"operations", len(operations)}, {"apiGroups", len(rule.APIGroups)}, {"apiVersions", len(rule.APIVersions)}, {"resources", len(rule.Resources)}} {
		if list.count == 0 {
			errs = append(errs, field.Required(at.Child(list.name), ""))
		}
	}
	for i, operation := range operations {
		errs = append(errs, check.OneOf(at.Child("operations").Index(i), operation, admissionregistrationv1.OperationAll, admissionregistrationv1.Create,
			admissionregistrationv1.Update, admissionregistrationv1.Delete, admissionregistrationv1.Connect)...)
	}
	return append(errs, check.OneOfOptional(at.Child("scope"), rule.Scope, admissionregistrationv1.ClusterScope, admissionregistrationv1.NamespacedScope, admissionregistrationv1.AllScopes)...)
}

func validateClient(c *admissionregistrationv1.WebhookClientConfig, at *field.Path) field.ErrorList {
	switch {
	case (c.URL == nil) == (c.Service == nil):
		return field.ErrorList{field.Required(at, "exactly one of url or service is required")}
	case c.URL != nil:
		u, err := url.Parse(*c.URL)
		if err != nil {
			return field.ErrorList{field.Required(at.Child("url"), "url must be a valid URL: "+err.Error())}
		}
		if u.Scheme != "https" {
			return field.ErrorList{field.Invalid(at.Child("url"), u.Scheme, "'https' is the only allowed URL scheme; desired format: https://host[/path]")}
		}
		if u.Host == "" {
			return field.ErrorList{field.Invalid(at.Child("url"), u.Host, "host must be specified; desired format: https://host[/path]")}
		}
		return nil
	}
	errs := check.Needed(at.Child("service", "name"), c.Service.Name, nil)
	errs = append(errs, check.Needed(at.Child("service", "namespace"), c.Service.Namespace, nil)...)
	if c.Service.Port != nil {
		errs = append(errs, check.Port(at.Child("service", "port"), *c.Service.Port)...)
	}
	return errs
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

func defaultValidatingPolicy(p *admissionregistrationv1.ValidatingAdmissionPolicy) {
	set.Pointer(&p.Spec.FailurePolicy, admissionregistrationv1.Fail)
	defaultMatch(p.Spec.MatchConstraints)
}

func defaultValidatingPolicyBinding(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding) {
	defaultMatch(b.Spec.MatchResources)
}

func defaultMutatingPolicy(p *admissionregistrationv1.MutatingAdmissionPolicy) {
	set.Pointer(&p.Spec.FailurePolicy, admissionregistrationv1.Fail)
	set.Default(&p.Spec.ReinvocationPolicy, admissionregistrationv1.NeverReinvocationPolicy)
	defaultMatch(p.Spec.MatchConstraints)
}

func defaultMutatingPolicyBinding(b *admissionregistrationv1.MutatingAdmissionPolicyBinding) {
	defaultMatch(b.Spec.MatchResources)
}

func defaultMatch(m *admissionregistrationv1.MatchResources) {
	if m == nil {
		return
	}
	set.Pointer(&m.MatchPolicy, admissionregistrationv1.Equivalent)
	set.Pointer(&m.NamespaceSelector, metav1.LabelSelector{})
	set.Pointer(&m.ObjectSelector, metav1.LabelSelector{})
	for _, rules := range [][]admissionregistrationv1.NamedRuleWithOperations{m.ResourceRules, m.ExcludeResourceRules} {
		for i := range rules {
			set.Pointer(&rules[i].Scope, admissionregistrationv1.AllScopes)
		}
	}
}
