package kinds

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/podspec"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// PersistentVolume keeps its source: data does not move because an object changed.
var PersistentVolume = resource.Hooks[*corev1.PersistentVolume]{
	Warnings: hints(volumeHints),
	PrepareCreate: func(_ context.Context, v *corev1.PersistentVolume) {
		v.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: ptr.To(metav1.Now())}
	},
	PrepareStatus: func(_ context.Context, v, old *corev1.PersistentVolume) { datePhase(v, old, metav1.Now()) },
	Validate:      always(validatePersistentVolume),
	ValidateUpdate: onUpdate(validatePersistentVolume, func(v, old *corev1.PersistentVolume) field.ErrorList {
		var errs field.ErrorList
		if !apiequality.Semantic.DeepEqual(v.Spec.PersistentVolumeSource, old.Spec.PersistentVolumeSource) {
			errs = append(errs, field.Forbidden(specPath.Child("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation"))
		}
		errs = append(errs, check.Unchanged(specPath.Child("volumeMode"), v.Spec.VolumeMode, old.Spec.VolumeMode)...)
		if old.Spec.NodeAffinity != nil {
			errs = append(errs, check.Unchanged(specPath.Child("nodeAffinity"), v.Spec.NodeAffinity, old.Spec.NodeAffinity)...)
		}
		return errs
	}),
}

// datePhase says since when a volume is in its phase, unless the client knows better.
func datePhase(v, old *corev1.PersistentVolume, now metav1.Time) {
	is, was := &v.Status, &old.Status
	switch {
	case is.Phase != was.Phase && (is.LastPhaseTransitionTime == nil || is.LastPhaseTransitionTime.Equal(was.LastPhaseTransitionTime)):
		is.LastPhaseTransitionTime = &now
	case is.LastPhaseTransitionTime == nil:
		is.LastPhaseTransitionTime = was.LastPhaseTransitionTime
	}
}

