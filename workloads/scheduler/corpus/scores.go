package corpus

import corev1 "k8s.io/api/core/v1"

func scoreCases() []Case {
	big := func(name string, changes ...nodeChange) *corev1.Node {
		return node(name, append([]nodeChange{has("cpu", "10", "memory", "10Gi")}, changes...)...)
	}
	used := func(node, cpu, memory string) *corev1.Pod { return pod(on(node), asks("cpu", cpu, "memory", memory)) }
	return []Case{
		state("equal nodes are equal", "a b", pod(asks("cpu", "1", "memory", "1Gi")), big("a"), big("b")).best("a b"),
		state("the emptier node wins", "a b", pod(asks("cpu", "1", "memory", "1Gi")), big("a"), big("b"), used("a", "4", "4Gi"), used("b", "2", "2Gi")).best("b"),
		state("the larger node is emptier", "a b", pod(asks("cpu", "1", "memory", "1Gi")), big("a"), node("b", has("cpu", "20", "memory", "20Gi"))).best("b"),
		state("the node with more CPU left wins", "a b", pod(asks("cpu", "1", "memory", "1Gi")), big("a"), big("b"), used("a", "6", "1Gi"), used("b", "1", "1Gi")).best("b"),
		state("a pod that asks for nothing is thought to use a little", "a b", pod(), big("a"), big("b"), used("a", "5", "5Gi")).best("b"),
		state("pods that ask for nothing are thought to use a little", "a b", pod(asks("cpu", "1", "memory", "1Gi")), big("a"), big("b"), pod(on("a")), pod(on("a")), pod(on("a")), pod(on("a"))).best("b"),
		state("CPU and memory used alike are better than one used up", "a b", pod(asks("cpu", "2", "memory", "2Gi")), big("a"), big("b"), used("a", "6", "1Mi"), used("b", "3", "3Gi")).best("b"),
		state("a pod for CPU goes where memory is used", "a b", pod(asks("cpu", "4", "memory", "1Mi")), big("a"), big("b"), used("a", "4", "1Mi"), used("b", "1m", "4Gi")).best("b"),
		state("a node with the image wins", "a b", pod(runs("web:1")), big("a"), big("b", image("web:1", 500))).best("b"),
		state("an image without a tag is the latest", "a b", pod(runs("web")), big("a"), big("b", image("web:latest", 500))).best("b"),
		state("a small image makes no difference", "a b", pod(runs("web:1")), big("a"), big("b", image("web:1", 20))).best("a b"),
		state("another tag is another image", "a b", pod(runs("web:2")), big("a"), big("b", image("web:1", 500))).best("a b"),
		state("the larger image counts more", "a b", pod(runs("web:1", "db:1")), big("a", image("web:1", 200)), big("b", image("db:1", 900))).best("b"),
		state("an image all nodes have makes no difference", "a b", pod(runs("web:1")), big("a", image("web:1", 500)), big("b", image("web:1", 500))).best("a b"),
		state("a wished label outweighs some room", "a b", pod(asks("cpu", "1", "memory", "1Gi"), wishes(1, is("disk", corev1.NodeSelectorOpExists))), big("a", label("disk", "ssd")), big("b"), used("a", "3", "3Gi")).best("a"),
		state("a soft taint outweighs a wished label", "a b", pod(wishes(1, is("disk", corev1.NodeSelectorOpExists))), big("a", label("disk", "ssd"), taint("x", "", preferNot)), big("b")).best("b"),
		state("the only node that will do wins, however full it is", "a", pod(asks("cpu", "1"), selects("disk", "ssd")), big("a", label("disk", "ssd")), big("b"), used("a", "8", "8Gi")).best("a"),
		state("of three nodes the emptiest wins", "a b c", pod(asks("cpu", "1", "memory", "1Gi")), big("a"), big("b"), big("c"), used("a", "2", "2Gi"), used("b", "4", "4Gi"), used("c", "1", "1Gi")).best("c"),
		state("two nodes share the highest score", "a b c", pod(asks("cpu", "1", "memory", "1Gi")), big("a"), big("b"), big("c"), used("b", "4", "4Gi")).best("a c"),
	}
}

