package resourceclaim

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/workloads/podcontrol"
)

// claimNote says on a claim which of its pod's claims it is.
const claimNote = "resource.kubernetes.io/pod-claim-name"

// nameLimit is what is left of a name before the hash (DNS subdomain, 253).
const nameLimit = 240

// done says whether a pod will never use devices again.
func done(pod *corev1.Pod) bool {
	return podcontrol.Terminal(pod) || pod.DeletionTimestamp != nil && pod.Spec.NodeName == ""
}

// newClaim is the claim a template makes for one of a pod's claims. Its name follows from the pod and the claim, so a
// second attempt finds the first.
func newClaim(pod *corev1.Pod, podClaim string, template *resourcev1.ResourceClaimTemplate) *resourcev1.ResourceClaim {
	annotations := maps.Clone(template.Spec.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[claimNote] = podClaim
	return &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: claimName(pod, podClaim),
			Labels: maps.Clone(template.Spec.Labels), Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))},
		},
		Spec: *template.Spec.Spec.DeepCopy(),
	}
}

func claimName(pod *corev1.Pod, podClaim string) string {
	h := fnv.New32a()
	fmt.Fprint(h, pod.UID, "/", podClaim)
	base := pod.Name + "-" + podClaim
	return fmt.Sprintf("%s-%08x", base[:min(len(base), nameLimit)], h.Sum32())
}

// named is the claim that one of a pod's claims stands for; "" while it has none.
func named(pod *corev1.Pod, podClaim *corev1.PodResourceClaim) string {
	if podClaim.ResourceClaimName != nil {
		return *podClaim.ResourceClaimName
	}
	for _, status := range pod.Status.ResourceClaimStatuses {
		if status.Name == podClaim.Name && status.ResourceClaimName != nil {
			return *status.ResourceClaimName
		}
	}
	return ""
}

// claimsOf are the names of all claims a pod uses, those for its extended resources as well.
func claimsOf(pod *corev1.Pod) []string {
	var names []string
	for i := range pod.Spec.ResourceClaims {
		if name := named(pod, &pod.Spec.ResourceClaims[i]); name != "" {
			names = append(names, name)
		}
	}
	if extended := pod.Status.ExtendedResourceClaimStatus; extended != nil {
		names = append(names, extended.ResourceClaimName)
	}
	return names
}

// withStatus is the list of a pod's claims with one more, or changed, entry.
func withStatus(have []corev1.PodResourceClaimStatus, podClaim, name string) []corev1.PodResourceClaimStatus {
	next := slices.DeleteFunc(slices.Clone(have), func(s corev1.PodResourceClaimStatus) bool { return s.Name == podClaim })
	return append(next, corev1.PodResourceClaimStatus{Name: podClaim, ResourceClaimName: &name})
}

// reserve is a claim with a place for a pod that was put on its node by somebody else than the scheduler; nil when there
// is nothing to be done: it has a place, has no devices yet, or no room.
func reserve(claim *resourcev1.ResourceClaim, pod *corev1.Pod) *resourcev1.ResourceClaim {
	if claim.Status.Allocation == nil || claim.DeletionTimestamp != nil || len(claim.Status.ReservedFor) >= resourcev1.ResourceClaimReservedForMaxSize {
		return nil
	}
	if slices.ContainsFunc(claim.Status.ReservedFor, func(ref resourcev1.ResourceClaimConsumerReference) bool { return ref.UID == pod.UID }) {
		return nil
	}
	next := claim.DeepCopy()
	next.Status.ReservedFor = append(next.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
	return next
}

// verdict on a claim.
type verdict struct {
	status  *resourcev1.ResourceClaimStatus // nil: as it is
	release bool                            // the finalizer can go
	delete  bool                            // the pod it was made for needs it no more
}

// judge says what is to become of a claim. using tells which of its consumers still are; ownerDone is about the pod it was
// made for.
func judge(claim *resourcev1.ResourceClaim, using func(resourcev1.ResourceClaimConsumerReference) bool, ownerDone bool) verdict {
	v := verdict{delete: ownerDone && claim.DeletionTimestamp == nil}
	var kept []resourcev1.ResourceClaimConsumerReference
	for _, ref := range claim.Status.ReservedFor {
		if using(ref) {
			kept = append(kept, ref)
		}
	}
	left := len(claim.Status.ReservedFor) - len(kept)
	held := slices.Contains(claim.Finalizers, resourcev1.Finalizer)
	// Devices are given back when their last user has gone, or when nobody can come any more.
	free := len(kept) == 0 && claim.Status.Allocation != nil && held && (left > 0 || claim.DeletionTimestamp != nil || ownerDone)
	if left > 0 || free {
		v.status = claim.Status.DeepCopy()
		v.status.ReservedFor = kept
		if free {
			v.status.Allocation, v.status.Devices = nil, nil
		}
	}
	v.release = held && (free || claim.Status.Allocation == nil && claim.DeletionTimestamp != nil)
	return v
}
