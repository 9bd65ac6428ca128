package corpus

import (
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

const maker = "gpu.example"

type deviceChange func(*resourcev1.Device)

// device is one of a node's.
func device(name string, changes ...deviceChange) resourcev1.Device {
	d := resourcev1.Device{Name: name}
	for _, c := range changes {
		c(&d)
	}
	return d
}

func model(name string) deviceChange {
	return func(d *resourcev1.Device) {
		d.Attributes = map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"model": {StringValue: &name}}
	}
}

func worn(effect resourcev1.DeviceTaintEffect) deviceChange {
	return func(d *resourcev1.Device) {
		d.Taints = []resourcev1.DeviceTaint{{Key: "worn", Value: "out", Effect: effect}}
	}
}

// offers is the devices of a node.
func offers(node string, devices ...resourcev1.Device) *resourcev1.ResourceSlice {
	return &resourcev1.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: node + "-devices"},
		Spec:       resourcev1.ResourceSliceSpec{Driver: maker, NodeName: &node, Pool: resourcev1.ResourcePool{Name: node, Generation: 1, ResourceSliceCount: 1}, Devices: devices},
	}
}

// kind is a class of devices, those a CEL expression is true of.
func kind(name, expression string) *resourcev1.DeviceClass {
	c := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if expression != "" {
		c.Spec.Selectors = []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: expression}}}
	}
	return c
}

type requestChange func(*resourcev1.ExactDeviceRequest)

// order is a claim for devices of a class.
func order(name, class string, count int64, changes ...requestChange) *resourcev1.ResourceClaim {
	r := &resourcev1.ExactDeviceRequest{DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: count}
	for _, c := range changes {
		c(r)
	}
	return &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Name: name, UID: types.UID(name)},
		Spec:       resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: r}}}},
	}
}

func thatIs(expression string) requestChange {
	return func(r *resourcev1.ExactDeviceRequest) {
		r.Selectors = []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: expression}}}
	}
}

func allOfThem(r *resourcev1.ExactDeviceRequest) {
	r.AllocationMode, r.Count = resourcev1.DeviceAllocationModeAll, 0
}

func wornOut(r *resourcev1.ExactDeviceRequest) {
	r.Tolerations = []resourcev1.DeviceToleration{{Key: "worn", Operator: resourcev1.DeviceTolerationOpExists}}
}

// either is a claim for a device of the first class there is one of.
func either(name string, classes ...string) *resourcev1.ResourceClaim {
	c := order(name, "", 1)
	c.Spec.Devices.Requests[0] = resourcev1.DeviceRequest{Name: "r"}
	for _, class := range classes {
		c.Spec.Devices.Requests[0].FirstAvailable = append(c.Spec.Devices.Requests[0].FirstAvailable,
			resourcev1.DeviceSubRequest{Name: class, DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1})
	}
	return c
}

// fulfilled is a claim that has a device of a node.
func fulfilled(c *resourcev1.ResourceClaim, node, device string) *resourcev1.ResourceClaim {
	c.Status.Allocation = &resourcev1.AllocationResult{
		Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Request: "r", Driver: maker, Pool: node, Device: device}}},
		NodeSelector: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
		}}},
	}
	return c
}

func ordered(claims ...string) podChange {
	return func(p *corev1.Pod) {
		for _, name := range claims {
			p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, corev1.PodResourceClaim{Name: name, ResourceClaimName: ptr.To(name)})
		}
	}
}

