package kinds

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/podspec"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// LimitRange bounds what one pod, container or claim of a namespace may ask for.
var LimitRange = resource.Hooks[*corev1.LimitRange]{
	PrepareCreate: func(_ context.Context, l *corev1.LimitRange) {
		if l.Name == "" { // it is referred to by nothing, so it need not be called anything
			l.Name = string(uuid.NewUUID())
		}
	},
	Validate: always(validateLimitRange),
}

// defaultLimitRange completes limits of containers: the largest is also what a container gets that says nothing.
func defaultLimitRange(l *corev1.LimitRange) {
	for i := range l.Spec.Limits {
		item := &l.Spec.Limits[i]
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		inherit := func(to *corev1.ResourceList, from corev1.ResourceList) {
			for name, value := range from {
				if _, found := (*to)[name]; found {
					continue
				}
				if *to == nil {
					*to = corev1.ResourceList{}
				}
				(*to)[name] = value.DeepCopy()
			}
		}
		inherit(&item.Default, item.Max)
		inherit(&item.DefaultRequest, item.Default)
		inherit(&item.DefaultRequest, item.Min)
	}
}

func validateLimitRange(l *corev1.LimitRange) field.ErrorList {
	var errs field.ErrorList
	types := map[corev1.LimitType]bool{}
	for i, item := range l.Spec.Limits {
		at := specPath.Child("limits").Index(i)
		if types[item.Type] {
			errs = append(errs, field.Duplicate(at.Child("type"), item.Type))
		}
		types[item.Type] = true
		if item.Type == corev1.LimitTypePod {
			if len(item.Default) > 0 {
				errs = append(errs, field.Forbidden(at.Child("default"), "may not be specified when `type` is 'Pod'"))
			}
			if len(item.DefaultRequest) > 0 {
				errs = append(errs, field.Forbidden(at.Child("defaultRequest"), "may not be specified when `type` is 'Pod'"))
			}
		}
		if item.Type == corev1.LimitTypePersistentVolumeClaim && len(item.Min)+len(item.Max) == 0 {
			errs = append(errs, field.Required(at.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
		}
		errs = append(errs, ordered(item, at)...)
	}
	return errs
}

// ordered reports limits that contradict each other: min <= defaultRequest <= default <= max.
func ordered(item corev1.LimitRangeItem, at *field.Path) field.ErrorList {
	lists := []struct {
		name   string
		values corev1.ResourceList
	}{{"min", item.Min}, {"defaultRequest", item.DefaultRequest}, {"default", item.Default}, {"max", item.Max}}
	var errs field.ErrorList
	for i, lower := range lists {
		errs = append(errs, podspec.ValidateResources(lower.values, at.Child(lower.name))...)
		for _, upper := range lists[i+1:] {
			for _, name := range sets.List(sets.KeySet(lower.values)) {
				small := lower.values[name]
				if large, found := upper.values[name]; found && small.Cmp(large) > 0 {
					errs = append(errs, field.Invalid(at.Child(lower.name).Key(string(name)), small.String(),
						fmt.Sprintf("%s value %s is greater than %s value %s", lower.name, small.String(), upper.name, large.String())))
				}
			}
		}
	}
	for name, ratio := range item.MaxLimitRequestRatio {
		if ratio.MilliValue() < 1000 {
			errs = append(errs, field.Invalid(at.Child("maxLimitRequestRatio").Key(string(name)), ratio.String(), "ratio "+ratio.String()+" is less than 1"))
		}
	}
	return errs
}
