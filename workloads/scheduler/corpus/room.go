package corpus

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

const gpu = "vendor.example/gpu"

func resourceCases() []Case {
	small, large := node("small", has("cpu", "2", "memory", "2Gi")), node("large", has("cpu", "4", "memory", "8Gi"))
	return []Case{
		state("a pod that asks for nothing may go anywhere", "a b", pod(), node("a"), node("b")),
		state("no node has room for more CPU than it has", "", pod(asks("cpu", "5")), small, large),
		state("exactly the CPU a node has is not too much", "large", pod(asks("cpu", "4")), small, large),
		state("one millicore too much is too much", "large", pod(asks("cpu", "2001m")), small, large),
		state("exactly the memory a node has is not too much", "small large", pod(asks("memory", "2Gi")), small, large),
		state("one byte too much is too much", "large", pod(asks("memory", "2147483649")), small, large),
		state("what is promised to others is not there", "large", pod(asks("cpu", "1")), small, large, pod(on("small"), asks("cpu", "1500m"))),
		state("what is left over is there", "small large", pod(asks("cpu", "500m")), small, large, pod(on("small"), asks("cpu", "1500m"))),
		state("several small promises add up", "large", pod(asks("cpu", "1")), small, large,
			pod(on("small"), asks("cpu", "400m")), pod(on("small"), asks("cpu", "400m")), pod(on("small"), asks("cpu", "400m"))),
		state("memory and CPU must both be there", "", pod(asks("cpu", "3", "memory", "3Gi")), node("cpus", has("cpu", "4", "memory", "2Gi")), node("bytes", has("cpu", "2", "memory", "4Gi"))),
		state("ephemeral storage counts", "b", pod(asks("ephemeral-storage", "50Gi")), node("a", has("ephemeral-storage", "40Gi")), node("b", has("ephemeral-storage", "60Gi"))),
		state("ephemeral storage promised to others is not there", "b", pod(asks("ephemeral-storage", "30Gi")), node("a", has("ephemeral-storage", "40Gi")), node("b", has("ephemeral-storage", "60Gi")), pod(on("a"), asks("ephemeral-storage", "20Gi"))),
		state("a node has only so many pods", "b", pod(), node("a", has("pods", "1")), node("b", has("pods", "2")), pod(on("a")), pod(on("b"))),
		state("a node that may have no pods gets none", "b", pod(), node("a", has("pods", "0")), node("b")),
		state("a pod that asks for nothing does not care that the CPU is used up", "small large", pod(), small, large, pod(on("small"), asks("cpu", "2"))),
		state("a pod that asks only for memory does not care that the CPU is used up", "small large", pod(asks("memory", "1Gi")), small, large, pod(on("small"), asks("cpu", "2"))),
		state("a device only one node has", "b", pod(asks(gpu, "1")), node("a"), node("b", has(gpu, "1"))),
		state("a device nobody has", "", pod(asks(gpu, "1")), node("a"), node("b")),
		state("a device that is taken", "c", pod(asks(gpu, "1")), node("a", has(gpu, "1")), node("c", has(gpu, "2")), pod(on("a"), asks(gpu, "1")), pod(on("c"), asks(gpu, "1"))),
		state("more devices than are left", "", pod(asks(gpu, "2")), node("a", has(gpu, "2")), pod(on("a"), asks(gpu, "1"))),
		state("a pod without need for a device may go where they are used up", "a", pod(asks("cpu", "1")), node("a", has(gpu, "1")), pod(on("a"), asks(gpu, "1"))),
		state("devices of two kinds must both be there", "c", pod(asks(gpu, "1", "vendor.example/nic", "1")), node("a", has(gpu, "1")), node("b", has("vendor.example/nic", "1")), node("c", has(gpu, "1", "vendor.example/nic", "1"))),
		state("huge pages count by their size", "b", pod(asks("cpu", "1", "hugepages-2Mi", "4Mi")), node("a", has("hugepages-1Gi", "1Gi")), node("b", has("hugepages-2Mi", "4Mi"))),
		state("huge pages that are taken", "", pod(asks("cpu", "1", "hugepages-2Mi", "4Mi")), node("a", has("hugepages-2Mi", "6Mi")), pod(on("a"), asks("cpu", "1", "hugepages-2Mi", "4Mi"))),
		state("containers of a pod add up", "large", pod(asks("cpu", "1500m"), another("b", "cpu", "1500m")), small, large),
		state("containers of a pod that just fit", "small large", pod(asks("cpu", "1"), another("b", "cpu", "1")), small, large),
		state("the largest init container counts when it is more than the containers", "large", pod(asks("cpu", "1"), first("i", "cpu", "3")), small, large),
		state("init containers do not add up", "small large", pod(asks("cpu", "1"), first("i", "cpu", "2"), first("j", "cpu", "2")), small, large),
		state("an init container does not add to the containers", "small large", pod(asks("cpu", "2"), first("i", "cpu", "2")), small, large),
		state("the init container that asks most counts for each resource of its own", "large", pod(asks("cpu", "1"), first("i", "cpu", "2"), first("j", "memory", "3Gi")), small, large),
		state("a helper adds to the containers", "large", pod(asks("cpu", "1500m"), helper("s", "cpu", "1")), small, large),
		state("a helper that just fits beside the containers", "small large", pod(asks("cpu", "1"), helper("s", "cpu", "1")), small, large),
		state("a helper adds to the init containers behind it", "large", pod(asks("cpu", "100m"), helper("s", "cpu", "1"), first("i", "cpu", "1500m")), small, large),
		state("a helper does not add to the init containers before it", "small large", pod(asks("cpu", "100m"), first("i", "cpu", "2"), helper("s", "cpu", "1")), small, large),
		state("two helpers add up", "large", pod(asks("cpu", "500m"), helper("s", "cpu", "1"), helper("t", "cpu", "1")), small, large),
		state("overhead adds to what a pod asks for", "large", pod(asks("cpu", "1500m"), overhead("cpu", "1")), small, large),
		state("overhead that just fits", "small large", pod(asks("cpu", "1500m"), overhead("cpu", "500m")), small, large),
		state("overhead adds to the largest init container as well", "large", pod(asks("cpu", "100m"), first("i", "cpu", "2"), overhead("cpu", "1m")), small, large),
		state("overhead of pods that are there counts", "large", pod(asks("cpu", "1")), small, large, pod(on("small"), asks("cpu", "500m"), overhead("cpu", "600m"))),
		state("the init container of a pod that is there still counts", "large", pod(asks("cpu", "1")), small, large, pod(on("small"), asks("cpu", "500m"), first("i", "cpu", "1500m"))),
		state("the helper of a pod that is there counts", "large", pod(asks("cpu", "1")), small, large, pod(on("small"), asks("cpu", "500m"), helper("s", "cpu", "600m"))),
		state("a pod that has ended takes no room", "small large", pod(asks("cpu", "2")), small, large, pod(on("small"), asks("cpu", "2"), inPhase(corev1.PodSucceeded))),
		state("a pod that has failed takes no room", "small large", pod(asks("cpu", "2")), small, large, pod(on("small"), asks("cpu", "2"), inPhase(corev1.PodFailed))),
		state("a pod on a node that is not there takes no room elsewhere", "small large", pod(asks("cpu", "2")), small, large, pod(on("gone"), asks("cpu", "2"))),
		state("limits take no room", "small large", pod(asks("cpu", "1")), small, large, pod(on("small"), asks("cpu", "1"), limited("cpu", "2"))),
	}
}

