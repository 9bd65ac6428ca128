package kinds

import (
	"context"
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/podspec"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// ReplicationController is what replica sets were before; its selector is a plain map.
var ReplicationController = resource.Hooks[*corev1.ReplicationController]{
	Warnings: hints(replicationControllerHints),
	Validate: always(validateReplicationController),
	ValidateStatus: func(_ context.Context, rc, _ *corev1.ReplicationController) field.ErrorList {
		s := &rc.Status
		return validateReplicaStatus(s.Replicas, count{"fullyLabeledReplicas", s.FullyLabeledReplicas}, count{"readyReplicas", s.ReadyReplicas}, count{"availableReplicas", s.AvailableReplicas})
	},
	Fields: func(rc *corev1.ReplicationController) fields.Set {
		return fields.Set{"status.replicas": strconv.Itoa(int(rc.Status.Replicas))}
	},
}

func defaultReplicationController(rc *corev1.ReplicationController) {
	if template := rc.Spec.Template; template != nil {
		podspec.DefaultTemplate(template)
		if len(rc.Spec.Selector) == 0 {
			rc.Spec.Selector = maps.Clone(template.Labels)
		}
		if len(rc.Labels) == 0 {
			rc.Labels = maps.Clone(template.Labels)
		}
	}
	set.Pointer(&rc.Spec.Replicas, int32(1))
}

func validateReplicationController(rc *corev1.ReplicationController) field.ErrorList {
	errs := validateReplicas(rc.Spec.Replicas, rc.Spec.MinReadySeconds)
	if len(rc.Spec.Selector) == 0 {
		errs = append(errs, field.Required(specPath.Child("selector"), ""))
	}
	if rc.Spec.Template == nil {
		return append(errs, field.Required(specPath.Child("template"), ""))
	}
	return append(errs, validateServing(&metav1.LabelSelector{MatchLabels: rc.Spec.Selector}, rc.Spec.Template, "replication controller", "ReplicationController")...)
}
