package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

// deviceAdminAccess lets claims ask for devices that others use only where a namespace is labelled as an
// administrator's. Elsewhere it is a rule of the kind; it needs the namespace, so it is here.
func deviceAdminAccess(env *resource.Env) *rule {
	return &rule{
		Handler: admission.NewHandler(admission.Create),
		on:      []string{"resourceclaims", "resourceclaimtemplates"},
		validate: func(ctx context.Context, a admission.Attributes) error {
			var paths []*field.Path
			switch claim := a.GetObject().(type) {
			case *resourcev1.ResourceClaim:
				paths = adminAccess(&claim.Spec.Devices, field.NewPath("spec", "devices"))
			case *resourcev1.ResourceClaimTemplate:
				paths = adminAccess(&claim.Spec.Spec.Devices, field.NewPath("spec", "spec", "devices"))
			}
			if len(paths) == 0 {
				return nil
			}
			namespace, err := get[*corev1.Namespace](ctx, env, corev1.Resource("namespaces"), "", a.GetNamespace())
			if err != nil {
				return admission.NewForbidden(a, err)
			}
			if namespace.Labels[resourcev1.DRAAdminNamespaceLabelKey] == "true" {
				return nil
			}
			var errs field.ErrorList
			for _, at := range paths {
				errs = append(errs, field.Forbidden(at, "admin access to devices requires the `"+resourcev1.DRAAdminNamespaceLabelKey+": true` label on the containing namespace"))
			}
			return apierrors.NewInvalid(a.GetKind().GroupKind(), a.GetName(), errs)
		},
	}
}

// adminAccess finds the requests for devices whoever else uses them.
func adminAccess(claim *resourcev1.DeviceClaim, at *field.Path) []*field.Path {
	var found []*field.Path
	for i := range claim.Requests {
		if one := claim.Requests[i].Exactly; one != nil && one.AdminAccess != nil && *one.AdminAccess {
			found = append(found, at.Child("requests").Index(i).Child("exactly", "adminAccess"))
		}
	}
	return found
}
