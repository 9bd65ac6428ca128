package kinds

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
)

func TestResourceQuota(t *testing.T) {
	amounts := func(pairs ...string) corev1.ResourceList {
		list := corev1.ResourceList{}
		for i := 0; i < len(pairs); i += 2 {
			list[corev1.ResourceName(pairs[i])] = apiresource.MustParse(pairs[i+1])
		}
		return list
	}
	expression := func(scope corev1.ResourceQuotaScope, operator corev1.ScopeSelectorOperator, values ...string) *corev1.ScopeSelector {
		return &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{{ScopeName: scope, Operator: operator, Values: values}}}
	}
	type spec = corev1.ResourceQuotaSpec
	tests := map[string]struct {
		spec spec
		want string
	}{
		"what there is to count": {spec: spec{Hard: amounts("pods", "3", "cpu", "1", "limits.memory", "1Gi", "requests.storage", "1Ti", "requests.hugepages-2Mi", "4Mi",
			"count/deployments.apps", "2", "gold.storageclass.storage.k8s.io/requests.storage", "1Gi", "requests.example.com/gpu", "1")}},
		"nothing like it":               {spec: spec{Hard: amounts("cats", "3")}, want: "spec.hard[cats]: Invalid value: \"cats\": must be a standard resource for quota"},
		"a name that is none":           {spec: spec{Hard: amounts("a/b/c", "3")}, want: "spec.hard[a/b/c]: Invalid value"},
		"less than none":                {spec: spec{Hard: amounts("pods", "-3")}, want: "must be greater than or equal to 0"},
		"half a pod":                    {spec: spec{Hard: amounts("pods", "500m")}, want: "must be an integer"},
		"a scope":                       {spec: spec{Hard: amounts("pods", "3"), Scopes: []corev1.ResourceQuotaScope{"BestEffort", "Terminating"}}},
		"a scope there is not":          {spec: spec{Scopes: []corev1.ResourceQuotaScope{"Worst"}}, want: "spec.scopes: Invalid value: [\"Worst\"]: unsupported scope"},
		"a scope none of it is in":      {spec: spec{Hard: amounts("cpu", "3"), Scopes: []corev1.ResourceQuotaScope{"BestEffort"}}, want: "unsupported scope applied to resource"},
		"services have no scope":        {spec: spec{Hard: amounts("services", "3"), Scopes: []corev1.ResourceQuotaScope{"NotTerminating"}}, want: "unsupported scope applied to resource"},
		"a scope and its opposite":      {spec: spec{Scopes: []corev1.ResourceQuotaScope{"BestEffort", "NotBestEffort"}}, want: "conflicting scopes"},
		"one of some priorities":        {spec: spec{ScopeSelector: expression("PriorityClass", "In", "high")}},
		"one of none":                   {spec: spec{ScopeSelector: expression("PriorityClass", "In")}, want: "spec.scopeSelector.matchExpressions.values: Required value"},
		"any, and one":                  {spec: spec{ScopeSelector: expression("PriorityClass", "Exists", "high")}, want: "must be no value"},
		"a comparison there is not":     {spec: spec{ScopeSelector: expression("PriorityClass", "Like", "high")}, want: "not a valid selector operator"},
		"one has it or not":             {spec: spec{ScopeSelector: expression("BestEffort", "In", "yes")}, want: "must be 'Exists' when scope is any of"},
		"a class of volumes and claims": {spec: spec{Hard: amounts("persistentvolumeclaims", "3"), ScopeSelector: expression("VolumeAttributesClass", "In", "gold")}},
		"a class of volumes and pods":   {spec: spec{Hard: amounts("pods", "3"), ScopeSelector: expression("VolumeAttributesClass", "In", "gold")}, want: "unsupported scope applied to resource"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			expect(t, ResourceQuota.Validate(context.Background(), &corev1.ResourceQuota{Spec: tc.spec}), tc.want)
		})
	}
}
