package kinds

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/podspec"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// StatefulSet keeps pods that have names and claims of their own.
var StatefulSet = resource.Hooks[*appsv1.StatefulSet]{
	Warnings:       hints(statefulSetHints),
	Validate:       always(validateStatefulSet),
	ValidateUpdate: onUpdate(validateStatefulSet, statefulSetStays),
	ValidateStatus: func(_ context.Context, s, old *appsv1.StatefulSet) field.ErrorList {
		status := &s.Status
		errs := validateReplicaStatus(status.Replicas, count{"readyReplicas", status.ReadyReplicas}, count{"currentReplicas", status.CurrentReplicas},
			count{"updatedReplicas", status.UpdatedReplicas}, count{"availableReplicas", status.AvailableReplicas})
		return append(errs, collisionsOnlyGrow(status.CollisionCount, old.Status.CollisionCount)...)
	},
}

func defaultStatefulSet(s *appsv1.StatefulSet) {
	spec := &s.Spec
	podspec.DefaultTemplate(&spec.Template)
	set.Default(&spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	set.Default(&spec.UpdateStrategy.Type, appsv1.RollingUpdateStatefulSetStrategyType)
	if spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		set.Pointer(&spec.UpdateStrategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
		set.Pointer(&spec.UpdateStrategy.RollingUpdate.Partition, int32(0))
	}
	set.Pointer(&spec.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	set.Default(&spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	set.Default(&spec.PersistentVolumeClaimRetentionPolicy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	set.Pointer(&spec.Replicas, int32(1))
	set.Pointer(&spec.RevisionHistoryLimit, int32(10))
	for i := range spec.VolumeClaimTemplates {
		claim := &spec.VolumeClaimTemplates[i]
		DefaultPersistentVolumeClaim(claim)
		// Templates are shown as complete claims.
		set.Default(&claim.APIVersion, "v1")
		set.Default(&claim.Kind, "PersistentVolumeClaim")
	}
}

func validateStatefulSet(s *appsv1.StatefulSet) field.ErrorList {
	spec := &s.Spec
	errs := check.OneOf(specPath.Child("podManagementPolicy"), spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement)
	strategy := specPath.Child("updateStrategy")
	switch spec.UpdateStrategy.Type {
	case appsv1.OnDeleteStatefulSetStrategyType:
		if spec.UpdateStrategy.RollingUpdate != nil {
			errs = append(errs, field.Invalid(strategy.Child("rollingUpdate"), spec.UpdateStrategy.RollingUpdate, "only allowed for updateStrategy '"+string(appsv1.RollingUpdateStatefulSetStrategyType)+"'"))
		}
	case appsv1.RollingUpdateStatefulSetStrategyType:
		if rolling := spec.UpdateStrategy.RollingUpdate; rolling != nil {
			errs = append(errs, check.NotNegativeOptional(strategy.Child("rollingUpdate", "partition"), rolling.Partition)...)
			if rolling.MaxUnavailable != nil {
				errs = append(errs, check.CountOrPercent(strategy.Child("rollingUpdate", "maxUnavailable"), *rolling.MaxUnavailable)...)
				if nothing(rolling.MaxUnavailable) {
					errs = append(errs, field.Invalid(strategy.Child("rollingUpdate", "maxUnavailable"), rolling.MaxUnavailable, "cannot be 0"))
				}
			}
		}
	default:
		errs = append(errs, field.Invalid(strategy, spec.UpdateStrategy, "must be '"+string(appsv1.RollingUpdateStatefulSetStrategyType)+"' or '"+string(appsv1.OnDeleteStatefulSetStrategyType)+"'"))
	}
	if policy := spec.PersistentVolumeClaimRetentionPolicy; policy != nil {
		at := specPath.Child("persistentVolumeClaimRetentionPolicy")
		errs = append(errs, check.OneOf(at.Child("whenDeleted"), policy.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType)...)
		errs = append(errs, check.OneOf(at.Child("whenScaled"), policy.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType)...)
	}
	errs = append(errs, validateReplicas(spec.Replicas, spec.MinReadySeconds)...)
	if spec.Ordinals != nil {
		errs = append(errs, check.NotNegative(specPath.Child("ordinals", "start"), spec.Ordinals.Start)...)
	}
	return append(errs, validateServing(spec.Selector, &spec.Template, "statefulset", "StatefulSet")...)
}

func statefulSetStays(s, old *appsv1.StatefulSet) field.ErrorList {
	same := s.Spec.DeepCopy()
	same.Replicas = old.Spec.Replicas
	same.Ordinals = old.Spec.Ordinals
	same.Template = old.Spec.Template
	same.UpdateStrategy = old.Spec.UpdateStrategy
	same.RevisionHistoryLimit = old.Spec.RevisionHistoryLimit
	same.PersistentVolumeClaimRetentionPolicy = old.Spec.PersistentVolumeClaimRetentionPolicy
	same.MinReadySeconds = old.Spec.MinReadySeconds
	if apiequality.Semantic.DeepEqual(same, &old.Spec) {
		return nil
	}
	return field.ErrorList{field.Forbidden(specPath, "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden")}
}
