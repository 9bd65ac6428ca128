package statefulset

import (
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var podKind = corev1.SchemeGroupVersion.WithKind("Pod")

// claims are a set's PersistentVolumeClaims by name.
type claims map[string]*corev1.PersistentVolumeClaim

func claimName(set *appsv1.StatefulSet, template *corev1.PersistentVolumeClaim, ordinal int) string {
	return template.Name + "-" + podName(set, ordinal)
}

// claimNames are the claims of one ordinal.
func claimNames(set *appsv1.StatefulSet, ordinal int) []string {
	var names []string
	for i := range set.Spec.VolumeClaimTemplates {
		names = append(names, claimName(set, &set.Spec.VolumeClaimTemplates[i], ordinal))
	}
	return names
}

// missing are the claims an ordinal's pod lacks.
func (c claims) missing(set *appsv1.StatefulSet, ordinal int) []*corev1.PersistentVolumeClaim {
	var all []*corev1.PersistentVolumeClaim
	for i := range set.Spec.VolumeClaimTemplates {
		template := &set.Spec.VolumeClaimTemplates[i]
		name := claimName(set, template, ordinal)
		if c[name] != nil {
			continue
		}
		claim := template.DeepCopy()
		claim.Namespace, claim.Name = set.Namespace, name
		if claim.Labels == nil {
			claim.Labels = map[string]string{}
		}
		if set.Spec.Selector != nil {
			maps.Copy(claim.Labels, set.Spec.Selector.MatchLabels)
		}
		claim.OwnerReferences = claimOwners(set, ordinal, nil, claim)
		all = append(all, claim)
	}
	return all
}

// going says whether a claim of an ordinal is being deleted, or will be because it still belongs to a pod that was
// scaled away. A pod that comes back waits for a claim of its own, or its data would vanish under it.
func (c claims) going(set *appsv1.StatefulSet, ordinal int) bool {
	return slices.ContainsFunc(claimNames(set, ordinal), func(name string) bool {
		claim := c[name]
		return claim != nil && (claim.DeletionTimestamp != nil || slices.ContainsFunc(claim.OwnerReferences, func(ref metav1.OwnerReference) bool {
			return ref.Kind == podKind.Kind && ref.Name == podName(set, ordinal)
		}))
	})
}

// reowned are copies of the claims of a standing pod whose owners are not those the retention policy wants.
func (c claims) reowned(set *appsv1.StatefulSet, ordinal int, pod *corev1.Pod) []*corev1.PersistentVolumeClaim {
	var all []*corev1.PersistentVolumeClaim
	for _, name := range claimNames(set, ordinal) {
		claim := c[name]
		if claim == nil || claim.DeletionTimestamp != nil {
			continue
		}
		if refs := claimOwners(set, ordinal, pod, claim); !apiequality.Semantic.DeepEqual(refs, claim.OwnerReferences) {
			changed := claim.DeepCopy()
			changed.OwnerReferences = refs
			all = append(all, changed)
		}
	}
	return all
}

// claimOwners are a claim's owners under the retention policy. Whom the garbage collector deletes decides who goes with
// it: a claim to be deleted with the set belongs to the set, one to be deleted by scaling down belongs to the pod
// that is about to go. pod is nil before it exists.
func claimOwners(set *appsv1.StatefulSet, ordinal int, pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) []metav1.OwnerReference {
	foreign := slices.DeleteFunc(slices.Clone(claim.OwnerReferences), func(ref metav1.OwnerReference) bool {
		return ref.UID == set.UID || (pod != nil && ref.UID == pod.UID)
	})
	if slices.ContainsFunc(foreign, func(ref metav1.OwnerReference) bool { return ref.Controller != nil && *ref.Controller }) {
		return claim.OwnerReferences // somebody else manages it
	}
	var policy appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy
	if set.Spec.PersistentVolumeClaimRetentionPolicy != nil {
		policy = *set.Spec.PersistentVolumeClaimRetentionPolicy
	}
	const remove = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	switch {
	case policy.WhenScaled == remove && !wanted(set, ordinal) && pod != nil:
		return append(foreign, *metav1.NewControllerRef(pod, podKind))
	case policy.WhenDeleted == remove:
		return append(foreign, *metav1.NewControllerRef(set, kind))
	}
	return foreign
}
