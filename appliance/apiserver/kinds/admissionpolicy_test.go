package kinds

import (
	"context"
	"strings"
	"testing"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func matchDeployments(operations ...admissionregistrationv1.OperationType) *admissionregistrationv1.MatchResources {
	return &admissionregistrationv1.MatchResources{ResourceRules: []admissionregistrationv1.NamedRuleWithOperations{{
		RuleWithOperations: admissionregistrationv1.RuleWithOperations{
			Operations: operations,
			Rule:       admissionregistrationv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}},
		},
	}}}
}

func TestValidatingAdmissionPolicy(t *testing.T) {
	policy := &admissionregistrationv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: "few"},
		Spec: admissionregistrationv1.ValidatingAdmissionPolicySpec{
			ParamKind:        &admissionregistrationv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"},
			MatchConstraints: matchDeployments(admissionregistrationv1.Create, admissionregistrationv1.Delete),
			Variables: []admissionregistrationv1.Variable{
				{Name: "replicas", Expression: "object.spec.replicas"},
				{Name: "many", Expression: "variables.replicas > int(params.data.most)"},
			},
			MatchConditions: []admissionregistrationv1.MatchCondition{{Name: "shop", Expression: "request.namespace == 'shop'"}},
			Validations: []admissionregistrationv1.Validation{{
				Expression: "!variables.many", MessageExpression: "'at most ' + params.data.most", Reason: ptr.To(metav1.StatusReasonForbidden),
			}},
			AuditAnnotations: []admissionregistrationv1.AuditAnnotation{{Key: "replicas", ValueExpression: "string(variables.replicas)"}},
		},
	}
	defaults.Default(policy)
	if *policy.Spec.FailurePolicy != admissionregistrationv1.Fail || *policy.Spec.MatchConstraints.MatchPolicy != admissionregistrationv1.Equivalent {
		t.Errorf("defaults: %+v", policy.Spec)
	}
	type spec = admissionregistrationv1.ValidatingAdmissionPolicySpec
	tests := map[string]change[*spec]{
		"a policy may be as it is":            {to: func(*spec) {}},
		"an expression has to compile":        {to: func(s *spec) { s.Validations[0].Expression = "object.x >" }, want: `spec.validations[0].expression: Invalid value: "object.x >": compilation failed`},
		"an expression has to be true or not": {to: func(s *spec) { s.Validations[0].Expression = "'yes'" }, want: "spec.validations[0].expression: Invalid value: \"'yes'\": must evaluate to bool but got string"},
		"an expression is needed":             {to: func(s *spec) { s.Validations[0].Expression = " " }, want: "spec.validations[0].expression: Required value"},
		"parameters need a kind":              {to: func(s *spec) { s.ParamKind = nil }, want: "undeclared reference to 'params'"},
		"a parameter's version is a version":  {to: func(s *spec) { s.ParamKind.APIVersion = "v1/" }, want: "spec.paramKind.apiVersion: Invalid value"},
		"a parameter's kind is a kind":        {to: func(s *spec) { s.ParamKind.Kind = "Config Map" }, want: "may have mixed case"},
		"a variable has to compile":           {to: func(s *spec) { s.Variables[0].Expression = "object." }, want: "spec.variables[0].expression: Invalid value"},
		"a variable is known after its turn":  {to: func(s *spec) { s.Variables[0].Expression = "variables.many" }, want: "spec.variables[0].expression: Invalid value: \"variables.many\": compilation failed"},
		"a variable needs a name":             {to: func(s *spec) { s.Variables[0].Name = "" }, want: "spec.variables[0].name: Required value"},
		"reserved words name no variables":    {to: func(s *spec) { s.Variables[0].Name = "namespace" }, want: "spec.variables[0].name: Invalid value: \"namespace\": must be a valid CEL identifier"},
		"names of variables have no dashes":   {to: func(s *spec) { s.Variables[0].Name = "a-b" }, want: "must be a valid CEL identifier"},
		"the later of two variables is meant": {to: func(s *spec) { s.Variables = append(s.Variables, s.Variables[1]) }},
		"conditions come before variables":    {to: func(s *spec) { s.MatchConditions[0].Expression = "variables.many" }, want: "spec.matchConditions[0].expression: Invalid value"},
		"conditions have parameters":          {to: func(s *spec) { s.MatchConditions[0].Expression = "has(params.data)" }},
		"a message is text":                   {to: func(s *spec) { s.Validations[0].MessageExpression = "1 + 1" }, want: "spec.validations[0].messageExpression: Invalid value"},
		"a message tells of no one's rights": {to: func(s *spec) {
			s.Validations[0].MessageExpression = "string(authorizer.path('/').check('get').allowed())"
		}, want: "undeclared reference to 'authorizer'"},
		"a message has one line":            {to: func(s *spec) { s.Validations[0].Message = "a\nb" }, want: "spec.validations[0].message: Invalid value"},
		"many lines need a message":         {to: func(s *spec) { s.Validations[0].Expression = "true\n&& true" }, want: "spec.validations[0].message: Required value: message must be specified if expression contains line breaks"},
		"a reason is one that clients know": {to: func(s *spec) { s.Validations[0].Reason = ptr.To(metav1.StatusReason("Mood")) }, want: "spec.validations[0].reason: Unsupported value"},
		"an annotation is text or nothing":  {to: func(s *spec) { s.AuditAnnotations[0].ValueExpression = "true" }, want: "spec.auditAnnotations[0].valueExpression: Invalid value"},
		"an annotation may be nothing":      {to: func(s *spec) { s.AuditAnnotations[0].ValueExpression = "null" }},
		"an annotation has a simple key":    {to: func(s *spec) { s.AuditAnnotations[0].Key = "a/b" }, want: "spec.auditAnnotations[0].key: Invalid value"},
		"an annotation is not for ever": {to: func(s *spec) {
			s.AuditAnnotations[0].ValueExpression = "'" + strings.Repeat("x", longestAuditExpression) + "'"
		}, want: "spec.auditAnnotations[0].valueExpression: Too long"},
		"a policy does something":         {to: func(s *spec) { s.Validations, s.AuditAnnotations = nil, nil }, want: "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item"},
		"a policy is about something":     {to: func(s *spec) { s.MatchConstraints.ResourceRules = nil }, want: "spec.matchConstraints.resourceRules: Required value"},
		"a rule names its resources":      {to: func(s *spec) { s.MatchConstraints.ResourceRules[0].Resources = nil }, want: "spec.matchConstraints.resourceRules[0].resources: Required value"},
		"a rule is about all or some":     {to: func(s *spec) { s.MatchConstraints.ResourceRules[0].APIGroups = []string{"*", "apps"} }, want: "if '*' is present, must not specify other API groups"},
		"a rule names nothing twice":      {to: func(s *spec) { s.MatchConstraints.ResourceRules[0].Resources = []string{"pods/*", "pods/log"} }, want: "if 'pods/*' is present, must not specify pods/log"},
		"all resources have subresources": {to: func(s *spec) { s.MatchConstraints.ResourceRules[0].Resources = []string{"*", "pods/log"} }},
		"objects are named by path":       {to: func(s *spec) { s.MatchConstraints.ResourceRules[0].ResourceNames = []string{"a/b"} }, want: "spec.matchConstraints.resourceRules[0].resourceNames[0]: Invalid value"},
		"a policy fails or is ignored":    {to: func(s *spec) { s.FailurePolicy = ptr.To(admissionregistrationv1.FailurePolicyType("Maybe")) }, want: "spec.failurePolicy: Unsupported value"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next := policy.DeepCopy()
			tc.to(&next.Spec)
			expect(t, ValidatingAdmissionPolicy.Validate(context.Background(), next), tc.want)
			expect(t, ValidatingAdmissionPolicy.ValidateUpdate(context.Background(), next, policy), tc.want)
			expect(t, ValidatingAdmissionPolicy.ValidateUpdate(context.Background(), next, next), "")
		})
	}
}

