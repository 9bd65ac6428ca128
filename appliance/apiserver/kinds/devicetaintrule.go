package kinds

import (
	"context"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// mostRuleConditions is what the API says a rule's status holds at most.
const mostRuleConditions = 8

// DeviceTaintRule taints devices from outside of the driver that describes them.
var DeviceTaintRule = resource.Hooks[*resourcev1.DeviceTaintRule]{
	NeedResourceVersion: true,
	PrepareCreate:       func(_ context.Context, r *resourcev1.DeviceTaintRule) { stampDeviceTaint(&r.Spec.Taint, metav1.Now()) },
	PrepareUpdate:       func(_ context.Context, r, old *resourcev1.DeviceTaintRule) { redateDeviceTaint(r, old, metav1.Now()) },
	Validate:            always(validateDeviceTaintRule),
	ValidateStatus: func(_ context.Context, r, _ *resourcev1.DeviceTaintRule) field.ErrorList {
		at := statusPath.Child("conditions")
		var errs field.ErrorList
		if count := len(r.Status.Conditions); count > mostRuleConditions {
			errs = append(errs, field.TooMany(at, count, mostRuleConditions))
		}
		return append(errs, metav1validation.ValidateConditions(r.Status.Conditions, at)...)
	},
}

// stampDeviceTaint dates a taint that brings no date: evictions are counted from it.
func stampDeviceTaint(t *resourcev1.DeviceTaint, now metav1.Time) {
	if t.TimeAdded == nil {
		t.TimeAdded = now.DeepCopy()
	}
}

// redateDeviceTaint keeps the date of a taint that a client sent back without it, and begins anew with another effect.
func redateDeviceTaint(r, old *resourcev1.DeviceTaintRule, now metav1.Time) {
	is, was := &r.Spec.Taint, &old.Spec.Taint
	same := is.TimeAdded == nil || was.TimeAdded != nil && is.TimeAdded.Equal(was.TimeAdded)
	switch {
	case same && is.Effect != was.Effect:
		is.TimeAdded = now.DeepCopy()
	case is.TimeAdded == nil:
		is.TimeAdded = was.TimeAdded.DeepCopy()
	}
	stampDeviceTaint(is, now)
}

func validateDeviceTaintRule(r *resourcev1.DeviceTaintRule) field.ErrorList {
	var errs field.ErrorList
	if s := r.Spec.DeviceSelector; s != nil {
		at := specPath.Child("deviceSelector")
		if s.Driver != nil {
			errs = append(errs, validateDriverName(*s.Driver, at.Child("driver"))...)
		}
		if s.Pool != nil {
			errs = append(errs, validatePoolName(*s.Pool, at.Child("pool"))...)
		}
		if s.Device != nil {
			errs = append(errs, check.Text(at.Child("device"), *s.Device, validation.IsDNS1123Label)...)
		}
	}
	return append(errs, validateDeviceTaint(&r.Spec.Taint, specPath.Child("taint"))...)
}

func validateDeviceTaint(t *resourcev1.DeviceTaint, at *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabelName(t.Key, at.Child("key"))
	errs = append(errs, check.Text(at.Child("value"), t.Value, validation.IsValidLabelValue)...)
	return append(errs, check.OneOf(at.Child("effect"), t.Effect, resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone)...)
}
