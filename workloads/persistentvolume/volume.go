package persistentvolume

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
)

// judgeVolume decides about one volume; claim is the one it is reserved for, nil when that is gone.
func judgeVolume(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) decision {
	switch ref := v.Spec.ClaimRef; {
	case ref == nil || ref.UID == "": // a claim somebody reserved it for may come
		return decision{volume: volumeIn(v, corev1.VolumeAvailable, "")}
	case claim == nil || claim.UID != ref.UID:
		return release(v)
	case claim.Spec.VolumeName == "":
		if volume.CheckVolumeModeMismatches(&claim.Spec, &v.Spec) {
			return decision{events: []event{
				warning(v, reasonMismatch, "Cannot bind PersistentVolume to requested PersistentVolumeClaim %q due to incompatible volumeMode.", claim.Name),
				warning(claim, reasonMismatch, "Cannot bind PersistentVolume %q to requested PersistentVolumeClaim due to incompatible volumeMode.", v.Name),
			}}
		}
		return decision{} // the claim's own pass completes the pair
	case claim.Spec.VolumeName == v.Name:
		return decision{volume: volumeIn(v, corev1.VolumeBound, "")}
	case metav1.HasAnnotation(v.ObjectMeta, volume.AnnDynamicallyProvisioned) && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return release(v) // made for a claim that took another one meanwhile: nobody will ever want it
	}
	return decision{volume: unbind(v)}
}

// release gives a volume up whose claim is gone. What becomes of its data is its policy's to say: a provisioner
// deletes what it made, nobody deletes anything else.
func release(v *corev1.PersistentVolume) decision {
	if v.Status.Phase == corev1.VolumeFailed {
		return decision{}
	}
	provisioned := metav1.HasAnnotation(v.ObjectMeta, volume.AnnDynamicallyProvisioned) || metav1.HasAnnotation(v.ObjectMeta, volume.AnnMigratedTo)
	fail := func(reason, message string) decision {
		return decision{volume: volumeIn(v, corev1.VolumeFailed, message), events: []event{warning(v, reason, "%s", message)}}
	}
	switch policy := v.Spec.PersistentVolumeReclaimPolicy; {
	case policy == corev1.PersistentVolumeReclaimRecycle:
		return fail(reasonFailedRecycle, "No recycler plugin found for the volume!")
	case policy == corev1.PersistentVolumeReclaimDelete && !provisioned:
		return fail(reasonFailedDelete, "error getting deleter volume plugin for volume \""+v.Name+"\": no deletable volume plugin matched")
	}
	return decision{volume: volumeIn(v, corev1.VolumeReleased, "")}
}

// unbind makes a volume free again whose claim took another one. Who reserved it by name reserved it for later, too.
func unbind(v *corev1.PersistentVolume) *corev1.PersistentVolume {
	free := volumeIn(v, corev1.VolumeAvailable, "")
	if metav1.HasAnnotation(v.ObjectMeta, volume.AnnBoundByController) {
		free.Spec.ClaimRef = nil
		delete(free.Annotations, volume.AnnBoundByController)
	} else {
		free.Spec.ClaimRef.UID, free.Spec.ClaimRef.ResourceVersion = "", ""
	}
	return free
}

func volumeIn(v *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, message string) *corev1.PersistentVolume {
	next := v.DeepCopy()
	next.Status.Phase, next.Status.Reason, next.Status.Message = phase, "", message
	return next
}
