package persistentvolume

import (
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// claimView is what a decision about a claim depends on.
type claimView struct {
	claim        *corev1.PersistentVolumeClaim
	named        *corev1.PersistentVolume   // the one the claim names; nil when there is none of that name
	volumes      []*corev1.PersistentVolume // of the claim's class, and those reserved for the claim
	class        *storagev1.StorageClass    // nil when there is none of that name
	defaultClass string
	unplaced     []string // names of the pods without a node that use it, if it waits for one
}

// decision is how a claim or a volume should look, with its other half when that changes as well; nil stays as it is.
type decision struct {
	volume *corev1.PersistentVolume
	claim  *corev1.PersistentVolumeClaim
	events []event
}

// judgeClaim decides about one claim. A claim that was bound once is never bound to another volume: what it had
// written is not there.
func judgeClaim(v claimView) decision {
	switch {
	case metav1.HasAnnotation(v.claim.ObjectMeta, volume.AnnBindCompleted):
		return judgeBound(v)
	case v.claim.DeletionTimestamp != nil:
		return decision{}
	case v.claim.Spec.VolumeName != "":
		return judgeNaming(v)
	}
	if !volume.PersistentVolumeClaimHasClass(v.claim) && v.defaultClass != "" {
		claim := v.claim.DeepCopy()
		claim.Spec.StorageClassName = &v.defaultClass
		return decision{claim: claim}
	}
	waits := waitsForPod(v.claim, v.class)
	if found := choose(v.claim, v.volumes, waits); found != nil {
		return bind(found, v.claim)
	}
	return pending(v, waits)
}

// waitsForPod says whether a claim is to be bound where its pod runs, and the scheduler has not said yet where that is.
func waitsForPod(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) bool {
	return class != nil && ptr.Deref(class.VolumeBindingMode, storagev1.VolumeBindingImmediate) == storagev1.VolumeBindingWaitForFirstConsumer &&
		!volume.IsDelayBindingProvisioning(claim)
}

// choose finds the volume for a claim: one that is reserved for it, or the smallest that is large enough, of those that
// can do the least more than asked. While the claim waits for its pod's node, only a reserved one: the scheduler chooses.
func choose(claim *corev1.PersistentVolumeClaim, volumes []*corev1.PersistentVolume, waits bool) *corev1.PersistentVolume {
	able := slices.DeleteFunc(slices.Clone(volumes), func(v *corev1.PersistentVolume) bool { return !volume.CheckAccessModes(claim, v) })
	if reserved, err := volume.FindMatchingVolume(claim, able, nil, nil, true, true); reserved != nil || err != nil || waits {
		return reserved // a selector that cannot be read matches nothing
	}
	modes := map[int][]*corev1.PersistentVolume{}
	for _, v := range able {
		modes[len(v.Spec.AccessModes)] = append(modes[len(v.Spec.AccessModes)], v)
	}
	for n := 0; len(modes) > 0; n++ {
		if found, err := volume.FindMatchingVolume(claim, modes[n], nil, nil, false, true); found != nil && err == nil {
			return found
		}
		delete(modes, n)
	}
	return nil
}

// pending leaves a claim waiting, and says for what.
func pending(v claimView, waits bool) decision {
	d := decision{}
	name := volume.GetPersistentVolumeClaimClass(v.claim)
	claim := v.claim.DeepCopy()
	switch {
	case waits:
		d.events = []event{waiting(v.claim, v.unplaced)}
	case name == "":
		d.events = []event{normal(v.claim, reasonFailedBinding, "no persistent volumes available for this claim and no storage class is set")}
	case v.class == nil:
		d.events = []event{warning(v.claim, reasonProvisioningFailed, "storageclass.storage.k8s.io %q not found", name)}
	case v.class.Provisioner == volume.NotSupportedProvisioner:
		d.events = []event{warning(v.claim, reasonProvisioningFailed, "no volume plugin matched name: %s", v.class.Provisioner)}
	default:
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnStorageProvisioner, v.class.Provisioner)
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, volume.AnnBetaStorageProvisioner, v.class.Provisioner)
		d.events = []event{normal(v.claim, reasonExternal, "Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. "+
			"If volume creation is delayed, please verify that the provisioner is running and correctly registered.", v.class.Provisioner)}
	}
	d.claim = inPhase(claim, corev1.ClaimPending)
	return d
}

