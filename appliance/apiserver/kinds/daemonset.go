package kinds

import (
	"context"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/podspec"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// DaemonSet counts the versions of its template in an annotation, for clients that still read it there.
var DaemonSet = resource.Hooks[*appsv1.DaemonSet]{
	Warnings:      hints(daemonSetHints),
	PrepareCreate: func(_ context.Context, d *appsv1.DaemonSet) { setTemplateGeneration(d, 1) },
	PrepareUpdate: func(_ context.Context, d, old *appsv1.DaemonSet) {
		generation, err := strconv.ParseInt(old.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
		if err != nil {
			generation = 1
		}
		if !apiequality.Semantic.DeepEqual(d.Spec.Template, old.Spec.Template) {
			generation++
		}
		setTemplateGeneration(d, generation)
	},
	Validate: always(validateDaemonSet),
	ValidateUpdate: onUpdate(validateDaemonSet, func(d, old *appsv1.DaemonSet) field.ErrorList {
		return selectorStays(d.Spec.Selector, old.Spec.Selector)
	}),
	ValidateStatus: func(_ context.Context, d, old *appsv1.DaemonSet) field.ErrorList {
		s := &d.Status
		errs := notNegative(statusPath, count{"currentNumberScheduled", s.CurrentNumberScheduled}, count{"numberMisscheduled", s.NumberMisscheduled},
			count{"desiredNumberScheduled", s.DesiredNumberScheduled}, count{"numberReady", s.NumberReady}, count{"updatedNumberScheduled", s.UpdatedNumberScheduled},
			count{"numberAvailable", s.NumberAvailable}, count{"numberUnavailable", s.NumberUnavailable})
		return append(errs, collisionsOnlyGrow(s.CollisionCount, old.Status.CollisionCount)...)
	},
}

func setTemplateGeneration(d *appsv1.DaemonSet, generation int64) {
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(generation, 10)
}

func defaultDaemonSet(d *appsv1.DaemonSet) {
	podspec.DefaultTemplate(&d.Spec.Template)
	set.Default(&d.Spec.UpdateStrategy.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if d.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		set.Pointer(&d.Spec.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		set.Pointer(&d.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		set.Pointer(&d.Spec.UpdateStrategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
	set.Pointer(&d.Spec.RevisionHistoryLimit, int32(10))
}

func validateDaemonSet(d *appsv1.DaemonSet) field.ErrorList {
	errs := validateServing(d.Spec.Selector, &d.Spec.Template, "daemonset", "DaemonSet")
	errs = append(errs, check.NotNegative(specPath.Child("minReadySeconds"), d.Spec.MinReadySeconds)...)
	errs = append(errs, check.NotNegativeOptional(specPath.Child("revisionHistoryLimit"), d.Spec.RevisionHistoryLimit)...)
	at := specPath.Child("updateStrategy")
	switch strategy := d.Spec.UpdateStrategy; strategy.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
	case appsv1.RollingUpdateDaemonSetStrategyType:
		rolling := strategy.RollingUpdate
		if rolling == nil {
			return append(errs, field.Required(at.Child("rollingUpdate"), ""))
		}
		errs = append(errs, validateSurge(rolling.MaxUnavailable, rolling.MaxSurge, at.Child("rollingUpdate"))...)
		if !nothing(rolling.MaxUnavailable) && !nothing(rolling.MaxSurge) {
			errs = append(errs, field.Invalid(at.Child("rollingUpdate", "maxSurge"), rolling.MaxSurge, "may not be set when maxUnavailable is non-zero"))
		}
	default:
		errs = append(errs, field.NotSupported(at, strategy.Type, []appsv1.DaemonSetUpdateStrategyType{appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType}))
	}
	return errs
}

// ControllerRevision never changes but for its number.
var ControllerRevision = resource.Hooks[*appsv1.ControllerRevision]{
	Validate: always(validateRevision),
	ValidateUpdate: onUpdate(validateRevision, func(r, old *appsv1.ControllerRevision) field.ErrorList {
		return check.Unchanged(field.NewPath("data"), r.Data, old.Data)
	}),
}
