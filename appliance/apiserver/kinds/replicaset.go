package kinds

import (
	"context"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/podspec"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// ReplicaSet keeps a number of equal pods.
var ReplicaSet = resource.Hooks[*appsv1.ReplicaSet]{
	Warnings: hints(replicaSetHints),
	Validate: always(validateReplicaSet),
	ValidateUpdate: onUpdate(validateReplicaSet, func(rs, old *appsv1.ReplicaSet) field.ErrorList {
		return selectorStays(rs.Spec.Selector, old.Spec.Selector)
	}),
	ValidateStatus: func(_ context.Context, rs, _ *appsv1.ReplicaSet) field.ErrorList {
		s := &rs.Status
		errs := validateReplicaStatus(s.Replicas, count{"fullyLabeledReplicas", s.FullyLabeledReplicas}, count{"readyReplicas", s.ReadyReplicas}, count{"availableReplicas", s.AvailableReplicas})
		if s.AvailableReplicas > s.ReadyReplicas {
			errs = append(errs, field.Invalid(statusPath.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))
		}
		return append(errs, check.NotNegative(statusPath.Child("observedGeneration"), s.ObservedGeneration)...)
	},
	Fields: func(rs *appsv1.ReplicaSet) fields.Set {
		return fields.Set{"status.replicas": strconv.Itoa(int(rs.Status.Replicas))}
	},
}

func defaultReplicaSet(rs *appsv1.ReplicaSet) {
	podspec.DefaultTemplate(&rs.Spec.Template)
	set.Pointer(&rs.Spec.Replicas, int32(1))
}

func validateReplicaSet(rs *appsv1.ReplicaSet) field.ErrorList {
	errs := validateReplicas(rs.Spec.Replicas, rs.Spec.MinReadySeconds)
	return append(errs, validateServing(rs.Spec.Selector, &rs.Spec.Template, "deployment", "ReplicaSet")...)
}
