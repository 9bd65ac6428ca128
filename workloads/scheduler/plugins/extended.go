package plugins

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// nameLimit is what is left of a pod's name in its claim's (DNS subdomain, 253).
const nameLimit = 220

// extended is an extended resource a pod asks for and a class of devices stands for (KEP-5004): how many devices, and which of
// them each container is to have. A node that reports the resource itself has its own; on the others the pod gets devices,
// by one claim for all such resources that is made for it.
type extended struct {
	resource corev1.ResourceName
	requests []resourcev1.DeviceRequest
	mappings []corev1.ContainerExtendedResourceRequest
}

// asksExtended says whether a pod asks for any extended resource.
func asksExtended(pod *snapshot.Pod) bool {
	for name := range pod.Requests.Scalar {
		if isExtended(name) {
			return true
		}
	}
	return false
}

func isExtended(name corev1.ResourceName) bool {
	domain, _, qualified := strings.Cut(string(name), "/")
	return qualified && (!strings.HasSuffix(domain, "kubernetes.io") || strings.HasPrefix(string(name), resourcev1.ResourceDeviceClassPrefix))
}

// extendedOf are the extended resources of a pod that a class of devices stands for.
func extendedOf(pod *snapshot.Pod, snap *snapshot.Snapshot) (all []extended) {
	if len(pod.Requests.Scalar) == 0 {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(pod.Requests.Scalar)) {
		if class := snap.StandIn(name); class != nil && isExtended(name) {
			all = append(all, share(pod.Object, name, class.Name, len(all)))
		}
	}
	return all
}

// standsIn says whether devices of a class are what a pod gets of a resource on a node.
func standsIn(name corev1.ResourceName, n *snapshot.Node, snap *snapshot.Snapshot) bool {
	return n.Allocatable.Scalar[name] == 0 && isExtended(name) && snap.StandIn(name) != nil
}

// span is the devices of a container, from one to before another of all the pod has.
type span struct {
	container string
	from, to  int64
}

// share divides devices among containers as other amounts are (KEP-753): those that run at the same time have devices of their
// own, an init container has those of the ones that start after it. All devices of the pod are a line, sidecars and containers
// each have a part of it, and an init container has the part from where the sidecars before it end. Wherever a part ends the
// line is cut; each piece is a request.
func share(pod *corev1.Pod, name corev1.ResourceName, class string, index int) extended {
	var spans []span
	end := int64(0) // of what those have that stay
	take := func(c *corev1.Container, stays bool) {
		q, asks := c.Resources.Requests[name]
		if !asks || q.Value() <= 0 {
			return
		}
		spans = append(spans, span{c.Name, end, end + q.Value()})
		if stays {
			end += q.Value()
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		take(c, c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways)
	}
	for i := range pod.Spec.Containers {
		take(&pod.Spec.Containers[i], true)
	}
	var cuts []int64
	for _, s := range spans {
		cuts = append(cuts, s.from, s.to)
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	e := extended{resource: name}
	for i := range max(len(cuts)-1, 0) {
		request := fmt.Sprintf("resource-%d-part-%d", index, i)
		e.requests = append(e.requests, resourcev1.DeviceRequest{Name: request, Exactly: &resourcev1.ExactDeviceRequest{
			DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: cuts[i+1] - cuts[i],
		}})
		for _, s := range spans {
			if s.from <= cuts[i] && cuts[i+1] <= s.to {
				e.mappings = append(e.mappings, corev1.ContainerExtendedResourceRequest{ContainerName: s.container, ResourceName: string(name), RequestName: request})
			}
		}
	}
	return e
}

// extendedName is the name of the claim for a pod's extended resources. It follows from the pod, so that a second attempt finds
// the first.
func extendedName(pod *corev1.Pod) string {
	h := fnv.New32a()
	fmt.Fprint(h, pod.UID)
	return fmt.Sprintf("%s-extended-resources-%08x", pod.Name[:min(len(pod.Name), nameLimit)], h.Sum32())
}

// extendedClaim is the claim for the extended resources that a pod gets devices for on a node, and what the pod's status says
// about it; nil if it needs none there.
func extendedClaim(pod *corev1.Pod, all []extended, n *snapshot.Node, snap *snapshot.Snapshot) (*resourcev1.ResourceClaim, *corev1.PodExtendedResourceClaimStatus) {
	var requests []resourcev1.DeviceRequest
	var mappings []corev1.ContainerExtendedResourceRequest
	for i := range all {
		if standsIn(all[i].resource, n, snap) {
			requests, mappings = append(requests, all[i].requests...), append(mappings, all[i].mappings...)
		}
	}
	if len(requests) == 0 {
		return nil, nil
	}
	claim := &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: extendedName(pod), Annotations: map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))},
		},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: requests}},
	}
	return claim, &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: claim.Name, RequestMappings: mappings}
}

// sameDevices says whether two claims ask for the same devices.
func sameDevices(a, b *resourcev1.ResourceClaim) bool {
	return apiequality.Semantic.DeepEqual(a.Spec.Devices.Requests, b.Spec.Devices.Requests)
}
