// Package check holds the tests that fields of many kinds share.
//
// In:       a value and its path.
// Out:      field errors with the reasons clients know from upstream.
// Promise:  an error's path, type and value are those of the API documentation.
// Not here: what belongs to one kind (kinds) or to pod specs (kinds/podspec).
package check

import (
	"fmt"
	"slices"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Text reports what rule finds wrong with value.
func Text(path *field.Path, value string, rule func(string) []string) field.ErrorList {
	var errs field.ErrorList
	for _, message := range rule(value) {
		errs = append(errs, field.Invalid(path, value, message))
	}
	return errs
}

// Needed is Text for a field that must be there.
func Needed(path *field.Path, value string, rule func(string) []string) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	if rule == nil {
		return nil
	}
	return Text(path, value, rule)
}

// Name turns the rule for an object's name into one for a reference to it.
func Name(rule func(name string, prefix bool) []string) func(string) []string {
	return func(name string) []string { return rule(name, false) }
}

// Subdomain is the rule for most names.
var Subdomain = Name(apivalidation.NameIsDNSSubdomain)

// OneOf reports a value that is none of those allowed; an empty one is missing.
func OneOf[T ~string](path *field.Path, value T, allowed ...T) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	if !slices.Contains(allowed, value) {
		return field.ErrorList{field.NotSupported(path, value, allowed)}
	}
	return nil
}

// OneOfOptional is OneOf for a pointer that may be nil.
func OneOfOptional[T ~string](path *field.Path, value *T, allowed ...T) field.ErrorList {
	if value == nil || slices.Contains(allowed, *value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, *value, allowed)}
}

// NotNegative reports a number below zero.
func NotNegative[N ~int32 | ~int64](path *field.Path, value N) field.ErrorList {
	return apivalidation.ValidateNonnegativeField(int64(value), path)
}

// NotNegativeOptional is NotNegative for a pointer that may be nil.
func NotNegativeOptional[N ~int32 | ~int64](path *field.Path, value *N) field.ErrorList {
	if value == nil {
		return nil
	}
	return NotNegative(path, *value)
}

// Positive reports a number below one.
func Positive[N ~int32 | ~int64](path *field.Path, value N) field.ErrorList {
	if value > 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(path, value, "must be greater than 0")}
}

// Port reports a number that is no TCP or UDP port.
func Port(path *field.Path, port int32) field.ErrorList {
	var errs field.ErrorList
	for _, message := range validation.IsValidPortNum(int(port)) {
		errs = append(errs, field.Invalid(path, port, message))
	}
	return errs
}

// PortNumberOrName reports what is neither a port nor a port's name.
func PortNumberOrName(path *field.Path, port intstr.IntOrString) field.ErrorList {
	if port.Type == intstr.Int {
		return Port(path, port.IntVal)
	}
	return Text(path, port.StrVal, validation.IsValidPortName)
}

// CountOrPercent reports what is neither a count nor a percentage.
func CountOrPercent(path *field.Path, value intstr.IntOrString) field.ErrorList {
	if value.Type == intstr.Int {
		return NotNegative(path, value.IntVal)
	}
	return Text(path, value.StrVal, validation.IsValidPercent)
}

// Percent of a CountOrPercent, and whether it is one.
func Percent(value intstr.IntOrString) (int, bool) {
	if value.Type != intstr.String || len(validation.IsValidPercent(value.StrVal)) > 0 {
		return 0, false
	}
	percent, err := intstr.GetScaledValueFromIntOrPercent(&value, 100, false)
	return percent, err == nil
}

// AtMostHundredPercent reports percentages above 100.
func AtMostHundredPercent(path *field.Path, value intstr.IntOrString) field.ErrorList {
	if percent, ok := Percent(value); ok && percent > 100 {
		return field.ErrorList{field.Invalid(path, value, "must not be greater than 100%")}
	}
	return nil
}

// Unchanged reports a field that may not change once written.
func Unchanged(path *field.Path, value, old any) field.ErrorList {
	return apivalidation.ValidateImmutableField(value, old, path)
}

// Selector reports what is wrong with a selector that a client wrote just now.
func Selector(path *field.Path, selector *metav1.LabelSelector) field.ErrorList {
	return metavalidation.ValidateLabelSelector(selector, metavalidation.LabelSelectorValidationOptions{}, path)
}

// Unique reports values that come twice.
func Unique[T any, K comparable](path *field.Path, values []T, key func(T) K, sub string) field.ErrorList {
	var errs field.ErrorList
	seen := map[K]bool{}
	for i, value := range values {
		k := key(value)
		if seen[k] {
			at := path.Index(i)
			if sub != "" {
				at = at.Child(sub)
			}
			errs = append(errs, field.Duplicate(at, k))
		}
		seen[k] = true
	}
	return errs
}

// ExactlyOne reports when none or several of the named alternatives are set.
func ExactlyOne(path *field.Path, what string, set map[string]bool) field.ErrorList {
	var errs field.ErrorList
	found := ""
	for _, name := range sortedKeys(set) {
		if !set[name] {
			continue
		}
		if found != "" {
			errs = append(errs, field.Forbidden(path.Child(name), fmt.Sprintf("may not specify more than 1 %s", what)))
		}
		found = name
	}
	if found == "" {
		errs = append(errs, field.Required(path, fmt.Sprintf("must specify a %s", what)))
	}
	return errs
}

func sortedKeys(set map[string]bool) []string {
	keys := make([]string, 0, len(set))
	for key := range set {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