func TestMutatingAdmissionPolicy(t *testing.T) {
	policy := &admissionregistrationv1.MutatingAdmissionPolicy{Spec: admissionregistrationv1.MutatingAdmissionPolicySpec{
		MatchConstraints:   matchDeployments(admissionregistrationv1.Create, admissionregistrationv1.Update),
		ReinvocationPolicy: admissionregistrationv1.NeverReinvocationPolicy,
		Variables:          []admissionregistrationv1.Variable{{Name: "team", Expression: "'web'"}},
		Mutations: []admissionregistrationv1.Mutation{
			{PatchType: admissionregistrationv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionregistrationv1.ApplyConfiguration{
				Expression: `Object{metadata: Object.metadata{labels: {"team": variables.team}}}`}},
			{PatchType: admissionregistrationv1.PatchTypeJSONPatch, JSONPatch: &admissionregistrationv1.JSONPatch{
				Expression: `[JSONPatch{op: "add", path: "/metadata/labels/" + jsonpatch.escapeKey("a/b"), value: "c"}]`}},
		},
	}}
	defaults.Default(policy)
	type spec = admissionregistrationv1.MutatingAdmissionPolicySpec
	tests := map[string]change[*spec]{
		"a policy may be as it is":        {to: func(*spec) {}},
		"an apply needs an object":        {to: func(s *spec) { s.Mutations[0].ApplyConfiguration.Expression = "{}" }, want: "spec.mutations[0].applyConfiguration.expression: Invalid value: \"{}\": must evaluate to Object"},
		"a patch needs a list of patches": {to: func(s *spec) { s.Mutations[1].JSONPatch.Expression = "Object{}" }, want: "spec.mutations[1].jsonPatch.expression: Invalid value"},
		"an expression is needed":         {to: func(s *spec) { s.Mutations[1].JSONPatch.Expression = "" }, want: "spec.mutations[1].jsonPatch.expression: Required value"},
		"the patch's type decides":        {to: func(s *spec) { s.Mutations[0].PatchType = "JSONPatch" }, want: "spec.mutations[0].jsonPatch: Required value"},
		"one mutation has one patch":      {to: func(s *spec) { s.Mutations[0].JSONPatch = s.Mutations[1].JSONPatch }, want: "spec.mutations[0].jsonPatch: Invalid value"},
		"there are two types of patches":  {to: func(s *spec) { s.Mutations[0].PatchType = "Merge" }, want: "spec.mutations[0].patchType: Unsupported value"},
		"a policy does something":         {to: func(s *spec) { s.Mutations = nil }, want: "spec.mutations: Required value"},
		"what goes cannot be changed":     {to: func(s *spec) { s.MatchConstraints = matchDeployments(admissionregistrationv1.Delete) }, want: "spec.matchConstraints.resourceRules[0].operations[0]: Unsupported value"},
		"a policy is called again or not": {to: func(s *spec) { s.ReinvocationPolicy = "Always" }, want: "spec.reinvocationPolicy: Unsupported value"},
		"a policy says which it is":       {to: func(s *spec) { s.ReinvocationPolicy = "" }, want: "spec.reinvocationPolicy: Required value"},
		"variables are not patches":       {to: func(s *spec) { s.Variables[0].Expression = "JSONPatch{}" }, want: "spec.variables[0].expression: Invalid value"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next := policy.DeepCopy()
			tc.to(&next.Spec)
			expect(t, MutatingAdmissionPolicy.Validate(context.Background(), next), tc.want)
			expect(t, MutatingAdmissionPolicy.ValidateUpdate(context.Background(), next, policy), tc.want)
		})
	}
}

