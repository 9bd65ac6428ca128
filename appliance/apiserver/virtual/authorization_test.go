package virtual

import (
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func TestQuestionsAboutAccess(t *testing.T) {
	type (
		resource = authorizationv1.ResourceAttributes
		path     = authorizationv1.NonResourceAttributes
		byField  = authorizationv1.FieldSelectorAttributes
		byLabel  = authorizationv1.LabelSelectorAttributes
	)
	in := func(key, value string) []metav1.LabelSelectorRequirement {
		return []metav1.LabelSelectorRequirement{{Key: key, Operator: metav1.LabelSelectorOpIn, Values: []string{value}}}
	}
	tests := map[string]struct {
		meta      metav1.ObjectMeta
		namespace string // of the request
		resource  *resource
		path      *path
		want      string
	}{
		"a resource":                                {resource: &resource{Verb: "get"}},
		"a path":                                    {path: &path{Path: "/healthz"}},
		"nothing is no question":                    {want: "spec: Invalid value: null: exactly one of nonResourceAttributes or resourceAttributes must be specified"},
		"both are two":                              {resource: &resource{}, path: &path{}, want: "spec: Invalid value"},
		"a question has no name":                    {meta: metav1.ObjectMeta{Name: "a"}, path: &path{}, want: "metadata: Invalid value"},
		"a question has no labels":                  {meta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, path: &path{}, want: "must be empty"},
		"empty labels are none":                     {meta: metav1.ObjectMeta{Labels: map[string]string{}}, path: &path{}},
		"who wrote it is nobody's doing":            {meta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "a"}}}, path: &path{}},
		"one about a namespace has one":             {meta: metav1.ObjectMeta{Namespace: "shop"}, namespace: "shop", resource: &resource{}},
		"and nothing else":                          {meta: metav1.ObjectMeta{Namespace: "shop", GenerateName: "a"}, namespace: "shop", resource: &resource{}, want: "must be empty except for namespace"},
		"a selector has requirements":               {resource: &resource{LabelSelector: &byLabel{Requirements: in("app", "web")}}},
		"or is a text":                              {resource: &resource{LabelSelector: &byLabel{RawSelector: "app=web"}, FieldSelector: &byField{RawSelector: "a=b"}}},
		"labels are selected in one way":            {resource: &resource{LabelSelector: &byLabel{RawSelector: "a", Requirements: in("a", "b")}}, want: "spec.resourceAttributes.labelSelector.rawSelector: Invalid value"},
		"labels are selected somehow":               {resource: &resource{LabelSelector: &byLabel{}}, want: "spec.resourceAttributes.labelSelector.requirements: Required value"},
		"fields are selected somehow":               {resource: &resource{FieldSelector: &byField{}}, want: "spec.resourceAttributes.fieldSelector.requirements: Required value"},
		"a label has a name":                        {resource: &resource{LabelSelector: &byLabel{Requirements: in("a b", "c")}}, want: "labelSelector.requirements[0].key: Invalid value"},
		"a label's value is one":                    {resource: &resource{LabelSelector: &byLabel{Requirements: in("a", "b c")}}, want: "labelSelector.requirements[0].values[0]: Invalid value"},
		"a field is compared with something":        {resource: &resource{FieldSelector: &byField{Requirements: []metav1.FieldSelectorRequirement{{Key: "a", Operator: metav1.FieldSelectorOpIn}}}}, want: "fieldSelector.requirements[0].values: Required value"},
		"an operator of tomorrow is not understood": {resource: &resource{FieldSelector: &byField{Requirements: []metav1.FieldSelectorRequirement{{Key: "a", Operator: "Near"}}}}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			errs := append(validateAttributes(tc.resource, tc.path, field.NewPath("spec")), validateNameless(tc.meta, tc.namespace)...)
			switch got := errs.ToAggregate(); {
			case tc.want == "" && got != nil:
				t.Errorf("refused: %v", got)
			case tc.want != "" && (got == nil || !strings.Contains(got.Error(), tc.want)):
				t.Errorf("errors = %v, want %q", got, tc.want)
			}
		})
	}
}
