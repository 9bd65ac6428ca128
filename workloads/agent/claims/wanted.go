package claims

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
)

// want is what a container asks for of a claim.
type want struct {
	name    string // in the pod
	claim   string // the claim's own name, "" while it is not made
	request string // "": all of it
}

// wanted of the pod's claims by a container: what it lists, and what stands for extended resources (KEP-5004).
func wanted(pod *corev1.Pod, c *corev1.Container) []want {
	var out []want
	for _, use := range c.Resources.Claims {
		out = append(out, want{name: use.Name, claim: claimNamed(pod, use.Name), request: use.Request})
	}
	if made := pod.Status.ExtendedResourceClaimStatus; made != nil {
		for _, mapping := range made.RequestMappings {
			if mapping.ContainerName == c.Name {
				out = append(out, want{name: mapping.ResourceName, claim: made.ResourceClaimName, request: mapping.RequestName})
			}
		}
	}
	return out
}

// claimNamed is the claim behind one of a pod's names.
func claimNamed(pod *corev1.Pod, name string) string {
	for _, c := range pod.Spec.ResourceClaims {
		if c.Name == name && c.ResourceClaimName != nil {
			return *c.ResourceClaimName
		}
	}
	for _, made := range pod.Status.ResourceClaimStatuses {
		if made.Name == name && made.ResourceClaimName != nil {
			return *made.ResourceClaimName
		}
	}
	return ""
}

// usable says why a claim is not for a pod.
func usable(claim *resourcev1.ResourceClaim, pod *corev1.Pod) error {
	name := claim.Namespace + "/" + claim.Name
	switch {
	case claim.DeletionTimestamp != nil && claim.Status.Allocation == nil:
		return fmt.Errorf("resourceclaim %s is being deleted", name)
	case claim.Status.Allocation == nil:
		return fmt.Errorf("resourceclaim %s is not allocated", name)
	case !slices.ContainsFunc(claim.Status.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool {
		return r.UID == types.UID(pod.UID)
	}):
		return fmt.Errorf("resourceclaim %s is not reserved for pod %s/%s", name, pod.Namespace, pod.Name)
	}
	return nil
}

// driversOf are those whose devices a claim has.
func driversOf(claim *resourcev1.ResourceClaim) []string {
	var out []string
	for _, r := range claim.Status.Allocation.Devices.Results {
		out = append(out, r.Driver)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// serves says whether a device is for a request; one of several alternatives is named request/alternative.
func (d device) serves(request string) bool {
	return request == "" || len(d.Requests) == 0 || slices.ContainsFunc(d.Requests, func(name string) bool {
		return name == request || strings.HasPrefix(name, request+"/")
	})
}
