package kinds

import (
	"regexp"
	"slices"
	"strings"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
)

// admissionPolicy is what validating and mutating policies have in common.
type admissionPolicy struct {
	params     *admissionregistrationv1.ParamKind
	match      *admissionregistrationv1.MatchResources
	variables  []admissionregistrationv1.Variable
	conditions []admissionregistrationv1.MatchCondition
	failure    *admissionregistrationv1.FailurePolicyType
	// deletes says whether the policy can be about objects that go.
	deletes bool
}

// validate returns, beside what is wrong, what compiles the policy's own expressions: they may name its variables.
func (p admissionPolicy) validate(known map[string]bool) (expressions, field.ErrorList) {
	var errs field.ErrorList
	if p.failure == nil {
		errs = append(errs, field.Required(specPath.Child("failurePolicy"), ""))
	}
	errs = append(errs, check.OneOfOptional(specPath.Child("failurePolicy"), p.failure, admissionregistrationv1.Ignore, admissionregistrationv1.Fail)...)
	if p.params != nil {
		errs = append(errs, validateParamKind(p.params, specPath.Child("paramKind"))...)
	}
	constraints := specPath.Child("matchConstraints")
	switch {
	case p.match == nil:
		errs = append(errs, field.Required(constraints, ""))
	case len(p.match.ResourceRules) == 0:
		errs = append(errs, field.Required(constraints.Child("resourceRules"), ""))
	}
	errs = append(errs, validateMatch(p.match, p.deletes, constraints)...)

	compiler, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		return expressions{compiler: plain()}, append(errs, field.InternalError(specPath, err))
	}
	e := expressions{compiler, known}
	errs = append(errs, e.variables(compiler, p.variables, p.options())...)
	return e, append(errs, e.conditions(p.conditions, p.params != nil, specPath.Child("matchConditions"))...)
}

// options are what the policy's expressions may name.
func (p admissionPolicy) options() cel.OptionalVariableDeclarations {
	return cel.OptionalVariableDeclarations{HasParams: p.params != nil, HasAuthorizer: true}
}

// expressions every policy has, as a set with others of its own.
func (p admissionPolicy) expressions(others ...string) map[string]bool {
	known := map[string]bool{}
	for _, v := range p.variables {
		known[v.Expression] = true
	}
	for _, c := range p.conditions {
		known[c.Expression] = true
	}
	for _, expression := range others {
		known[expression] = true
	}
	return known
}

// variables are compiled in their order, since each may name those before it.
func (e expressions) variables(compiler *cel.CompositedCompiler, variables []admissionregistrationv1.Variable, options cel.OptionalVariableDeclarations) field.ErrorList {
	var errs field.ErrorList
	base := specPath.Child("variables")
	for i, v := range variables {
		name, expression := base.Index(i).Child("name"), base.Index(i).Child("expression")
		switch {
		case strings.TrimSpace(v.Name) == "":
			errs = append(errs, field.Required(name, "name is not specified"))
		case !isIdentifier(v.Name):
			errs = append(errs, field.Invalid(name, v.Name, "must be a valid CEL identifier"))
		}
		if strings.TrimSpace(v.Expression) == "" {
			errs = append(errs, field.Required(expression, "expression is not specified"))
			continue
		}
		result := compiler.CompileAndStoreVariable(&validating.Variable{Name: v.Name, Expression: v.Expression}, options, e.mode(v.Expression))
		if result.Error != nil {
			errs = append(errs, field.Invalid(expression, v.Expression, result.Error.Detail))
		}
	}
	return errs
}

// identifier is a name in CEL, unless it is one of its reserved words, which the library escapes like this.
var identifier = regexp.MustCompile("^[_a-zA-Z][_a-zA-Z0-9]*$")

func isIdentifier(name string) bool {
	escaped, ok := apiservercel.Escape(name)
	return ok && identifier.MatchString(name) && escaped != "__"+name+"__"
}