func inPhase(phase corev1.PodPhase) podChange {
	return func(p *corev1.Pod) { p.Status.Phase = phase }
}

func limited(pairs ...string) podChange {
	return func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Limits = list(pairs...) }
}

func podLevelCases() []Case {
	small, large := node("small", has("cpu", "2", "memory", "2Gi")), node("large", has("cpu", "4", "memory", "8Gi"))
	return []Case{
		state("what a pod asks for as a whole counts without its containers saying anything", "large", pod(whole("cpu", "3")), small, large),
		state("what a pod asks for as a whole counts instead of the sum of its containers", "large", pod(whole("cpu", "3"), asks("cpu", "1")), small, large),
		state("what a pod as a whole does not name is the sum of its containers", "large", pod(whole("cpu", "1"), asks("cpu", "1", "memory", "3Gi")), small, large),
		state("what a pod asks for as a whole includes its helpers", "small large", pod(whole("cpu", "2"), asks("cpu", "1"), helper("s", "cpu", "1")), small, large),
		state("what a pod asks for as a whole includes its init containers", "small large", pod(whole("cpu", "2"), asks("cpu", "1"), first("i", "cpu", "2")), small, large),
		state("overhead adds to what a pod asks for as a whole", "large", pod(whole("cpu", "2"), overhead("cpu", "100m")), small, large),
		state("what a pod that is there asks for as a whole is promised", "large", pod(asks("cpu", "1")), small, large, pod(on("small"), whole("cpu", "1500m"), asks("cpu", "100m"))),
		state("memory a pod asks for as a whole counts", "large", pod(whole("memory", "4Gi")), small, large),
		state("devices are asked for by containers even when the pod asks as a whole", "g", pod(whole("cpu", "1"), asks(gpu, "1")), node("a"), node("g", has(gpu, "1"))),
	}
}

// resized is the state of a pod whose size is being changed: what its first container has, and what the node has granted.
func resized(actual, granted string) podChange {
	return func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodRunning
		s := corev1.ContainerStatus{Name: p.Spec.Containers[0].Name, Image: "app:1", ImageID: "app:1", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
		if actual != "" {
			s.Resources = &corev1.ResourceRequirements{Requests: list("cpu", actual)}
		}
		if granted != "" {
			s.AllocatedResources = list("cpu", granted)
		}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{s}
	}
}

