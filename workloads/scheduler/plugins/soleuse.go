package plugins

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// SoleUse keeps a claim that one pod at a time may use (ReadWriteOncePod) from a second one.
type SoleUse struct{}

// Name of the rule.
func (SoleUse) Name() string { return "VolumeRestrictions" }

// Filter implements Filterer.
func (SoleUse) Filter(pod *snapshot.Pod, snap *snapshot.Snapshot) (Filter, *Refusal) {
	var sole []string
	var users int64
	for _, wanted := range pod.Claims {
		claim := snap.Claim(pod.Object.Namespace, wanted.Name)
		if claim != nil && slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
			sole = append(sole, wanted.Name)
			users += snap.Users(pod.Object.Namespace, wanted.Name)
		}
	}
	if len(sole) == 0 {
		return nil, nil
	}
	refusal := &Refusal{Reasons: []string{"node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"}}
	return func(n *snapshot.Node) *Refusal {
		left := users
		for moved, by := range n.Moved {
			left += by * shared(moved, pod.Object.Namespace, sole)
		}
		if left > 0 {
			return refusal
		}
		return nil
	}, nil
}

// shared is how many of the claims a pod uses.
func shared(pod *snapshot.Pod, namespace string, claims []string) (n int64) {
	if pod.Object.Namespace != namespace {
		return 0
	}
	for _, c := range pod.Claims {
		if slices.Contains(claims, c.Name) {
			n++
		}
	}
	return n
}

// Helps implements Filterer.
func (SoleUse) Helps(pod *snapshot.Pod, _ *snapshot.Snapshot, change snapshot.Change) bool {
	return change.Kind == snapshot.PodGone && change.Pod.Namespace == pod.Object.Namespace
}
