package corpus

import (
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
)

// standsFor is a class whose devices pods get that ask for an extended resource.
func standsFor(class, resource string) *resourcev1.DeviceClass {
	c := kind(class, "")
	c.Spec.ExtendedResourceName = &resource
	return c
}

// devices are a number of them.
func devices(n int) (all []resourcev1.Device) {
	for i := range n {
		all = append(all, device("d"+string(rune('0'+i))))
	}
	return all
}

func extendedCases() []Case {
	const nic, implicit = "example.com/nic", resourcev1.ResourceDeviceClassPrefix + "any"
	// One device on a, two on b, none on c.
	c := func(name, fits string, p *corev1.Pod, more ...clientObject) Case {
		return state(name, fits, p, append([]clientObject{
			node("a"), node("b"), node("c"), standsFor("any", gpu), offers("a", devices(1)...), offers("b", devices(2)...),
		}, more...)...)
	}
	// One device, and one node more that reports two of the resource itself.
	own := func(name, fits string, p *corev1.Pod, more ...clientObject) Case {
		return state(name, fits, p, append([]clientObject{node("a"), node("b", has(gpu, "2")), standsFor("any", gpu), offers("a", devices(1)...)}, more...)...)
	}
	return []Case{
		c("a device that stands for a resource", "a b", pod(asks(gpu, "1"))),
		c("devices that stand for a resource", "b", pod(asks(gpu, "2"))),
		c("more of a resource than any node has devices", "", pod(asks(gpu, "3"))),
		c("a resource nothing stands for", "", pod(asks(nic, "1"))),
		c("a resource by the name every class has", "a b", pod(asks(implicit, "1"))),
		c("a resource by the name of a class there is not", "", pod(asks(resourcev1.ResourceDeviceClassPrefix+"fast", "1"))),
		c("the same devices by both names", "b", pod(asks(gpu, "1", implicit, "1"))),
		c("a resource and room", "b", pod(asks(gpu, "1", "cpu", "4")), pod(on("a"), asks("cpu", "6"))),
		c("each container has devices of its own", "b", pod(asks(gpu, "1"), another("b", gpu, "1"))),
		c("an init container has the devices of those after it", "a b", pod(first("i", gpu, "1"), asks(gpu, "1"))),
		c("an init container needs more than those after it", "b", pod(first("i", gpu, "2"), asks(gpu, "1"))),
		c("two init containers have the same devices", "a b", pod(first("i", gpu, "1"), first("j", gpu, "1"))),
		c("a sidecar keeps its device", "b", pod(helper("s", gpu, "1"), asks(gpu, "1"))),
		c("an init container after a sidecar does not have its device", "b", pod(helper("s", gpu, "1"), first("i", gpu, "1"))),
		c("an init container before a sidecar has its device", "a b", pod(first("i", gpu, "1"), helper("s", gpu, "1"))),
		c("an init container after a sidecar needs more than there are", "", pod(helper("s", gpu, "1"), first("i", gpu, "2"), asks(gpu, "1"))),
		c("a device that a claim has stands for nothing", "b", pod(asks(gpu, "1")), fulfilled(order("y", "any", 1), "a", "d0")),
		c("one of two devices that stand for a resource is left", "", pod(asks(gpu, "2")), fulfilled(order("y", "any", 1), "b", "d0")),
		c("a claim and a resource do not share a device", "b", pod(ordered("x"), asks(gpu, "1")), order("x", "any", 1)),
		c("a claim that has its device, and a resource there", "b", pod(ordered("x"), asks(gpu, "1")), fulfilled(order("x", "any", 1), "b", "d0")),
		c("a claim that has the last device, and a resource there", "", pod(ordered("x"), asks(gpu, "1")), fulfilled(order("x", "any", 1), "a", "d0")),
		own("a node that reports a resource itself needs no device", "a b", pod(asks(gpu, "1"))),
		own("what a node reports of a resource counts there", "b", pod(asks(gpu, "2"))),
		own("what a node reports of a resource is taken", "a", pod(asks(gpu, "1")), pod(on("b"), asks(gpu, "2"))),
		own("devices do not add to what a node reports", "", pod(asks(gpu, "3")), offers("b", devices(3)...)),
		own("a node has one resource itself and devices for the other", "b", pod(asks(gpu, "2", nic, "1")), standsFor("net", nic), offers("b", devices(1)...)),
		state("a node that reports none of a resource has devices for it", "a", pod(asks(gpu, "1")), node("a", has(gpu, "0")), standsFor("any", gpu), offers("a", devices(1)...)),
	}
}