func infeasible(p *corev1.Pod) {
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodResizePending, Status: corev1.ConditionTrue, Reason: corev1.PodReasonInfeasible})
}

func resizeCases() []Case {
	n := node("a", has("cpu", "4"))
	return []Case{
		state("a pod that is to grow counts with what it will have", "", pod(asks("cpu", "2")), n, pod(on("a"), asks("cpu", "3"), resized("1", "1"))),
		state("a pod that is to shrink counts with what it still has", "", pod(asks("cpu", "2")), n, pod(on("a"), asks("cpu", "1"), resized("3", "1"))),
		state("a pod that is to shrink counts with what it is still granted", "", pod(asks("cpu", "2")), n, pod(on("a"), asks("cpu", "1"), resized("1", "3"))),
		state("a pod that has shrunk counts with its new size", "a", pod(asks("cpu", "2")), n, pod(on("a"), asks("cpu", "1"), resized("1", "1"))),
		state("a pod that cannot grow where it is counts with what it has", "a", pod(asks("cpu", "2")), n, pod(on("a"), asks("cpu", "8"), resized("1", "1"), infeasible)),
		state("a pod whose state is not known counts with what it asks for", "", pod(asks("cpu", "2")), n, pod(on("a"), asks("cpu", "3"))),
		state("each container of a pod that is resized counts for itself", "", pod(asks("cpu", "1500m")), n, pod(on("a"), asks("cpu", "1"), another("b", "cpu", "1"), resized("2", "2"))),
	}
}

func portCases() []Case {
	const tcp, udp = corev1.ProtocolTCP, corev1.ProtocolUDP
	taken := func(name string, a, b podChange, fits string) Case {
		return state(name, fits, pod(b), node("a"), node("b"), pod(on("a"), a))
	}
	return []Case{
		taken("a port that is taken is not free", port(80, tcp, ""), port(80, tcp, ""), "b"),
		taken("another port is free", port(80, tcp, ""), port(81, tcp, ""), "a b"),
		taken("the same port of another protocol is free", port(80, tcp, ""), port(80, udp, ""), "a b"),
		taken("a port taken on all addresses is taken on each", port(80, tcp, ""), port(80, tcp, "10.0.0.1"), "b"),
		taken("a port taken on one address is not free on all", port(80, tcp, "10.0.0.1"), port(80, tcp, ""), "b"),
		taken("a port taken on one address is free on another", port(80, tcp, "10.0.0.1"), port(80, tcp, "10.0.0.2"), "a b"),
		taken("a port taken on one address is not free there", port(80, tcp, "10.0.0.1"), port(80, tcp, "10.0.0.1"), "b"),
		taken("0.0.0.0 is all addresses", port(80, tcp, "0.0.0.0"), port(80, tcp, "10.0.0.1"), "b"),
		state("one of two ports is taken", "b", pod(port(80, tcp, ""), port(81, tcp, "")), node("a"), node("b"), pod(on("a"), port(81, tcp, ""))),
		state("ports of different pods on one node", "b", pod(port(80, tcp, "")), node("a"), node("b"), pod(on("a"), port(79, tcp, "")), pod(on("a"), port(80, tcp, ""))),
		state("no node has the port free", "", pod(port(80, tcp, "")), node("a"), node("b"), pod(on("a"), port(80, tcp, "")), pod(on("b"), port(80, tcp, ""))),
		state("a container's port that is not the host's takes nothing", "a", pod(port(80, tcp, "")), node("a"), pod(on("a"), func(p *corev1.Pod) {
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, Protocol: tcp}}
		})),
		state("a port of a pod that has ended is free", "a", pod(port(80, tcp, "")), node("a"), pod(on("a"), port(80, tcp, ""), inPhase(corev1.PodFailed))),
		state("a port of another namespace's pod is taken all the same", "", pod(port(80, tcp, "")), node("a"), pod(in("bank"), on("a"), port(80, tcp, "")), namespace("bank", "money")),
		state("a helper's port counts", "b", pod(port(80, tcp, "")), node("a"), node("b"), pod(on("a"), helper("s"), func(p *corev1.Pod) {
			p.Spec.InitContainers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80, Protocol: tcp}}
		})),
		state("the port of an init container that ends does not count", "a b", pod(port(80, tcp, "")), node("a"), node("b"), pod(on("a"), first("i"), func(p *corev1.Pod) {
			p.Spec.InitContainers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80, Protocol: tcp}}
			p.Spec.InitContainers[0].RestartPolicy = nil
		})),
		state("a pod in the node's network takes the ports it names", "b", pod(port(80, tcp, "")), node("a"), node("b"), pod(on("a"), func(p *corev1.Pod) {
			p.Spec.HostNetwork = true
			p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80, Protocol: tcp}}
		})),
		state("a pod that wants a port twice itself does not stand in its own way", "a", pod(port(80, tcp, "10.0.0.1"), port(80, udp, "10.0.0.1"), func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr.To[int64](1) }), node("a")),
	}
}
