package plugins

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// unready says why a claim cannot be used on any node, "" if it can.
func unready(pod *corev1.Pod, wanted snapshot.Claim, snap *snapshot.Snapshot) string {
	claim := snap.Claim(pod.Namespace, wanted.Name)
	switch {
	case claim == nil && wanted.Own:
		return fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", wanted.Name)
	case claim == nil:
		return fmt.Sprintf("persistentvolumeclaim %q not found", wanted.Name)
	case claim.DeletionTimestamp != nil:
		return fmt.Sprintf("persistentvolumeclaim %q is being deleted", wanted.Name)
	case claim.Status.Phase == corev1.ClaimLost:
		return fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", wanted.Name, claim.Spec.VolumeName)
	}
	if wanted.Own {
		if err := ephemeral.VolumeIsForPod(pod, claim); err != nil {
			return err.Error()
		}
	}
	if !bound(claim) && (claim.Spec.VolumeName != "" || !snap.Waits(claim)) {
		return "pod has unbound immediate PersistentVolumeClaims"
	}
	return ""
}

func bound(claim *corev1.PersistentVolumeClaim) bool {
	_, completed := claim.Annotations[volume.AnnBindCompleted]
	return claim.Spec.VolumeName != "" && (completed || claim.Status.Phase == corev1.ClaimBound)
}

// Volumes keeps a pod to the nodes its volumes can be reached from.
type Volumes struct{}

// Name of the rule.
func (Volumes) Name() string { return "VolumeBinding" }

// Filter implements Filterer. A claim that is not ready to be used on any node refuses all of them; one that waits for
// its pod's node finds none: nothing here could bind it then.
func (Volumes) Filter(pod *snapshot.Pod, snap *snapshot.Snapshot) (Filter, *Refusal) {
	var there []*corev1.PersistentVolume
	for _, wanted := range pod.Claims {
		if why := unready(pod.Object, wanted, snap); why != "" {
			return nil, &Refusal{Reasons: []string{why}, Final: true}
		}
	}
	for _, wanted := range pod.Claims {
		claim := snap.Claim(pod.Object.Namespace, wanted.Name)
		if !bound(claim) {
			return everywhere("node(s) didn't find available persistent volumes to bind"), nil
		}
		pv := snap.Volume(claim.Spec.VolumeName)
		if pv == nil {
			return everywhere("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"), nil
		}
		if pv.Spec.NodeAffinity != nil {
			there = append(there, pv)
		}
	}
	if len(there) == 0 {
		return nil, nil
	}
	elsewhere := &Refusal{Reasons: []string{"node(s) didn't match PersistentVolume's node affinity"}, Final: true}
	return func(n *snapshot.Node) *Refusal {
		for _, pv := range there {
			if volume.CheckNodeAffinity(pv, n.Object.Labels) != nil {
				return elsewhere
			}
		}
		return nil
	}, nil
}

func everywhere(reason string) Filter {
	refusal := &Refusal{Reasons: []string{reason}, Final: true}
	return func(*snapshot.Node) *Refusal { return refusal }
}

// Helps implements Filterer.
func (Volumes) Helps(pod *snapshot.Pod, _ *snapshot.Snapshot, change snapshot.Change) bool {
	if change.Kind != snapshot.StorageChanged {
		return isNode(change)
	}
	if change.Claim == nil {
		return true
	}
	for _, wanted := range pod.Claims {
		if change.Claim.Namespace == pod.Object.Namespace && change.Claim.Name == wanted.Name {
			return true
		}
	}
	return false
}

// Needs implements Follower.
func (Volumes) Needs(pod *snapshot.Pod) bool { return len(pod.Claims) > 0 }

// Sources implements Follower.
func (Volumes) Sources() []Source {
	return []Source{
		SourceOf(&corev1.PersistentVolumeClaim{}, (*snapshot.Snapshot).SetClaim, (*snapshot.Snapshot).RemoveClaim),
		SourceOf(&corev1.PersistentVolume{}, (*snapshot.Snapshot).SetVolume, (*snapshot.Snapshot).RemoveVolume),
		SourceOf(&storagev1.StorageClass{}, (*snapshot.Snapshot).SetClass, (*snapshot.Snapshot).RemoveClass),
	}
}
