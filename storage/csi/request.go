package csi

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	csiv1 "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/utils/ptr"
)

// Volume is what one pod wants mounted: of a claim, or inline in the pod.
type Volume struct {
	Name   string                   // of the volume in the pod
	PV     *corev1.PersistentVolume // nil for an inline one
	Claim  *corev1.PersistentVolumeClaim
	Inline *corev1.CSIVolumeSource

	ReadOnly bool
}

// use is the volume as it is kept on disk.
func (v Volume) use(pod *corev1.Pod, attach bool) use {
	if v.Inline != nil {
		sum := sha256.Sum256([]byte(string(pod.UID) + v.Name))
		return use{Pod: pod.UID, Spec: v.Name, Driver: v.Inline.Driver, Handle: "csi-" + hex.EncodeToString(sum[:]), Ephemeral: true}
	}
	source := v.PV.Spec.CSI
	return use{Pod: pod.UID, Spec: v.PV.Name, Driver: source.Driver, Handle: source.VolumeHandle, Block: v.block(), Attached: attach}
}

func (v Volume) block() bool {
	return v.PV != nil && ptr.Deref(v.PV.Spec.VolumeMode, corev1.PersistentVolumeFilesystem) == corev1.PersistentVolumeBlock
}

func (v Volume) driver() string {
	if v.Inline != nil {
		return v.Inline.Driver
	}
	return v.PV.Spec.CSI.Driver
}

func (v Volume) fsType() string {
	if v.Inline != nil {
		return ptr.Deref(v.Inline.FSType, "")
	}
	return v.PV.Spec.CSI.FSType
}

func (v Volume) readOnly() bool {
	if v.Inline != nil {
		return v.ReadOnly || ptr.Deref(v.Inline.ReadOnly, false)
	}
	return v.ReadOnly || v.PV.Spec.CSI.ReadOnly
}

func (v Volume) modes() []corev1.PersistentVolumeAccessMode {
	if v.PV == nil {
		return []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	}
	return v.PV.Spec.AccessModes
}

// capability is how the volume is to be used, in CSI's words. group is set for drivers that hand files to it themselves.
func (v Volume) capability(single bool, group *int64) *csiv1.VolumeCapability {
	out := &csiv1.VolumeCapability{AccessMode: &csiv1.VolumeCapability_AccessMode{Mode: accessMode(v.modes(), single)}}
	if v.block() {
		out.AccessType = &csiv1.VolumeCapability_Block{Block: &csiv1.VolumeCapability_BlockVolume{}}
		return out
	}
	mount := &csiv1.VolumeCapability_MountVolume{FsType: v.fsType()}
	if v.PV != nil {
		mount.MountFlags = v.PV.Spec.MountOptions
	}
	if group != nil {
		mount.VolumeMountGroup = strconv.FormatInt(*group, 10)
	}
	out.AccessType = &csiv1.VolumeCapability_Mount{Mount: mount}
	return out
}

// accessMode is the widest of a volume's modes. single: the driver tells one pod's use of a volume from one node's.
func accessMode(modes []corev1.PersistentVolumeAccessMode, single bool) csiv1.VolumeCapability_AccessMode_Mode {
	switch {
	case slices.Contains(modes, corev1.ReadWriteMany):
		return csiv1.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	case slices.Contains(modes, corev1.ReadOnlyMany) && slices.Contains(modes, corev1.ReadWriteOnce):
		return csiv1.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER
	case slices.Contains(modes, corev1.ReadOnlyMany):
		return csiv1.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	case slices.Contains(modes, corev1.ReadWriteOncePod) && single:
		return csiv1.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	case single:
		return csiv1.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
	}
	return csiv1.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
}

// podContext is what a driver learns of the pod, if its CSIDriver object asks for it.
func podContext(pod *corev1.Pod, ephemeral bool) map[string]string {
	return map[string]string{
		"csi.storage.k8s.io/pod.name":            pod.Name,
		"csi.storage.k8s.io/pod.namespace":       pod.Namespace,
		"csi.storage.k8s.io/pod.uid":             string(pod.UID),
		"csi.storage.k8s.io/serviceAccount.name": pod.Spec.ServiceAccountName,
		"csi.storage.k8s.io/ephemeral":           strconv.FormatBool(ephemeral),
	}
}

// context of a volume, for the driver: what it was made with, and the pod.
func (v Volume) context(pod *corev1.Pod, about *storagev1.CSIDriver) map[string]string {
	out := map[string]string{}
	if v.Inline != nil {
		maps.Copy(out, v.Inline.VolumeAttributes)
	} else {
		maps.Copy(out, v.PV.Spec.CSI.VolumeAttributes)
	}
	if about != nil && ptr.Deref(about.Spec.PodInfoOnMount, false) {
		maps.Copy(out, podContext(pod, v.Inline != nil))
	}
	return out
}

// attach says whether a controller has to attach the volume to this machine first.
func (v Volume) attach(about *storagev1.CSIDriver) bool {
	return v.Inline == nil && (about == nil || ptr.Deref(about.Spec.AttachRequired, true))
}

// allowed says why a driver is not for this kind of volume. Without a CSIDriver object it is for claims only.
func (v Volume) allowed(about *storagev1.CSIDriver) error {
	want := storagev1.VolumeLifecyclePersistent
	if v.Inline != nil {
		want = storagev1.VolumeLifecycleEphemeral
	}
	modes := []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	if about != nil && len(about.Spec.VolumeLifecycleModes) > 0 {
		modes = about.Spec.VolumeLifecycleModes
	}
	if slices.Contains(modes, want) {
		return nil
	}
	if about == nil {
		return fmt.Errorf("volume mode %q not supported by driver %s (no CSIDriver object): create one that lists it in volumeLifecycleModes", want, v.driver())
	}
	return fmt.Errorf("volume mode %q not supported by driver %s (only supports %v)", want, v.driver(), modes)
}

// ownedByGroup says whether the volume's files are to be handed to a pod's fsGroup (KEP-1682).
func (v Volume) ownedByGroup(about *storagev1.CSIDriver) bool {
	policy := storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy
	if about != nil {
		policy = ptr.Deref(about.Spec.FSGroupPolicy, policy)
	}
	switch {
	case v.block():
		return false
	case policy == storagev1.FileFSGroupPolicy:
		return true
	case policy == storagev1.NoneFSGroupPolicy:
		return false
	}
	once := func(m corev1.PersistentVolumeAccessMode) bool {
		return m == corev1.ReadWriteOnce || m == corev1.ReadWriteOncePod
	}
	return v.fsType() != "" && !v.readOnly() && slices.ContainsFunc(v.modes(), once)
}

// check refuses what could leave the folder it belongs in.
func (v Volume) check() error {
	switch {
	case v.Inline == nil && (v.PV == nil || v.PV.Spec.CSI == nil):
		return errors.New("it is not a volume of a CSI driver")
	case v.Inline == nil && v.PV.Spec.CSI.VolumeHandle == "":
		return fmt.Errorf("persistentvolume %q has no volumeHandle", v.PV.Name)
	}
	return nil
}