func defaultPersistentVolume(v *corev1.PersistentVolume) {
	set.Default(&v.Status.Phase, corev1.VolumePending)
	set.Default(&v.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	set.Pointer(&v.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	if v.Spec.HostPath != nil {
		set.Pointer(&v.Spec.HostPath.Type, corev1.HostPathUnset)
	}
	if v.Spec.ISCSI != nil {
		set.Default(&v.Spec.ISCSI.ISCSIInterface, "default")
	}
	if v.Spec.AzureDisk != nil {
		podspec.DefaultAzureDisk(v.Spec.AzureDisk)
	}
}

func validatePersistentVolume(v *corev1.PersistentVolume) field.ErrorList {
	errs := podspec.ValidateAccessModes(v.Spec.AccessModes, specPath.Child("accessModes"))
	capacity := specPath.Child("capacity")
	if len(v.Spec.Capacity) == 0 {
		errs = append(errs, field.Required(capacity, ""))
	} else if size, found := v.Spec.Capacity[corev1.ResourceStorage]; !found || len(v.Spec.Capacity) > 1 {
		errs = append(errs, field.NotSupported(capacity, v.Spec.Capacity, []string{string(corev1.ResourceStorage)}))
	} else if size.Sign() <= 0 {
		errs = append(errs, field.Invalid(capacity.Key(string(corev1.ResourceStorage)), size.String(), "must be greater than zero"))
	}
	errs = append(errs, check.OneOf(specPath.Child("persistentVolumeReclaimPolicy"), v.Spec.PersistentVolumeReclaimPolicy,
		corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)...)
	errs = append(errs, check.OneOfOptional(specPath.Child("volumeMode"), v.Spec.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	if v.Spec.StorageClassName != "" {
		errs = append(errs, check.Text(specPath.Child("storageClassName"), v.Spec.StorageClassName, check.Subdomain)...)
	}
	if class := v.Spec.VolumeAttributesClassName; class != nil {
		errs = append(errs, check.Needed(specPath.Child("volumeAttributesClassName"), *class, check.Subdomain)...)
		if v.Spec.CSI == nil {
			errs = append(errs, field.Required(specPath.Child("csi"), "has to be specified when using volumeAttributesClassName"))
		}
	}
	if affinity := v.Spec.NodeAffinity; affinity != nil {
		if affinity.Required == nil {
			errs = append(errs, field.Required(specPath.Child("nodeAffinity", "required"), "must specify required node constraints"))
		} else {
			errs = append(errs, podspec.ValidateNodeSelector(affinity.Required, specPath.Child("nodeAffinity", "required"))...)
		}
	}
	return append(errs, validateVolumeSource(&v.Spec, specPath)...)
}

func validateVolumeSource(v *corev1.PersistentVolumeSpec, at *field.Path) field.ErrorList {
	s := &v.PersistentVolumeSource
	errs := check.ExactlyOne(at, "volume type", map[string]bool{
		"hostPath": s.HostPath != nil, "local": s.Local != nil, "nfs": s.NFS != nil, "csi": s.CSI != nil, "iscsi": s.ISCSI != nil,
		"fc": s.FC != nil, "gcePersistentDisk": s.GCEPersistentDisk != nil, "awsElasticBlockStore": s.AWSElasticBlockStore != nil,
		"glusterfs": s.Glusterfs != nil, "rbd": s.RBD != nil, "cinder": s.Cinder != nil, "cephfs": s.CephFS != nil, "flocker": s.Flocker != nil,
		"flexVolume": s.FlexVolume != nil, "azureFile": s.AzureFile != nil, "vsphereVolume": s.VsphereVolume != nil, "quobyte": s.Quobyte != nil,
		"azureDisk": s.AzureDisk != nil, "photonPersistentDisk": s.PhotonPersistentDisk != nil, "portworxVolume": s.PortworxVolume != nil,
		"scaleIO": s.ScaleIO != nil, "storageos": s.StorageOS != nil,
	})
	switch {
	case s.HostPath != nil:
		errs = append(errs, podspec.ValidateHostPath(s.HostPath, at.Child("hostPath"))...)
		if s.HostPath.Path == "/" && v.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
			errs = append(errs, field.Forbidden(at.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'"))
		}
	case s.NFS != nil:
		errs = append(errs, podspec.ValidateNFS(s.NFS, at.Child("nfs"))...)
	case s.Local != nil:
		errs = append(errs, check.Needed(at.Child("local", "path"), s.Local.Path, nil)...)
		if v.NodeAffinity == nil {
			errs = append(errs, field.Required(at.Child("nodeAffinity"), "Local volume requires node affinity"))
		}
	case s.CSI != nil:
		errs = append(errs, check.Needed(at.Child("csi", "driver"), s.CSI.Driver, check.Subdomain)...)
		errs = append(errs, check.Needed(at.Child("csi", "volumeHandle"), s.CSI.VolumeHandle, nil)...)
	}
	return errs
}

// PersistentVolumeClaim may grow and be bound; the rest of it stays.
var PersistentVolumeClaim = resource.Hooks[*corev1.PersistentVolumeClaim]{
	Warnings: hints(claimHints),
	PrepareCreate: func(_ context.Context, c *corev1.PersistentVolumeClaim) {
		c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
		dropDataSources(&c.Spec)
		matchDataSources(&c.Spec)
	},
	PrepareUpdate: func(_ context.Context, c, _ *corev1.PersistentVolumeClaim) { matchDataSources(&c.Spec) },
	Validate: always(func(c *corev1.PersistentVolumeClaim) field.ErrorList {
		return podspec.ValidateClaimSpec(&c.Spec, specPath)
	}),
	ValidateUpdate: onUpdate(func(c *corev1.PersistentVolumeClaim) field.ErrorList {
		return podspec.ValidateClaimSpec(&c.Spec, specPath)
	}, claimStays),
}

// DefaultPersistentVolumeClaim is also used for the templates of stateful sets.
func DefaultPersistentVolumeClaim(c *corev1.PersistentVolumeClaim) {
	set.Default(&c.Status.Phase, corev1.ClaimPending)
	set.Pointer(&c.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	if c.Spec.DataSourceRef != nil && c.Spec.DataSourceRef.APIGroup != nil && *c.Spec.DataSourceRef.APIGroup == "" {
		c.Spec.DataSourceRef.APIGroup = nil
	}
}

// dropDataSources forgets what Kubernetes has always ignored: in the old field all but claims and snapshots, and in the new
// one objects of other namespaces.
func dropDataSources(spec *corev1.PersistentVolumeClaimSpec) {
	if s := spec.DataSource; s != nil {
		group := ptr.Deref(s.APIGroup, "")
		if !(group == "" && s.Kind == "PersistentVolumeClaim") && !(group == "snapshot.storage.k8s.io" && s.Kind == "VolumeSnapshot") {
			spec.DataSource = nil
		}
	}
	if ref := spec.DataSourceRef; ref != nil && ptr.Deref(ref.Namespace, "") != "" {
		spec.DataSourceRef = nil
	}
}

// matchDataSources shows the source of a claim in the old field and in the new one.
func matchDataSources(spec *corev1.PersistentVolumeClaimSpec) {
	old, ref := spec.DataSource, spec.DataSourceRef
	switch {
	case old != nil && ref == nil:
		spec.DataSourceRef = &corev1.TypedObjectReference{APIGroup: old.APIGroup, Kind: old.Kind, Name: old.Name}
	case old == nil && ref != nil && ptr.Deref(ref.Namespace, "") == "":
		spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: ref.APIGroup, Kind: ref.Kind, Name: ref.Name}
	}
}

func claimStays(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	var errs field.ErrorList
	same, was := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	matchDataSources(was) // as it is stored by now
	if old.Spec.VolumeName == "" {
		same.VolumeName = "" // binding
	}
	if old.Spec.StorageClassName == nil {
		same.StorageClassName = nil // a default class that came later
	}
	same.VolumeAttributesClassName = old.Spec.VolumeAttributesClassName
	wanted, had := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if old.Status.Phase == corev1.ClaimBound {
		same.Resources.Requests = old.Spec.Resources.Requests
		if actual := old.Status.Capacity[corev1.ResourceStorage]; wanted.Cmp(had) < 0 && wanted.Cmp(actual) <= 0 {
			errs = append(errs, field.Forbidden(specPath.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
		}
	}
	if !apiequality.Semantic.DeepEqual(same, was) {
		errs = append(errs, field.Forbidden(specPath, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"))
	}
	return errs
}
