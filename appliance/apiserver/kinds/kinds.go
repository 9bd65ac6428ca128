// Package kinds holds the rules of each kind the API serves, a file a kind.
//
// In:       objects as clients sent them, and as they are stored.
// Out:      RegisterDefaults for the scheme; a resource.Hooks value a kind, which the table's rows name.
// Promise:  defaults, field paths, reasons and what may change are those of the Kubernetes v1.37 API.
// Not here: what needs a second object: admission, allocation, subresource; what every kind shares: resource.
package kinds

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
)

var (
	specPath   = field.NewPath("spec")
	statusPath = field.NewPath("status")
	metaPath   = field.NewPath("metadata")
)

// always makes a Validate hook of a rule that needs no request.
func always[T any](rule func(T) field.ErrorList) func(context.Context, T) field.ErrorList {
	return func(_ context.Context, obj T) field.ErrorList { return rule(obj) }
}

// anyName is the rule for names that only have to fit into a path, as the library sees to for every kind.
func anyName(string, bool) []string { return nil }

// onUpdate makes a ValidateUpdate hook of a rule for the new object and one for the change.
func onUpdate[T any](rule func(T) field.ErrorList, change func(obj, old T) field.ErrorList) func(context.Context, T, T) field.ErrorList {
	return func(_ context.Context, obj, old T) field.ErrorList {
		return append(change(obj, old), rule(obj)...)
	}
}

// selects reports a workload's selector that is missing, selects everything, or misses the template's labels.
func selects(selector *metav1.LabelSelector, template map[string]string, what string) field.ErrorList {
	path := specPath.Child("selector")
	if selector == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	errs := check.Selector(path, selector)
	if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path, selector, "empty selector is invalid for "+what))
	}
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return append(errs, field.Invalid(path, selector, "invalid label selector"))
	}
	if !parsed.Empty() && !parsed.Matches(labels.Set(template)) {
		errs = append(errs, field.Invalid(specPath.Child("template", "metadata", "labels"), template, "`selector` does not match template `labels`"))
	}
	return errs
}

// count is a number in a status.
type count struct {
	name  string
	value int32
}

func notNegative(path *field.Path, counts ...count) field.ErrorList {
	var errs field.ErrorList
	for _, c := range counts {
		errs = append(errs, check.NotNegative(path.Child(c.name), c.value)...)
	}
	return errs
}