// judgeNaming decides about a claim whose user chose the volume.
func judgeNaming(v claimView) decision {
	waiting := decision{claim: inPhase(v.claim.DeepCopy(), corev1.ClaimPending)}
	switch {
	case v.named == nil:
		return waiting
	case v.named.Spec.ClaimRef == nil:
		if err := satisfies(v.named, v.claim); err != nil {
			waiting.events = []event{warning(v.claim, reasonMismatch, "Cannot bind to requested volume %q: %s", v.named.Name, err)}
			return waiting
		}
		return bind(v.named, v.claim)
	case volume.IsVolumeBoundToClaim(v.named, v.claim):
		return bind(v.named, v.claim)
	}
	waiting.events = []event{warning(v.claim, reasonFailedBinding, "volume %q already bound to a different claim.", v.named.Name)}
	return waiting
}

// judgeBound decides about a claim that was bound once.
func judgeBound(v claimView) decision {
	lost := decision{claim: inPhase(v.claim.DeepCopy(), corev1.ClaimLost)}
	tell := func(reason, message string) decision {
		if v.claim.Status.Phase != corev1.ClaimLost {
			lost.events = []event{warning(v.claim, reason, "%s", message)}
		}
		return lost
	}
	switch {
	case v.claim.Spec.VolumeName == "":
		return tell(reasonLost, "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	case v.named == nil:
		return tell(reasonLost, "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case v.named.Spec.ClaimRef == nil || v.named.Spec.ClaimRef.UID == v.claim.UID:
		return bind(v.named, v.claim)
	}
	return tell(reasonMisbound, "Two claims are bound to the same volume, this one is bound incorrectly")
}

// satisfies says why a volume will not do for the claim that asks for it by name.
func satisfies(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	wanted, has := claim.Spec.Resources.Requests[corev1.ResourceStorage], v.Spec.Capacity[corev1.ResourceStorage]
	switch {
	case v.DeletionTimestamp != nil:
		return fmt.Errorf("the volume is marked for deletion %q", v.Name)
	case has.Cmp(wanted) < 0:
		return errors.New("requested PV is too small")
	case volume.GetPersistentVolumeClass(v) != volume.GetPersistentVolumeClaimClass(claim):
		return errors.New("storageClassName does not match")
	case ptr.Deref(v.Spec.VolumeAttributesClassName, "") != ptr.Deref(claim.Spec.VolumeAttributesClassName, ""):
		return errors.New("volumeAttributesClassName does not match")
	case volume.CheckVolumeModeMismatches(&claim.Spec, &v.Spec):
		return errors.New("incompatible volumeMode")
	case !volume.CheckAccessModes(claim, v):
		return errors.New("incompatible accessMode")
	}
	return nil
}

// bind makes both halves point at each other. They are written volume first: a claim is what users build on, so it
// is the last to be told.
func bind(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) decision {
	taken, _, err := volume.GetBindVolumeToClaim(v, claim)
	if err != nil {
		return decision{events: []event{warning(claim, reasonFailedBinding, "%s", err)}}
	}
	taken.Status.Phase, taken.Status.Reason, taken.Status.Message = corev1.VolumeBound, "", ""
	given := claim.DeepCopy()
	if given.Spec.VolumeName != v.Name {
		given.Spec.VolumeName = v.Name
		metav1.SetMetaDataAnnotation(&given.ObjectMeta, volume.AnnBoundByController, "yes")
	}
	metav1.SetMetaDataAnnotation(&given.ObjectMeta, volume.AnnBindCompleted, "yes")
	if given.Status.Phase != corev1.ClaimBound { // later the size is the business of whoever resizes it
		given.Status.Capacity = v.Spec.Capacity.DeepCopy()
		given.Status.CurrentVolumeAttributesClassName = v.Spec.VolumeAttributesClassName
	}
	given.Status.AccessModes = v.Spec.AccessModes
	given.Status.Phase = corev1.ClaimBound
	return decision{volume: taken, claim: given}
}

// inPhase is a claim without a volume.
func inPhase(claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase) *corev1.PersistentVolumeClaim {
	claim.Status.Phase = phase
	claim.Status.AccessModes, claim.Status.Capacity = nil, nil
	return claim
}
