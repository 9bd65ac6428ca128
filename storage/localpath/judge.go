package localpath

import (
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
)

const (
	// Provisioner is our name in storage classes.
	Provisioner = "knarr.dev/local-path"
	// finalizer keeps a volume's object for as long as its folder is to be deleted.
	finalizer = "knarr.dev/local-path"
	// nodeAnnotation names the node a volume's folder is on.
	nodeAnnotation = "knarr.dev/node"
)

// ours says whether we are to make a volume for a claim now.
func ours(claim *corev1.PersistentVolumeClaim) bool {
	return claim.Annotations[volume.AnnStorageProvisioner] == Provisioner && claim.Spec.VolumeName == "" && claim.DeletionTimestamp == nil
}

// refuses says what a claim asks for that a folder on one machine is not.
func refuses(claim *corev1.PersistentVolumeClaim) error {
	switch {
	case claim.Annotations[volume.AnnSelectedNode] == "":
		return errors.New("a local volume is made on its pod's node, but the class binds at once: use a class with volumeBindingMode WaitForFirstConsumer")
	case ptr.Deref(claim.Spec.VolumeMode, corev1.PersistentVolumeFilesystem) != corev1.PersistentVolumeFilesystem:
		return errors.New("a local volume is a folder, not a block device: use volumeMode Filesystem")
	case slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteMany), slices.Contains(claim.Spec.AccessModes, corev1.ReadOnlyMany):
		return errors.New("a local volume is on one machine only: use access mode ReadWriteOnce, or a class of shared storage")
	case claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil:
		return errors.New("a local volume starts empty: remove dataSource and dataSourceRef")
	case claim.Spec.Selector != nil:
		return errors.New("a volume that is made for a claim cannot be selected by labels: remove selector")
	}
	return nil
}

// nameFor is the name of the volume a claim gets, the same each time it is tried.
func nameFor(claim *corev1.PersistentVolumeClaim) string { return "pvc-" + string(claim.UID) }

// volumeFor is the volume for a claim, at a path of a node.
func volumeFor(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, node *corev1.Node, path string) *corev1.PersistentVolume {
	host := node.Labels[corev1.LabelHostname]
	if host == "" {
		host = node.Name
	}
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:        nameFor(claim),
			Annotations: map[string]string{volume.AnnDynamicallyProvisioned: Provisioner, nodeAnnotation: node.Name},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: ptr.Deref(class.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete),
			StorageClassName:              class.Name,
			VolumeMode:                    ptr.To(corev1.PersistentVolumeFilesystem),
			ClaimRef:                      &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID},
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{host}}},
			}}}},
		},
	}
	controllerutil.AddFinalizer(v, finalizer)
	return v
}

// end is what is to be done about a volume.
type end int

const (
	keep     end = iota
	letGo        // its object, without touching the folder
	deleteIt     // folder first, then the object
)

// judge says what is to be done about a volume of ours. A volume in use is never touched, even if its object is being
// deleted.
func judge(v *corev1.PersistentVolume) end {
	wanted := v.Status.Phase == corev1.VolumeBound || (v.Spec.ClaimRef != nil && v.Status.Phase != corev1.VolumeReleased && v.Status.Phase != corev1.VolumeFailed)
	switch going := v.DeletionTimestamp != nil; {
	case wanted:
		return keep
	case v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		if going || v.Status.Phase == corev1.VolumeReleased {
			return deleteIt
		}
	case going:
		return letGo
	}
	return keep
}

// folderOf is the node and the folder of a volume.
func folderOf(v *corev1.PersistentVolume) (node, path string, err error) {
	node = v.Annotations[nodeAnnotation]
	if node == "" || v.Spec.Local == nil {
		return "", "", fmt.Errorf("volume %s does not say which folder it is on which node (annotation %s, local.path): delete its data by hand, then its finalizer %s", v.Name, nodeAnnotation, finalizer)
	}
	return node, v.Spec.Local.Path, nil
}
