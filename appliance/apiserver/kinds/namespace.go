package kinds

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// Namespace carries its own name as a label and a finalizer that stands for its content.
var Namespace = resource.Hooks[*corev1.Namespace]{
	PrepareCreate: func(_ context.Context, ns *corev1.Namespace) {
		ns.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
		if !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
			ns.Spec.Finalizers = append(ns.Spec.Finalizers, corev1.FinalizerKubernetes)
		}
		labelNamespace(ns)
	},
	PrepareUpdate: func(_ context.Context, ns, old *corev1.Namespace) {
		ns.Spec.Finalizers = old.Spec.Finalizers // the finalize subresource's
		labelNamespace(ns)
	},
	ValidateStatus: func(_ context.Context, ns, _ *corev1.Namespace) field.ErrorList {
		phase := statusPath.Child("phase")
		switch {
		case ns.DeletionTimestamp.IsZero() && ns.Status.Phase != corev1.NamespaceActive:
			return field.ErrorList{field.Invalid(phase, ns.Status.Phase, "may only be 'Active' if `deletionTimestamp` is empty")}
		case !ns.DeletionTimestamp.IsZero() && ns.Status.Phase != corev1.NamespaceTerminating:
			return field.ErrorList{field.Invalid(phase, ns.Status.Phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
		}
		return nil
	},
	Validate: always(func(ns *corev1.Namespace) field.ErrorList {
		var errs field.ErrorList
		for _, finalizer := range ns.Spec.Finalizers {
			errs = append(errs, validateFinalizer(string(finalizer), specPath.Child("finalizers"))...)
		}
		return errs
	}),
	ValidateName: apivalidation.ValidateNamespaceName,
	Fields: func(ns *corev1.Namespace) fields.Set {
		return fields.Set{"status.phase": string(ns.Status.Phase)}
	},
}

// ValidateFinalizers checks the finalizers in a namespace's spec.
func ValidateFinalizers(ns *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	for i, finalizer := range ns.Spec.Finalizers {
		errs = append(errs, validateFinalizer(string(finalizer), specPath.Child("finalizers").Index(i))...)
	}
	return errs
}

// validateFinalizer wants a domain before every name that is not Kubernetes' own.
func validateFinalizer(name string, at *field.Path) field.ErrorList {
	errs := check.Text(at, name, validation.IsQualifiedName)
	own := name == string(corev1.FinalizerKubernetes) || name == metav1.FinalizerOrphanDependents || name == metav1.FinalizerDeleteDependents
	if !own && !strings.Contains(name, "/") {
		errs = append(errs, field.Invalid(at, name, "name is neither a standard finalizer name nor is it fully qualified"))
	}
	return errs
}

func defaultNamespace(ns *corev1.Namespace) {
	set.Default(&ns.Status.Phase, corev1.NamespaceActive)
	if ns.Name != "" {
		labelNamespace(ns)
	}
}

func labelNamespace(ns *corev1.Namespace) {
	if ns.Labels == nil {
		ns.Labels = map[string]string{}
	}
	ns.Labels[corev1.LabelMetadataName] = ns.Name
}
