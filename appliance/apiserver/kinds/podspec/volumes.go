package podspec

import (
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
)

const maxFileMode = 0777

// Bounds of a projected service account token's life.
const (
	minTokenSeconds = 10 * 60
	maxTokenSeconds = 1 << 32
)

// validateVolumes also returns the sources by name, for those who refer to them.
func validateVolumes(volumes []corev1.Volume, meta *metav1.ObjectMeta, base *field.Path) (map[string]corev1.VolumeSource, field.ErrorList) {
	var errs field.ErrorList
	sources := map[string]corev1.VolumeSource{}
	for i, volume := range volumes {
		at := base.Index(i)
		errs = append(errs, check.Needed(at.Child("name"), volume.Name, validation.IsDNS1123Label)...)
		if _, found := sources[volume.Name]; found {
			errs = append(errs, field.Duplicate(at.Child("name"), volume.Name))
		}
		sources[volume.Name] = volume.VolumeSource
		errs = append(errs, validateSource(&volume.VolumeSource, volume.Name, meta, at)...)
	}
	return sources, errs
}

// validateSource checks the source a volume names. Drivers that are gone from Kubernetes are only counted.
func validateSource(v *corev1.VolumeSource, name string, meta *metav1.ObjectMeta, base *field.Path) field.ErrorList {
	errs := check.ExactlyOne(base, "volume type", map[string]bool{
		"hostPath": v.HostPath != nil, "emptyDir": v.EmptyDir != nil, "gcePersistentDisk": v.GCEPersistentDisk != nil,
		"awsElasticBlockStore": v.AWSElasticBlockStore != nil, "gitRepo": v.GitRepo != nil, "secret": v.Secret != nil,
		"nfs": v.NFS != nil, "iscsi": v.ISCSI != nil, "glusterfs": v.Glusterfs != nil, "persistentVolumeClaim": v.PersistentVolumeClaim != nil,
		"rbd": v.RBD != nil, "flexVolume": v.FlexVolume != nil, "cinder": v.Cinder != nil, "cephfs": v.CephFS != nil,
		"flocker": v.Flocker != nil, "downwardAPI": v.DownwardAPI != nil, "fc": v.FC != nil, "azureFile": v.AzureFile != nil,
		"configMap": v.ConfigMap != nil, "vsphereVolume": v.VsphereVolume != nil, "quobyte": v.Quobyte != nil,
		"azureDisk": v.AzureDisk != nil, "photonPersistentDisk": v.PhotonPersistentDisk != nil, "projected": v.Projected != nil,
		"portworxVolume": v.PortworxVolume != nil, "scaleIO": v.ScaleIO != nil, "storageos": v.StorageOS != nil,
		"csi": v.CSI != nil, "ephemeral": v.Ephemeral != nil, "image": v.Image != nil,
	})
	switch {
	case v.HostPath != nil:
		errs = append(errs, ValidateHostPath(v.HostPath, base.Child("hostPath"))...)
	case v.EmptyDir != nil:
		errs = append(errs, validateEmptyDir(v.EmptyDir, base.Child("emptyDir"))...)
	case v.Secret != nil:
		errs = append(errs, check.Needed(base.Child("secret", "secretName"), v.Secret.SecretName, nil)...)
		errs = append(errs, validateFileMode(v.Secret.DefaultMode, base.Child("secret", "defaultMode"))...)
		errs = append(errs, validateItems(v.Secret.Items, base.Child("secret", "items"))...)
	case v.ConfigMap != nil:
		errs = append(errs, check.Needed(base.Child("configMap", "name"), v.ConfigMap.Name, nil)...)
		errs = append(errs, validateFileMode(v.ConfigMap.DefaultMode, base.Child("configMap", "defaultMode"))...)
		errs = append(errs, validateItems(v.ConfigMap.Items, base.Child("configMap", "items"))...)
	case v.DownwardAPI != nil:
		errs = append(errs, validateFileMode(v.DownwardAPI.DefaultMode, base.Child("downwardAPI", "defaultMode"))...)
		errs = append(errs, validateDownward(v.DownwardAPI.Items, base.Child("downwardAPI"))...)
	case v.Projected != nil:
		errs = append(errs, validateProjected(v.Projected, base.Child("projected"))...)
	case v.NFS != nil:
		errs = append(errs, ValidateNFS(v.NFS, base.Child("nfs"))...)
	case v.PersistentVolumeClaim != nil:
		errs = append(errs, check.Needed(base.Child("persistentVolumeClaim", "claimName"), v.PersistentVolumeClaim.ClaimName, nil)...)
	case v.CSI != nil:
		errs = append(errs, check.Needed(base.Child("csi", "driver"), v.CSI.Driver, check.Subdomain)...)
		if v.CSI.NodePublishSecretRef != nil {
			errs = append(errs, check.Needed(base.Child("csi", "nodePublishSecretRef", "name"), v.CSI.NodePublishSecretRef.Name, nil)...)
		}
	case v.Image != nil:
		errs = append(errs, check.Needed(base.Child("image", "reference"), v.Image.Reference, nil)...)
		errs = append(errs, check.OneOf(base.Child("image", "pullPolicy"), v.Image.PullPolicy, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	case v.Ephemeral != nil:
		errs = append(errs, validateEphemeral(v.Ephemeral, name, meta, base.Child("ephemeral"))...)
	}
	return errs
}

// ValidateHostPath is shared with persistent volumes.
func ValidateHostPath(v *corev1.HostPathVolumeSource, base *field.Path) field.ErrorList {
	if v.Path == "" {
		return field.ErrorList{field.Required(base.Child("path"), "")}
	}
	errs := noBackstep(v.Path, base.Child("path"))
	return append(errs, check.OneOfOptional(base.Child("type"), v.Type, corev1.HostPathUnset, corev1.HostPathDirectoryOrCreate,
		corev1.HostPathDirectory, corev1.HostPathFileOrCreate, corev1.HostPathFile, corev1.HostPathSocket, corev1.HostPathCharDev, corev1.HostPathBlockDev)...)
}

// ValidateNFS is shared with persistent volumes.
func ValidateNFS(v *corev1.NFSVolumeSource, base *field.Path) field.ErrorList {
	errs := check.Needed(base.Child("server"), v.Server, nil)
	errs = append(errs, check.Needed(base.Child("path"), v.Path, nil)...)
	if v.Path != "" && !path.IsAbs(v.Path) {
		errs = append(errs, field.Invalid(base.Child("path"), v.Path, "must be an absolute path"))
	}
	return errs
}

func validateEmptyDir(v *corev1.EmptyDirVolumeSource, base *field.Path) field.ErrorList {
	var errs field.ErrorList
	if v.SizeLimit != nil && v.SizeLimit.Sign() < 0 {
		errs = append(errs, field.Forbidden(base.Child("sizeLimit"), "SizeLimit field must be a valid resource quantity"))
	}
	return errs
}

func validateEphemeral(v *corev1.EphemeralVolumeSource, volume string, meta *metav1.ObjectMeta, base *field.Path) field.ErrorList {
	template := v.VolumeClaimTemplate
	if template == nil {
		return field.ErrorList{field.Required(base.Child("volumeClaimTemplate"), "")}
	}
	errs := ValidateClaimSpec(&template.Spec, base.Child("volumeClaimTemplate", "spec"))
	if meta != nil && meta.Name != "" {
		// The claim will be named after the pod and the volume.
		errs = append(errs, check.Text(base.Root().Child("metadata", "name"), meta.Name+"-"+volume, check.Subdomain)...)
	}
	return errs
}

// ValidateClaimSpec is shared with persistent volume claims and the templates of stateful sets.
func ValidateClaimSpec(spec *corev1.PersistentVolumeClaimSpec, base *field.Path) field.ErrorList {
	var errs field.ErrorList
	errs = append(errs, ValidateAccessModes(spec.AccessModes, base.Child("accessModes"))...)
	if spec.Selector != nil {
		errs = append(errs, check.Selector(base.Child("selector"), spec.Selector)...)
	}
	at := base.Child("resources").Key(string(corev1.ResourceStorage))
	size, found := spec.Resources.Requests[corev1.ResourceStorage]
	switch {
	case !found:
		errs = append(errs, field.Required(at, ""))
	case size.Sign() <= 0:
		errs = append(errs, field.Invalid(at, size.String(), "must be greater than zero"))
	}
	if spec.StorageClassName != nil && *spec.StorageClassName != "" {
		errs = append(errs, check.Text(base.Child("storageClassName"), *spec.StorageClassName, check.Subdomain)...)
	}
	errs = append(errs, check.OneOfOptional(base.Child("volumeMode"), spec.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	if class := spec.VolumeAttributesClassName; class != nil && *class != "" {
		errs = append(errs, check.Text(base.Child("volumeAttributesClassName"), *class, check.Subdomain)...)
	}
	return append(errs, validateDataSources(spec.DataSource, spec.DataSourceRef, base)...)
}

// validateDataSources wants the old field and the new one to name the same object, which the old one can do in the
// claim's own namespace only.
func validateDataSources(old *corev1.TypedLocalObjectReference, ref *corev1.TypedObjectReference, base *field.Path) field.ErrorList {
	var errs field.ErrorList
	if old != nil {
		errs = validateDataSource(*old, base.Child("dataSource"))
	}
	if ref == nil {
		return errs
	}
	local := corev1.TypedLocalObjectReference{APIGroup: ref.APIGroup, Kind: ref.Kind, Name: ref.Name}
	errs = append(errs, validateDataSource(local, base.Child("dataSourceRef"))...)
	elsewhere := ref.Namespace != nil && *ref.Namespace != ""
	if elsewhere {
		errs = append(errs, check.Text(base.Child("dataSourceRef", "namespace"), *ref.Namespace, check.Name(apivalidation.ValidateNamespaceName))...)
	}
	switch {
	case old == nil:
	case elsewhere:
		errs = append(errs, field.Invalid(base, base.Child("dataSource").String(), "may not be specified when dataSourceRef.namespace is specified"))
	case !apiequality.Semantic.DeepEqual(*old, local):
		errs = append(errs, field.Invalid(base, base.Child("dataSource").String(), "must match dataSourceRef"))
	}
	return errs
}

func validateDataSource(source corev1.TypedLocalObjectReference, base *field.Path) field.ErrorList {
	errs := check.Needed(base.Child("name"), source.Name, nil)
	errs = append(errs, check.Needed(base.Child("kind"), source.Kind, nil)...)
	switch group := source.APIGroup; {
	case group != nil && *group != "":
		errs = append(errs, check.Text(base.Child("apiGroup"), *group, validation.IsDNS1123Subdomain)...)
	case source.Kind != "PersistentVolumeClaim":
		errs = append(errs, field.Invalid(base, source.Kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
	}
	return errs
}

// ValidateAccessModes is shared by claims and volumes.
func ValidateAccessModes(modes []corev1.PersistentVolumeAccessMode, base *field.Path) field.ErrorList {
	if len(modes) == 0 {
		return field.ErrorList{field.Required(base, "at least 1 access mode is required")}
	}
	var errs field.ErrorList
	for _, mode := range modes {
		errs = append(errs, check.OneOf(base, mode, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)...)
	}
	if slices.Contains(modes, corev1.ReadWriteOncePod) && len(modes) > 1 {
		errs = append(errs, field.Forbidden(base, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

func validateProjected(v *corev1.ProjectedVolumeSource, base *field.Path) field.ErrorList {
	errs := validateFileMode(v.DefaultMode, base.Child("defaultMode"))
	files := sets.New[string]()
	claim := func(at *field.Path, file string) {
		if file != "" && files.Has(file) {
			errs = append(errs, field.Invalid(at, file, "conflicting duplicate paths"))
		}
		files.Insert(file)
	}
	for i, source := range v.Sources {
		at := base.Child("sources").Index(i)
		set := map[string]bool{
			"secret": source.Secret != nil, "configMap": source.ConfigMap != nil, "downwardAPI": source.DownwardAPI != nil,
			"serviceAccountToken": source.ServiceAccountToken != nil, "clusterTrustBundle": source.ClusterTrustBundle != nil,
			"podCertificate": source.PodCertificate != nil,
		}
		errs = append(errs, check.ExactlyOne(at, "volume type", set)...)
		switch {
		case source.Secret != nil:
			errs = append(errs, check.Needed(at.Child("secret", "name"), source.Secret.Name, nil)...)
			errs = append(errs, validateItems(source.Secret.Items, at.Child("secret", "items"))...)
			for _, item := range source.Secret.Items {
				claim(at.Child("secret"), item.Path)
			}
		case source.ConfigMap != nil:
			errs = append(errs, check.Needed(at.Child("configMap", "name"), source.ConfigMap.Name, nil)...)
			errs = append(errs, validateItems(source.ConfigMap.Items, at.Child("configMap", "items"))...)
			for _, item := range source.ConfigMap.Items {
				claim(at.Child("configMap"), item.Path)
			}
		case source.DownwardAPI != nil:
			errs = append(errs, validateDownward(source.DownwardAPI.Items, at.Child("downwardAPI"))...)
			for _, item := range source.DownwardAPI.Items {
				claim(at.Child("downwardAPI"), item.Path)
			}
		case source.ServiceAccountToken != nil:
			errs = append(errs, validateTokenProjection(source.ServiceAccountToken, at.Child("serviceAccountToken"))...)
			claim(at.Child("serviceAccountToken"), source.ServiceAccountToken.Path)
		case source.ClusterTrustBundle != nil:
			bundle := source.ClusterTrustBundle
			errs = append(errs, filePath(bundle.Path, at.Child("clusterTrustBundle", "path"))...)
			if (bundle.Name == nil) == (bundle.SignerName == nil) {
				errs = append(errs, field.Required(at.Child("clusterTrustBundle"), "exactly one of name or signerName must be specified"))
			}
			claim(at.Child("clusterTrustBundle", "path"), bundle.Path)
		case source.PodCertificate != nil:
			errs = append(errs, validateCertificateProjection(source.PodCertificate, at.Child("podCertificate"))...)
			for name, path := range certificateFiles(source.PodCertificate) {
				claim(at.Child("podCertificate", name), path)
			}
		}
	}
	return errs
}

func validateTokenProjection(token *corev1.ServiceAccountTokenProjection, base *field.Path) field.ErrorList {
	errs := filePath(token.Path, base.Child("path"))
	if seconds := token.ExpirationSeconds; seconds != nil {
		if *seconds < minTokenSeconds {
			errs = append(errs, field.Invalid(base.Child("expirationSeconds"), *seconds, "may not specify a duration less than 10 minutes"))
		}
		if *seconds > maxTokenSeconds {
			errs = append(errs, field.Invalid(base.Child("expirationSeconds"), *seconds, "may not specify a duration larger than 2^32 seconds"))
		}
	}
	return errs
}

func validateItems(items []corev1.KeyToPath, base *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, item := range items {
		at := base.Index(i)
		errs = append(errs, check.Needed(at.Child("key"), item.Key, nil)...)
		errs = append(errs, filePath(item.Path, at.Child("path"))...)
		errs = append(errs, validateFileMode(item.Mode, at.Child("mode"))...)
	}
	return errs
}

func validateDownward(items []corev1.DownwardAPIVolumeFile, base *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, item := range items {
		errs = append(errs, filePath(item.Path, base.Child("path"))...)
		switch {
		case item.FieldRef != nil && item.ResourceFieldRef != nil:
			errs = append(errs, field.Invalid(base, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously"))
		case item.FieldRef != nil:
			errs = append(errs, validateFieldRef(item.FieldRef, fieldsInVolume, base.Child("fieldRef"))...)
		case item.ResourceFieldRef != nil:
			errs = append(errs, validateResourceRef(item.ResourceFieldRef, true, base.Child("resourceFieldRef"))...)
		default:
			errs = append(errs, field.Required(base, "one of fieldRef and resourceFieldRef is required"))
		}
		errs = append(errs, validateFileMode(item.Mode, base.Child("mode"))...)
	}
	return errs
}

// filePath is a path inside a volume, so neither absolute nor hidden behind two dots.
func filePath(value string, at *field.Path) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := relativePath(value, at)
	if strings.HasPrefix(value, "..") && len(errs) == 0 {
		errs = append(errs, field.Invalid(at, value, "must not start with '..'"))
	}
	return errs
}

func noBackstep(value string, at *field.Path) field.ErrorList {
	if slices.Contains(strings.Split(value, "/"), "..") {
		return field.ErrorList{field.Invalid(at, value, "must not contain '..'")}
	}
	return nil
}

func validateFileMode(mode *int32, at *field.Path) field.ErrorList {
	if mode != nil && (*mode < 0 || *mode > maxFileMode) {
		return field.ErrorList{field.Invalid(at, *mode, "must be a number between 0 and 0777 (octal), both inclusive")}
	}
	return nil
}
