package snapshot

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// What a container that asks for nothing is taken to use when nodes are compared. Without it a node full of such
// containers would look as empty as an idle one.
const (
	assumedMilliCPU = 100
	assumedMemory   = 200 << 20
)

// Resources are amounts a pod asks for or a node has.
type Resources struct {
	MilliCPU  int64
	Memory    int64
	Ephemeral int64
	Scalar    map[corev1.ResourceName]int64 // everything else: huge pages, devices
}

// Of reads a list; pods is what it says about the number of pods.
func Of(list corev1.ResourceList) (r Resources, pods int64) {
	for name, quantity := range list {
		switch name {
		case corev1.ResourceCPU:
			r.MilliCPU = quantity.MilliValue()
		case corev1.ResourceMemory:
			r.Memory = quantity.Value()
		case corev1.ResourceEphemeralStorage:
			r.Ephemeral = quantity.Value()
		case corev1.ResourcePods:
			pods = quantity.Value()
		default:
			if r.Scalar == nil {
				r.Scalar = map[corev1.ResourceName]int64{}
			}
			r.Scalar[name] = quantity.Value()
		}
	}
	return r, pods
}

// add counts another's amounts in, or with sign -1 out.
func (r *Resources) add(other *Resources, sign int64) {
	r.MilliCPU += sign * other.MilliCPU
	r.Memory += sign * other.Memory
	r.Ephemeral += sign * other.Ephemeral
	for name, n := range other.Scalar {
		if r.Scalar == nil {
			r.Scalar = map[corev1.ResourceName]int64{}
		}
		r.Scalar[name] += sign * n
	}
}

// requestsOf is what a pod asks for as a whole: its containers and sidecars or its largest init container,
// whichever is more, and its overhead. A pod being resized counts with the larger of both sizes.
func requestsOf(pod *corev1.Pod) (asked, assumed Resources) {
	options := resourcehelper.PodResourcesOptions{
		UseStatusResources: true,
		InPlacePodLevelResourcesVerticalScalingEnabled: true,
	}
	asked, _ = Of(resourcehelper.PodRequests(pod, options))
	options.NonMissingContainerRequests = corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewMilliQuantity(assumedMilliCPU, resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(assumedMemory, resource.BinarySI),
	}
	assumed, _ = Of(resourcehelper.PodRequests(pod, options))
	return asked, assumed
}

// Amount is how much there is of a resource, CPU in thousandths.
func (r *Resources) Amount(name corev1.ResourceName) int64 {
	switch name {
	case corev1.ResourceCPU:
		return r.MilliCPU
	case corev1.ResourceMemory:
		return r.Memory
	case corev1.ResourceEphemeralStorage:
		return r.Ephemeral
	}
	return r.Scalar[name]
}