func TestBindingsOfPolicies(t *testing.T) {
	binding := &admissionregistrationv1.ValidatingAdmissionPolicyBinding{Spec: admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec{
		PolicyName:        "few",
		ParamRef:          &admissionregistrationv1.ParamRef{Name: "most", Namespace: "shop", ParameterNotFoundAction: ptr.To(admissionregistrationv1.DenyAction)},
		MatchResources:    &admissionregistrationv1.MatchResources{},
		ValidationActions: []admissionregistrationv1.ValidationAction{admissionregistrationv1.Deny, admissionregistrationv1.Audit},
	}}
	defaults.Default(binding)
	type spec = admissionregistrationv1.ValidatingAdmissionPolicyBindingSpec
	tests := map[string]change[*spec]{
		"a binding may be as it is":               {to: func(*spec) {}},
		"a policy is needed":                      {to: func(s *spec) { s.PolicyName = "" }, want: "spec.policyName: Required value"},
		"a policy has a policy's name":            {to: func(s *spec) { s.PolicyName = "A/B" }, want: "spec.policyName: Invalid value"},
		"parameters are named or selected":        {to: func(s *spec) { s.ParamRef.Selector = &metav1.LabelSelector{} }, want: "spec.paramRef.selector: Forbidden"},
		"parameters are named at all":             {to: func(s *spec) { s.ParamRef.Name = "" }, want: "spec.paramRef: Required value: one of name or selector must be specified"},
		"missing parameters have a consequence":   {to: func(s *spec) { s.ParamRef.ParameterNotFoundAction = nil }, want: "spec.paramRef.parameterNotFoundAction: Required value"},
		"the consequence is to allow or deny":     {to: func(s *spec) { *s.ParamRef.ParameterNotFoundAction = "Ask" }, want: "spec.paramRef.parameterNotFoundAction: Unsupported value"},
		"an action is needed":                     {to: func(s *spec) { s.ValidationActions = nil }, want: "spec.validationActions: Required value"},
		"who is refused needs no warning":         {to: func(s *spec) { s.ValidationActions[1] = admissionregistrationv1.Warn }, want: "must not contain both Deny and Warn"},
		"actions are known ones":                  {to: func(s *spec) { s.ValidationActions[1] = "Sigh" }, want: "spec.validationActions[1]: Unsupported value"},
		"actions come once":                       {to: func(s *spec) { s.ValidationActions[1] = admissionregistrationv1.Deny }, want: "spec.validationActions[1]: Duplicate value"},
		"a binding need not limit what it is for": {to: func(s *spec) { s.MatchResources = nil }},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next := binding.DeepCopy()
			tc.to(&next.Spec)
			expect(t, ValidatingAdmissionPolicyBinding.Validate(context.Background(), next), tc.want)
		})
	}
	mutating := &admissionregistrationv1.MutatingAdmissionPolicyBinding{Spec: admissionregistrationv1.MutatingAdmissionPolicyBindingSpec{
		PolicyName: "label", MatchResources: matchDeployments(admissionregistrationv1.Delete),
	}}
	defaults.Default(mutating)
	expect(t, MutatingAdmissionPolicyBinding.Validate(context.Background(), mutating), "spec.matchResources.resourceRules[0].operations[0]: Unsupported value")
}