func declaredCases() []Case {
	const feature = "RestartAllContainersOnContainerExits"
	return []Case{
		state("a pod that needs a feature goes where that is declared", "b c", pod(restartsAll), node("a"), node("b", declares(feature)), node("c", declares("GuaranteedQoSPodCPUResize", feature))),
		state("a pod that needs a feature no node declares", "", pod(restartsAll), node("a"), node("b", declares("GuaranteedQoSPodCPUResize"))),
		state("a pod that needs no feature goes anywhere", "a b", pod(), node("a"), node("b", declares(feature))),
	}
}

func mixedCases() []Case {
	web := func(node string, changes ...podChange) *corev1.Pod {
		return pod(append(changes, on(node), app("web"))...)
	}
	return []Case{
		state("no node is left when each lacks something else", "", pod(asks("cpu", "2"), selects("disk", "ssd"), port(80, corev1.ProtocolTCP, "")),
			node("small", has("cpu", "1"), label("disk", "ssd")), node("slow"), node("busy", label("disk", "ssd")), pod(on("busy"), port(80, corev1.ProtocolTCP, ""))),
		state("one node is left when the others each lack something", "fine", pod(asks("cpu", "2"), selects("disk", "ssd"), port(80, corev1.ProtocolTCP, "")),
			node("small", has("cpu", "1"), label("disk", "ssd")), node("slow"), node("busy", label("disk", "ssd")), node("fine", label("disk", "ssd")), pod(on("busy"), port(80, corev1.ProtocolTCP, ""))),
		state("a pod for a tainted pool", "p1 p2", pod(selects("pool", "gpu"), tolerates("pool", equal, "gpu", noSchedule)), node("p1", label("pool", "gpu"), taint("pool", "gpu", noSchedule)), node("p2", label("pool", "gpu"), taint("pool", "gpu", noSchedule)), node("n")),
		state("a pod for a tainted pool that tolerates but does not ask for it", "p n", pod(tolerates("pool", equal, "gpu", noSchedule)), node("p", label("pool", "gpu"), taint("pool", "gpu", noSchedule)), node("n")),
		state("a pod of a DaemonSet goes to its node although that is not ready", "a", pod(requiresField(is("metadata.name", corev1.NodeSelectorOpIn, "a")), tolerates(corev1.TaintNodeNotReady, exists, "", noExecute), tolerates(corev1.TaintNodeUnreachable, exists, "", noExecute), tolerates(corev1.TaintNodeUnschedulable, exists, "", noSchedule)),
			node("a", cordoned, taint(corev1.TaintNodeNotReady, "", noExecute)), node("b")),
		state("spread over zones and one to a host", "b1 b2", pod(app("web"), even("web", zoneKey, 1), far(with("web", hostKey))), node("a1", zone("a")), node("a2", zone("a")), node("b1", zone("b")), node("b2", zone("b")), web("a1")),
		state("spread over zones where the emptier one is full", "", pod(app("web"), even("web", zoneKey, 1), asks("cpu", "1")), node("a", zone("a")), node("b", zone("b"), has("cpu", "500m")), web("a")),
		state("near a cache, but not on its host, with room", "a3", pod(near(with("cache", zoneKey)), far(with("cache", hostKey)), asks("cpu", "4")), node("a1", zone("a")), node("a2", zone("a"), has("cpu", "2")), node("a3", zone("a")), node("b1", zone("b")), pod(on("a1"), app("cache"))),
		state("a volume on a node that is cordoned", "", pod(uses("data")), node("a", cordoned), node("b"), claim("data", "", "v"), volume("v", "", serves("data"), reached(hostKey, "a"))),
		state("a volume on a node that is full", "", pod(uses("data"), asks("cpu", "1")), node("a"), node("b"), pod(on("a"), asks("cpu", "8")), claim("data", "", "v"), volume("v", "", serves("data"), reached(hostKey, "a"))),
		state("a volume for a pod that is spread", "b", pod(app("web"), uses("data"), even("web", zoneKey, 1)), node("a", zone("a")), node("b", zone("b")), web("a"), claim("data", "", "v"), volume("v", "", serves("data"))),
		state("a replica next to its volume, away from the others", "b", pod(app("web"), uses("data"), far(with("web", hostKey))), node("a"), node("b"), web("a"), claim("data", "", "v"), volume("v", "", serves("data"), reached(hostKey, "a", "b"))),
	}
}
