package kinds

import (
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/podspec"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// StorageClass never changes how it makes volumes: those that exist would not be what it says.
var StorageClass = resource.Hooks[*storagev1.StorageClass]{
	Warnings: hints(storageClassHints),
	Validate: always(validateStorageClass),
	ValidateUpdate: onUpdate(validateStorageClass, func(c, old *storagev1.StorageClass) field.ErrorList {
		var errs field.ErrorList
		if !apiequality.Semantic.DeepEqual(c.Parameters, old.Parameters) {
			errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
		}
		if c.Provisioner != old.Provisioner {
			errs = append(errs, field.Forbidden(field.NewPath("provisioner"), "updates to provisioner are forbidden."))
		}
		if !apiequality.Semantic.DeepEqual(c.ReclaimPolicy, old.ReclaimPolicy) {
			errs = append(errs, field.Forbidden(field.NewPath("reclaimPolicy"), "updates to reclaimPolicy are forbidden."))
		}
		return append(errs, check.Unchanged(field.NewPath("volumeBindingMode"), c.VolumeBindingMode, old.VolumeBindingMode)...)
	}),
}

func defaultStorageClass(c *storagev1.StorageClass) {
	set.Pointer(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
	set.Pointer(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
}

func validateStorageClass(c *storagev1.StorageClass) field.ErrorList {
	errs := check.Needed(field.NewPath("provisioner"), c.Provisioner, validation.IsQualifiedName)
	errs = append(errs, check.OneOfOptional(field.NewPath("reclaimPolicy"), c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	if c.VolumeBindingMode == nil {
		return append(errs, field.Required(field.NewPath("volumeBindingMode"), ""))
	}
	return append(errs, check.OneOf(field.NewPath("volumeBindingMode"), *c.VolumeBindingMode, storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
}

// CSIDriver says how a driver is to be called.
var CSIDriver = resource.Hooks[*storagev1.CSIDriver]{
	NeedResourceVersion: true,
	Validate: always(func(d *storagev1.CSIDriver) field.ErrorList {
		var errs field.ErrorList
		for _, mode := range d.Spec.VolumeLifecycleModes {
			errs = append(errs, check.OneOf(specPath.Child("volumeLifecycleModes"), mode, storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral)...)
		}
		errs = append(errs, check.OneOfOptional(specPath.Child("fsGroupPolicy"), d.Spec.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy, storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy)...)
		return append(errs, validateTokenRequests(d.Spec.TokenRequests, specPath.Child("tokenRequests"))...)
	}),
	ValidateUpdate: onUpdate(func(*storagev1.CSIDriver) field.ErrorList { return nil }, func(d, old *storagev1.CSIDriver) field.ErrorList {
		errs := check.Unchanged(specPath.Child("attachRequired"), d.Spec.AttachRequired, old.Spec.AttachRequired)
		return append(errs, check.Unchanged(specPath.Child("volumeLifecycleModes"), d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes)...)
	}),
}

// Bounds of the life of tokens that drivers get, in seconds.
const (
	shortestToken = 10 * 60
	longestToken  = 1 << 32
)

// validateTokenRequests wants one token for each audience.
func validateTokenRequests(requests []storagev1.TokenRequest, at *field.Path) field.ErrorList {
	errs := check.Unique(at, requests, func(r storagev1.TokenRequest) string { return r.Audience }, "audience")
	for i, r := range requests {
		at := at.Index(i).Child("expirationSeconds")
		switch {
		case r.ExpirationSeconds == nil:
		case *r.ExpirationSeconds < shortestToken:
			errs = append(errs, field.Invalid(at, *r.ExpirationSeconds, "may not specify a duration less than 10 minutes"))
		case *r.ExpirationSeconds > longestToken:
			errs = append(errs, field.Invalid(at, *r.ExpirationSeconds, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	return errs
}

func defaultCSIDriver(d *storagev1.CSIDriver) {
	set.Pointer(&d.Spec.AttachRequired, true)
	set.Pointer(&d.Spec.PodInfoOnMount, false)
	set.Pointer(&d.Spec.StorageCapacity, false)
	set.Pointer(&d.Spec.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	if len(d.Spec.VolumeLifecycleModes) == 0 {
		d.Spec.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
	set.Pointer(&d.Spec.RequiresRepublish, false)
	set.Pointer(&d.Spec.SELinuxMount, false)
	set.Pointer(&d.Spec.PreventPodSchedulingIfMissing, false)
}

// VolumeAttachment never changes what it attaches where.
var VolumeAttachment = resource.Hooks[*storagev1.VolumeAttachment]{
	NeedResourceVersion: true,
	Validate: always(func(a *storagev1.VolumeAttachment) field.ErrorList {
		errs := check.Needed(specPath.Child("attacher"), a.Spec.Attacher, nil)
		errs = append(errs, check.Needed(specPath.Child("nodeName"), a.Spec.NodeName, check.Subdomain)...)
		return append(errs, validateAttached(&a.Spec.Source, specPath.Child("source"))...)
	}),
	ValidateUpdate: onUpdate(func(*storagev1.VolumeAttachment) field.ErrorList { return nil }, func(a, old *storagev1.VolumeAttachment) field.ErrorList {
		return check.Unchanged(specPath, a.Spec, old.Spec)
	}),
}

// validateAttached wants either the name of a volume or, for a pod that brings its own, all of one of CSI.
func validateAttached(s *storagev1.VolumeAttachmentSource, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	const one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
	switch {
	case s.InlineVolumeSpec == nil && s.PersistentVolumeName == nil:
		errs = append(errs, field.Required(at, one))
	case s.InlineVolumeSpec != nil && s.PersistentVolumeName != nil:
		errs = append(errs, field.Forbidden(at, one))
	}
	if s.PersistentVolumeName != nil {
		errs = append(errs, check.Needed(at.Child("persistentVolumeName"), *s.PersistentVolumeName, check.Subdomain)...)
	}
	if spec := s.InlineVolumeSpec; spec != nil {
		at := at.Child("inlineVolumeSpec")
		if spec.CSI == nil {
			errs = append(errs, field.Required(at.Child("csi"), "has to be specified in the context of inline volumes"))
		}
		errs = append(errs, podspec.ValidateAccessModes(spec.AccessModes, at.Child("accessModes"))...)
		errs = append(errs, validateVolumeSource(spec, at)...)
	}
	return errs
}
