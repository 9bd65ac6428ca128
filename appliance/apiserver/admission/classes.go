package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	volumehelpers "k8s.io/component-helpers/storage/volume"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

const (
	defaultStorageAnnotation     = "storageclass.kubernetes.io/is-default-class"
	betaDefaultStorageAnnotation = "storageclass.beta.kubernetes.io/is-default-class"
)

// defaultStorageClass gives claims that name no class the default one. A claim that says "" wants none.
func defaultStorageClass(env *resource.Env) *rule {
	return &rule{
		Handler: admission.NewHandler(admission.Create),
		on:      []string{"persistentvolumeclaims"},
		admit: func(ctx context.Context, a admission.Attributes) error {
			claim, err := object[*corev1.PersistentVolumeClaim](a)
			if err != nil || volumehelpers.PersistentVolumeClaimHasClass(claim) {
				return err
			}
			classes, err := list[*storagev1.StorageClassList](ctx, env, storagev1.Resource("storageclasses"), "")
			if err != nil {
				return admission.NewForbidden(a, err)
			}
			chosen := newestDefault(classes.Items, func(c *storagev1.StorageClass) metav1.ObjectMeta { return c.ObjectMeta }, defaultStorageAnnotation, betaDefaultStorageAnnotation)
			if chosen != "" {
				claim.Spec.StorageClassName = &chosen
			}
			return nil
		},
	}
}

// defaultIngressClass does the same for ingresses.
func defaultIngressClass(env *resource.Env) *rule {
	return &rule{
		Handler: admission.NewHandler(admission.Create),
		on:      []string{"ingresses"},
		admit: func(ctx context.Context, a admission.Attributes) error {
			ingress, err := object[*networkingv1.Ingress](a)
			if err != nil || ingress.Spec.IngressClassName != nil || ingress.Annotations["kubernetes.io/ingress.class"] != "" {
				return err
			}
			classes, err := list[*networkingv1.IngressClassList](ctx, env, networkingv1.Resource("ingressclasses"), "")
			if err != nil {
				return admission.NewForbidden(a, err)
			}
			chosen := newestDefault(classes.Items, func(c *networkingv1.IngressClass) metav1.ObjectMeta { return c.ObjectMeta }, networkingv1.AnnotationIsDefaultIngressClass)
			if chosen != "" {
				ingress.Spec.IngressClassName = &chosen
			}
			return nil
		},
	}
}

// newestDefault finds the default among classes: the youngest, by name where they are equally old.
func newestDefault[T any](classes []T, meta func(*T) metav1.ObjectMeta, annotations ...string) string {
	var found *metav1.ObjectMeta
	for i := range classes {
		m := meta(&classes[i])
		if !slices.ContainsFunc(annotations, func(a string) bool { return m.Annotations[a] == "true" }) {
			continue
		}
		if found == nil || m.CreationTimestamp.After(found.CreationTimestamp.Time) || m.CreationTimestamp.Equal(&found.CreationTimestamp) && m.Name < found.Name {
			found = &m
		}
	}
	if found == nil {
		return ""
	}
	return found.Name
}

// resizeClaims lets claims grow whose class says that its volumes can.
func resizeClaims(env *resource.Env) *rule {
	return &rule{
		Handler: admission.NewHandler(admission.Update),
		on:      []string{"persistentvolumeclaims"},
		validate: func(ctx context.Context, a admission.Attributes) error {
			claim, err := object[*corev1.PersistentVolumeClaim](a)
			if err != nil {
				return err
			}
			old, ok := a.GetOldObject().(*corev1.PersistentVolumeClaim)
			if !ok {
				return nil
			}
			size, had := claim.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
			if size.Cmp(had) <= 0 {
				return nil
			}
			if old.Status.Phase != corev1.ClaimBound {
				//lint:ignore ST1005 clients know these words from Kubernetes
				return admission.NewForbidden(a, errors.New("Only bound persistent volume claims can be expanded"))
			}
			name := volumehelpers.GetPersistentVolumeClaimClass(claim)
			if name == "" {
				return admission.NewForbidden(a, errNotResizable)
			}
			class, err := get[*storagev1.StorageClass](ctx, env, storagev1.Resource("storageclasses"), "", name)
			if apierrors.IsNotFound(err) || err == nil && (class.AllowVolumeExpansion == nil || !*class.AllowVolumeExpansion) {
				return admission.NewForbidden(a, errNotResizable)
			}
			if err != nil {
				return fmt.Errorf("look whether claim %s may grow: %w", claim.Name, err)
			}
			return nil
		},
	}
}

var errNotResizable = errors.New("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")
