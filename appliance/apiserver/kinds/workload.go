package kinds

import (
	"bytes"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/podspec"
)

// validateServing checks selector and template of a workload whose pods run for ever. Of is how messages call it.
func validateServing(selector *metav1.LabelSelector, template *corev1.PodTemplateSpec, of, kind string) field.ErrorList {
	path := specPath.Child("template")
	errs := selects(selector, template.Labels, of)
	errs = append(errs, podspec.ValidateTemplate(template, path)...)
	if template.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(path.Child("spec", "restartPolicy"), template.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if template.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(path.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in "+kind+" is not Supported"))
	}
	return errs
}

// validateSurge checks how many pods may be missing or extra during an update; both nought would stop it.
func validateSurge(unavailable, surge *intstr.IntOrString, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for name, value := range map[string]*intstr.IntOrString{"maxUnavailable": unavailable, "maxSurge": surge} {
		if value != nil {
			errs = append(errs, check.CountOrPercent(path.Child(name), *value)...)
		}
	}
	if nothing(unavailable) && nothing(surge) {
		errs = append(errs, field.Invalid(path.Child("maxUnavailable"), unavailable, "may not be 0 when `maxSurge` is 0"))
	}
	if unavailable != nil {
		errs = append(errs, check.AtMostHundredPercent(path.Child("maxUnavailable"), *unavailable)...)
	}
	return errs
}

func nothing(value *intstr.IntOrString) bool {
	if value == nil {
		return true
	}
	if percent, ok := check.Percent(*value); ok {
		return percent == 0
	}
	return value.Type == intstr.Int && value.IntVal == 0
}

// selectorStays refuses a new selector: the pods of the old one would be orphans.
func selectorStays(selector, old *metav1.LabelSelector) field.ErrorList {
	return check.Unchanged(specPath.Child("selector"), selector, old)
}

func validateReplicas(replicas *int32, minReady int32) field.ErrorList {
	errs := check.NotNegativeOptional(specPath.Child("replicas"), replicas)
	return append(errs, check.NotNegative(specPath.Child("minReadySeconds"), minReady)...)
}

// validateReplicaStatus checks numbers that cannot be more than all replicas.
func validateReplicaStatus(replicas int32, parts ...count) field.ErrorList {
	errs := notNegative(statusPath, append(parts, count{"replicas", replicas})...)
	for _, part := range parts {
		if part.value > replicas {
			errs = append(errs, field.Invalid(statusPath.Child(part.name), part.value, "cannot be greater than status.replicas"))
		}
	}
	return errs
}

func collisionsOnlyGrow(now, old *int32) field.ErrorList {
	at := statusPath.Child("collisionCount")
	errs := check.NotNegativeOptional(at, now)
	if old != nil && (now == nil || *now < *old) {
		errs = append(errs, field.Invalid(at, now, "cannot be decremented"))
	}
	return errs
}

// validateRevision is the rule of ControllerRevisions, which keep what a workload was.
func validateRevision(r *appsv1.ControllerRevision) field.ErrorList {
	var errs field.ErrorList
	errs = append(errs, check.NotNegative(field.NewPath("revision"), r.Revision)...)
	if len(r.Data.Raw) == 0 && r.Data.Object == nil {
		errs = append(errs, field.Required(field.NewPath("data"), "data is mandatory"))
	} else if raw := bytes.TrimSpace(r.Data.Raw); len(raw) > 0 && raw[0] != '{' {
		errs = append(errs, field.Required(field.NewPath("data"), "data must be a valid JSON object"))
	}
	return errs
}
