package kinds

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/podspec"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// Deployment rolls its pods from one template to the next.
var Deployment = resource.Hooks[*appsv1.Deployment]{
	Warnings: hints(deploymentHints),
	Validate: always(validateDeployment),
	ValidateUpdate: onUpdate(validateDeployment, func(d, old *appsv1.Deployment) field.ErrorList {
		return selectorStays(d.Spec.Selector, old.Spec.Selector)
	}),
	ValidateStatus: func(_ context.Context, d, old *appsv1.Deployment) field.ErrorList {
		s := &d.Status
		errs := validateReplicaStatus(s.Replicas, count{"updatedReplicas", s.UpdatedReplicas}, count{"readyReplicas", s.ReadyReplicas}, count{"availableReplicas", s.AvailableReplicas})
		errs = append(errs, check.NotNegative(statusPath.Child("unavailableReplicas"), s.UnavailableReplicas)...)
		errs = append(errs, check.NotNegative(statusPath.Child("observedGeneration"), s.ObservedGeneration)...)
		return append(errs, collisionsOnlyGrow(s.CollisionCount, old.Status.CollisionCount)...)
	},
}

func defaultDeployment(d *appsv1.Deployment) {
	podspec.DefaultTemplate(&d.Spec.Template)
	set.Pointer(&d.Spec.Replicas, int32(1))
	set.Default(&d.Spec.Strategy.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		set.Pointer(&d.Spec.Strategy.RollingUpdate, appsv1.RollingUpdateDeployment{})
		set.Pointer(&d.Spec.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		set.Pointer(&d.Spec.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	set.Pointer(&d.Spec.RevisionHistoryLimit, int32(10))
	set.Pointer(&d.Spec.ProgressDeadlineSeconds, int32(600))
}

func validateDeployment(d *appsv1.Deployment) field.ErrorList {
	errs := validateReplicas(d.Spec.Replicas, d.Spec.MinReadySeconds)
	errs = append(errs, validateServing(d.Spec.Selector, &d.Spec.Template, "deployment", "ReplicaSet")...)
	errs = append(errs, validateDeploymentStrategy(&d.Spec.Strategy, specPath.Child("strategy"))...)
	errs = append(errs, check.NotNegativeOptional(specPath.Child("revisionHistoryLimit"), d.Spec.RevisionHistoryLimit)...)
	if deadline := d.Spec.ProgressDeadlineSeconds; deadline != nil {
		at := specPath.Child("progressDeadlineSeconds")
		errs = append(errs, check.NotNegative(at, *deadline)...)
		if *deadline <= d.Spec.MinReadySeconds {
			errs = append(errs, field.Invalid(at, *deadline, "must be greater than minReadySeconds"))
		}
	}
	return errs
}

func validateDeploymentStrategy(strategy *appsv1.DeploymentStrategy, path *field.Path) field.ErrorList {
	switch strategy.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if strategy.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(path.Child("rollingUpdate"), "may not be specified when strategy `type` is '"+string(appsv1.RecreateDeploymentStrategyType)+"'")}
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		if strategy.RollingUpdate == nil {
			return field.ErrorList{field.Required(path.Child("rollingUpdate"), "this should be defaulted and never be nil")}
		}
		return validateSurge(strategy.RollingUpdate.MaxUnavailable, strategy.RollingUpdate.MaxSurge, path.Child("rollingUpdate"))
	default:
		return field.ErrorList{field.NotSupported(path.Child("type"), strategy.Type, []appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType})}
	}
	return nil
}
