package kinds

import (
	"context"
	"testing"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/utils/ptr"
)

func TestFlowSchema(t *testing.T) {
	schema := &flowcontrolv1.FlowSchema{Spec: flowcontrolv1.FlowSchemaSpec{
		PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: "low"},
		DistinguisherMethod:        &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType},
		Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
			Subjects:         []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindServiceAccount, ServiceAccount: &flowcontrolv1.ServiceAccountSubject{Namespace: "shop", Name: "*"}}},
			ResourceRules:    []flowcontrolv1.ResourcePolicyRule{{Verbs: []string{"get", "proxy"}, APIGroups: []string{""}, Resources: []string{"*"}, Namespaces: []string{"shop"}}},
			NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"*"}, NonResourceURLs: []string{"/healthz", "/debug/*"}}},
		}},
	}}
	defaults.Default(schema)
	type rule = flowcontrolv1.PolicyRulesWithSubjects
	tests := map[string]change[*rule]{
		"a rule may be as it is":           {to: func(*rule) {}},
		"it is about somebody":             {to: func(r *rule) { r.Subjects = nil }, want: "spec.rules[0].subjects: Required value"},
		"somebody of a kind":               {to: func(r *rule) { r.Subjects[0].Kind = "Robot" }, want: "spec.rules[0].subjects[0].kind: Unsupported value"},
		"who is named":                     {to: func(r *rule) { r.Subjects[0].ServiceAccount = nil }, want: "subjects[0].serviceAccount: Required value"},
		"an account has a namespace":       {to: func(r *rule) { r.Subjects[0].ServiceAccount.Namespace = "" }, want: "serviceAccount.namespace: Required value"},
		"an account has an account's name": {to: func(r *rule) { r.Subjects[0].ServiceAccount.Name = "A" }, want: "serviceAccount.name: Invalid value"},
		"one subject is one":               {to: func(r *rule) { r.Subjects[0].User = &flowcontrolv1.UserSubject{Name: "a"} }, want: "subjects[0].user: Forbidden"},
		"a user has a name":                {to: func(r *rule) { r.Subjects[0] = flowcontrolv1.Subject{Kind: "User", User: &flowcontrolv1.UserSubject{}} }, want: "user.name: Required value"},
		"a group has a name": {to: func(r *rule) {
			r.Subjects[0] = flowcontrolv1.Subject{Kind: "Group", Group: &flowcontrolv1.GroupSubject{}}
		}, want: "group.name: Required value"},
		"it is about some requests":          {to: func(r *rule) { r.ResourceRules, r.NonResourceRules = nil, nil }, want: "spec.rules[0]: Required value"},
		"they do something":                  {to: func(r *rule) { r.ResourceRules[0].Verbs = nil }, want: "resourceRules[0].verbs: Required value"},
		"they do what requests do":           {to: func(r *rule) { r.ResourceRules[0].Verbs[0] = "steal" }, want: "resourceRules[0].verbs: Unsupported value"},
		"all verbs are all":                  {to: func(r *rule) { r.ResourceRules[0].Verbs[0] = "*" }, want: "if '*' is present, must not specify other verbs"},
		"they are about something":           {to: func(r *rule) { r.ResourceRules[0].Resources = nil }, want: "resourceRules[0].resources: Required value"},
		"of a group":                         {to: func(r *rule) { r.ResourceRules[0].APIGroups = nil }, want: "resourceRules[0].apiGroups: Required value"},
		"somewhere":                          {to: func(r *rule) { r.ResourceRules[0].Namespaces = nil }, want: "resourceRules[0].namespaces: Required value"},
		"or in the cluster":                  {to: func(r *rule) { r.ResourceRules[0].Namespaces, r.ResourceRules[0].ClusterScope = nil, true }},
		"a namespace has a namespace's name": {to: func(r *rule) { r.ResourceRules[0].Namespaces[0] = "A" }, want: "resourceRules[0].namespaces[0]: Invalid value"},
		"paths have methods":                 {to: func(r *rule) { r.NonResourceRules[0].Verbs[0] = "list" }, want: "nonResourceRules[0].verbs: Unsupported value"},
		"a path is absolute":                 {to: func(r *rule) { r.NonResourceRules[0].NonResourceURLs[0] = "healthz" }, want: "nonResourceURLs[0]: Invalid value"},
		"a path has one end":                 {to: func(r *rule) { r.NonResourceRules[0].NonResourceURLs[1] = "/a*/b" }, want: "nonResourceURLs[1]: Invalid value"},
		"there are paths":                    {to: func(r *rule) { r.NonResourceRules[0].NonResourceURLs = nil }, want: "nonResourceURLs: Required value"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next := schema.DeepCopy()
			tc.to(&next.Spec.Rules[0])
			expect(t, FlowSchema.Validate(context.Background(), next), tc.want)
		})
	}
	schema.Spec.DistinguisherMethod.Type = "ByMood"
	expect(t, FlowSchema.Validate(context.Background(), schema), "spec.distinguisherMethod.type: Unsupported value")
}

func TestPriorityLevel(t *testing.T) {
	level := &flowcontrolv1.PriorityLevelConfiguration{Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
		Type: flowcontrolv1.PriorityLevelEnablementLimited,
		Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{LimitResponse: flowcontrolv1.LimitResponse{
			Type: flowcontrolv1.LimitResponseTypeQueue, Queuing: &flowcontrolv1.QueuingConfiguration{},
		}},
	}}
	defaults.Default(level)
	type limited = flowcontrolv1.LimitedPriorityLevelConfiguration
	tests := map[string]change[*limited]{
		"a level may be as it is by default":   {to: func(*limited) {}},
		"a share is not negative":              {to: func(l *limited) { *l.NominalConcurrencyShares = -1 }, want: "spec.limited.nominalConcurrencyShares: Invalid value"},
		"more than all cannot be lent":         {to: func(l *limited) { *l.LendablePercent = 101 }, want: "spec.limited.lendablePercent: Invalid value"},
		"less than nothing cannot be borrowed": {to: func(l *limited) { l.BorrowingLimitPercent = ptr.To[int32](-1) }, want: "spec.limited.borrowingLimitPercent: Invalid value"},
		"who queues has a queue":               {to: func(l *limited) { l.LimitResponse.Queuing.Queues = -1 }, want: "spec.limited.limitResponse.queuing.queues: Invalid value"},
		"a queue has places":                   {to: func(l *limited) { l.LimitResponse.Queuing.QueueLengthLimit = -1 }, want: "spec.limited.limitResponse.queuing.queueLengthLimit: Invalid value"},
		"a hand is of the queues there are":    {to: func(l *limited) { l.LimitResponse.Queuing.HandSize = 65 }, want: "should not be greater than queues (64)"},
		"a hand is one that can be dealt":      {to: func(l *limited) { l.LimitResponse.Queuing.HandSize = 40 }, want: "required entropy bits"},
		"there are not too many queues":        {to: func(l *limited) { l.LimitResponse.Queuing.Queues = 10_000_001 }, want: "must not be greater than 10000000"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next := level.DeepCopy()
			tc.to(next.Spec.Limited)
			expect(t, PriorityLevelConfiguration.Validate(context.Background(), next), tc.want)
		})
	}
	exempt := &flowcontrolv1.PriorityLevelConfiguration{Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
		Type: flowcontrolv1.PriorityLevelEnablementExempt, Exempt: &flowcontrolv1.ExemptPriorityLevelConfiguration{LendablePercent: ptr.To[int32](-1)},
	}}
	expect(t, PriorityLevelConfiguration.Validate(context.Background(), exempt), "spec.exempt.lendablePercent: Invalid value")
}