func deviceCases() []Case {
	const none, no = resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNoExecute
	c := func(name, fits string, p *corev1.Pod, more ...clientObject) Case {
		return state(name, fits, p, append([]clientObject{
			node("a"), node("b"), node("c"), kind("any", ""), kind("fast", `device.attributes["gpu.example"].model == "fast"`),
			offers("a", device("d0", model("fast"))), offers("b", device("d0", model("slow")), device("d1", model("slow"))),
		}, more...)...)
	}
	return []Case{
		c("a device of any kind", "a b", pod(ordered("x")), order("x", "any", 1)),
		c("a device of a class", "a", pod(ordered("x")), order("x", "fast", 1)),
		c("two devices of one node", "b", pod(ordered("x")), order("x", "any", 2)),
		c("more devices than any node has", "", pod(ordered("x")), order("x", "any", 3)),
		c("a device by an expression of the claim", "b", pod(ordered("x")), order("x", "any", 1, thatIs(`device.attributes["gpu.example"].model == "slow"`))),
		c("a device by class and expression that contradict", "", pod(ordered("x")), order("x", "fast", 1, thatIs(`device.attributes["gpu.example"].model == "slow"`))),
		c("all devices of a class a node has", "a", pod(ordered("x")), order("x", "fast", 0, allOfThem)),
		c("a claim that does not exist yet", "", pod(ordered("x"))),
		c("a class that does not exist", "", pod(ordered("x")), order("x", "large", 1)),
		c("a device another claim has", "b", pod(ordered("x")), order("x", "any", 1), fulfilled(order("y", "any", 1), "a", "d0")),
		c("the last device of a class another claim has", "", pod(ordered("x")), order("x", "fast", 1), fulfilled(order("y", "fast", 1), "a", "d0")),
		c("one of two devices is left", "a b", pod(ordered("x")), order("x", "any", 1), fulfilled(order("y", "any", 1), "b", "d0")),
		c("two devices where one is left", "", pod(ordered("x")), order("x", "any", 2), fulfilled(order("y", "any", 1), "b", "d0")),
		c("a claim that has its device", "b", pod(ordered("x")), fulfilled(order("x", "any", 1), "b", "d1")),
		c("two claims of one pod", "b", pod(ordered("x", "y")), order("x", "any", 1), order("y", "any", 1)),
		c("two claims of one pod, one of which has its device", "b", pod(ordered("x", "y")), fulfilled(order("x", "any", 1), "b", "d1"), order("y", "any", 1)),
		c("two claims of one pod that have devices of two nodes", "", pod(ordered("x", "y")), fulfilled(order("x", "any", 1), "a", "d0"), fulfilled(order("y", "any", 1), "b", "d0")),
		c("the first of two classes, or the second", "a b", pod(ordered("x")), either("x", "fast", "any")),
		c("the first of two classes where only that is left", "a", pod(ordered("x")), either("x", "fast", "any"), fulfilled(order("y", "any", 1), "b", "d0"), fulfilled(order("z", "any", 1), "b", "d1")),
		c("a device and room", "a", pod(ordered("x"), asks("cpu", "2")), order("x", "any", 1), pod(on("b"), asks("cpu", "7"))),
		c("a device and a selector that contradict", "", pod(ordered("x"), selects(hostKey, "c")), order("x", "any", 1)),
		c("a pod without claims may go where no devices are", "a b c", pod()),
		state("a device with a taint", "b", pod(ordered("x")), node("a"), node("b"), kind("any", ""), order("x", "any", 1), offers("a", device("d0", worn(none))), offers("b", device("d0"))),
		state("a device with a taint that evicts", "b", pod(ordered("x")), node("a"), node("b"), kind("any", ""), order("x", "any", 1), offers("a", device("d0", worn(no))), offers("b", device("d0"))),
		state("a device with a taint that is tolerated", "a b", pod(ordered("x")), node("a"), node("b"), kind("any", ""), order("x", "any", 1, wornOut), offers("a", device("d0", worn(none))), offers("b", device("d0"))),
		state("devices of a pool that is not complete", "b", pod(ordered("x")), node("a"), node("b"), kind("any", ""), order("x", "any", 1), func() clientObject {
			s := offers("a", device("d0"))
			s.Spec.Pool.ResourceSliceCount = 2
			return s
		}(), offers("b", device("d0"))),
		state("devices of an older generation of a pool", "b", pod(ordered("x")), node("a"), node("b"), kind("any", ""), order("x", "any", 2), func() clientObject {
			s := offers("a", device("d0"), device("d1"))
			s.Name = "a-before"
			return s
		}(), func() clientObject {
			s := offers("a", device("d0"))
			s.Spec.Pool.Generation = 2
			return s
		}(), offers("b", device("d0"), device("d1"))),
		state("devices all nodes reach", "a b", pod(ordered("x")), node("a"), node("b"), kind("any", ""), order("x", "any", 1), func() clientObject {
			s := offers("a", device("d0"))
			s.Spec.NodeName, s.Spec.AllNodes = nil, ptr.To(true)
			return s
		}()),
	}
}