func validateParamKind(kind *admissionregistrationv1.ParamKind, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch group, version, qualified := strings.Cut(kind.APIVersion, "/"); {
	case kind.APIVersion == "":
		errs = append(errs, field.Required(at.Child("apiVersion"), ""))
	case !qualified:
		errs = append(errs, check.Text(at.Child("apiVersion"), group, validation.IsDNS1035Label)...)
	default:
		errs = append(errs, check.Text(at.Child("apiVersion"), group, check.Subdomain)...)
		errs = append(errs, check.Text(at.Child("apiVersion"), version, validation.IsDNS1035Label)...)
	}
	if kind.Kind == "" {
		return append(errs, field.Required(at.Child("kind"), ""))
	}
	for _, message := range validation.IsDNS1035Label(strings.ToLower(kind.Kind)) {
		errs = append(errs, field.Invalid(at.Child("kind"), kind.Kind, "may have mixed case, but should otherwise match: "+message))
	}
	return errs
}

// validateMatch checks what a policy or a binding is about.
func validateMatch(m *admissionregistrationv1.MatchResources, deletes bool, at *field.Path) field.ErrorList {
	if m == nil {
		return nil
	}
	var errs field.ErrorList
	if m.MatchPolicy == nil {
		errs = append(errs, field.Required(at.Child("matchPolicy"), ""))
	}
	errs = append(errs, check.OneOfOptional(at.Child("matchPolicy"), m.MatchPolicy, admissionregistrationv1.Exact, admissionregistrationv1.Equivalent)...)
	errs = append(errs, check.Selector(at.Child("namespaceSelector"), m.NamespaceSelector)...)
	errs = append(errs, check.Selector(at.Child("objectSelector"), m.ObjectSelector)...)
	for _, list := range []struct {
		name  string
		rules []admissionregistrationv1.NamedRuleWithOperations
	}{{"resourceRules", m.ResourceRules}, {"excludeResourceRules", m.ExcludeResourceRules}} {
		for i := range list.rules {
			rule, at := &list.rules[i], at.Child(list.name).Index(i)
			errs = append(errs, validateRule(&rule.Rule, rule.Operations, at)...)
			errs = append(errs, validateResourceNames(rule.ResourceNames, at.Child("resourceNames"))...)
			if j := slices.Index(rule.Operations, admissionregistrationv1.Delete); j >= 0 && !deletes {
				errs = append(errs, field.NotSupported(at.Child("operations").Index(j), rule.Operations[j], []admissionregistrationv1.OperationType{
					admissionregistrationv1.OperationAll, admissionregistrationv1.Create, admissionregistrationv1.Update, admissionregistrationv1.Connect}))
			}
		}
	}
	return errs
}

func validateResourceNames(names []string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, name := range names {
		errs = append(errs, check.Text(at.Index(i), name, check.Name(path.ValidatePathSegmentName))...)
	}
	return append(errs, check.Unique(at, names, func(name string) string { return name }, "")...)
}

// validatePolicyBinding checks what bindings of both kinds have in common.
func validatePolicyBinding(policy string, ref *admissionregistrationv1.ParamRef, match *admissionregistrationv1.MatchResources, deletes bool) field.ErrorList {
	errs := check.Needed(specPath.Child("policyName"), policy, check.Subdomain)
	if ref != nil {
		errs = append(errs, validateParamRef(ref, specPath.Child("paramRef"))...)
	}
	return append(errs, validateMatch(match, deletes, specPath.Child("matchResources"))...)
}

func validateParamRef(ref *admissionregistrationv1.ParamRef, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case ref.Name != "" && ref.Selector != nil:
		errs = append(errs, field.Forbidden(at.Child("name"), "name and selector are mutually exclusive"),
			field.Forbidden(at.Child("selector"), "name and selector are mutually exclusive"))
	case ref.Name != "":
		errs = append(errs, check.Text(at.Child("name"), ref.Name, check.Name(path.ValidatePathSegmentName))...)
	case ref.Selector != nil:
		errs = append(errs, check.Selector(at.Child("selector"), ref.Selector)...)
	default:
		errs = append(errs, field.Required(at, "one of name or selector must be specified"))
	}
	if ref.ParameterNotFoundAction == nil {
		return append(errs, field.Required(at.Child("parameterNotFoundAction"), ""))
	}
	return append(errs, check.OneOf(at.Child("parameterNotFoundAction"), *ref.ParameterNotFoundAction, admissionregistrationv1.AllowAction, admissionregistrationv1.DenyAction)...)
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
