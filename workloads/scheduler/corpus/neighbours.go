package corpus

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// yard is two zones of two nodes each, and a node in none.
func yard(pods ...*corev1.Pod) []clientObject {
	objects := []clientObject{node("a1", zone("a")), node("a2", zone("a")), node("b1", zone("b")), node("b2", zone("b")), node("x")}
	for _, p := range pods {
		objects = append(objects, p)
	}
	return objects
}

func affinityCases() []Case {
	const everywhere = "a1 a2 b1 b2 x"
	web := func(node string, changes ...podChange) *corev1.Pod {
		return pod(append(changes, on(node), app("web"))...)
	}
	c := func(name, fits string, p *corev1.Pod, pods ...*corev1.Pod) Case {
		return state(name, fits, p, yard(pods...)...)
	}
	return []Case{
		c("near a pod, by host", "a1", pod(near(with("web", hostKey))), web("a1")),
		c("near a pod, by zone", "a1 a2", pod(near(with("web", zoneKey))), web("a1")),
		c("near pods in two zones", "a1 a2 b1 b2", pod(near(with("web", zoneKey))), web("a1"), web("b2")),
		c("near a pod that is nowhere", "", pod(near(with("web", hostKey)))),
		c("near a pod on a node without the topology", "", pod(near(with("web", zoneKey))), web("x")),
		c("near a pod of another app", "", pod(near(with("web", hostKey))), pod(on("a1"), app("db"))),
		c("near two apps: no one pod is of both, even where they stand together", "", pod(near(with("web", hostKey), with("db", hostKey))), web("a1"), pod(on("a1"), app("db"))),
		c("near a pod of two labels", "a1", pod(near(with("web", hostKey), with("", hostKey, whose("tier", metav1.LabelSelectorOpIn, "front")))), web("a1", labels("tier", "front")), web("b1")),
		c("near two apps that stand apart", "", pod(near(with("web", hostKey), with("db", hostKey))), web("a1"), pod(on("b1"), app("db"))),
		// Required terms are asked of one pod together: it must match all of their selectors.
		c("near one pod that matches two terms, by host and by zone", "a1", pod(near(with("web", hostKey), with("web", zoneKey))), web("a1")),
		c("the first of a group that wants to stand together", everywhere, pod(app("web"), near(with("web", hostKey)))),
		c("the first of a group that wants to stand together in a zone needs one", "a1 a2 b1 b2", pod(app("web"), near(with("web", zoneKey)))),
		c("the second of a group that stands together", "b1", pod(app("web"), near(with("web", hostKey))), web("b1")),
		c("the first of a group is not the first if another matches in a zone", "b1 b2", pod(app("web"), near(with("web", zoneKey))), web("b1")),
		c("away from a pod, by host", "a2 b1 b2 x", pod(far(with("web", hostKey))), web("a1")),
		c("away from a pod, by zone", "b1 b2 x", pod(far(with("web", zoneKey))), web("a1")),
		c("away from pods in both zones", "x", pod(far(with("web", zoneKey))), web("a1"), web("b1")),
		c("away from pods on every host", "", pod(far(with("web", hostKey))), web("a1"), web("a2"), web("b1"), web("b2"), web("x")),
		c("away from a pod on a node without the topology", everywhere, pod(far(with("web", zoneKey))), web("x")),
		c("away from pods of an app that is not there", everywhere, pod(far(with("web", zoneKey))), pod(on("a1"), app("db"))),
		c("away from either of two apps", "a2 b2 x", pod(far(with("web", hostKey), with("db", hostKey))), web("a1"), pod(on("b1"), app("db"))),
		c("away from one app by host and from another by zone", "a2 x", pod(far(with("web", hostKey), with("db", zoneKey))), web("a1"), pod(on("b1"), app("db"))),
		c("away from its own kind, which is nowhere", everywhere, pod(app("web"), far(with("web", hostKey)))),
		c("away from its own kind, one to a host", "a2 b1 b2 x", pod(app("web"), far(with("web", hostKey))), web("a1", far(with("web", hostKey)))),
		c("a pod that is there wants nobody like it near, by host", "a2 b1 b2 x", pod(app("web")), pod(on("a1"), far(with("web", hostKey)))),
		c("a pod that is there wants nobody like it near, by zone", "b1 b2 x", pod(app("web")), pod(on("a1"), far(with("web", zoneKey)))),
		c("a pod that is there wants others away", everywhere, pod(app("db")), pod(on("a1"), far(with("web", zoneKey)))),
		c("a pod that is there wants nobody near where its node lacks the topology", everywhere, pod(app("web")), pod(on("x"), far(with("web", zoneKey)))),
		c("pods that are there want nobody near in different topologies", "b2 x", pod(app("web")), pod(on("a1"), far(with("web", zoneKey))), pod(on("b1"), far(with("web", hostKey)))),
		c("near one app and away from another", "a2", pod(near(with("web", zoneKey)), far(with("db", hostKey))), web("a1"), pod(on("a1"), app("db"))),
		c("near and away from the same pods contradict", "", pod(near(with("web", hostKey)), far(with("web", hostKey))), web("a1")),
		c("near in the zone but not on the host", "a2", pod(near(with("web", zoneKey)), far(with("web", hostKey))), web("a1")),
		c("near pods by a set", "a1 b1", pod(near(with("", hostKey, whose("app", metav1.LabelSelectorOpIn, "web", "db")))), web("a1"), pod(on("b1"), app("db"))),
		c("near pods that are not in a set", "b1", pod(near(with("", hostKey, whose("app", metav1.LabelSelectorOpNotIn, "web")))), web("a1"), pod(on("b1"), app("db"))),
		c("near pods that have a label", "a1", pod(near(with("", hostKey, whose("app", metav1.LabelSelectorOpExists)))), web("a1"), pod(on("b1"))),
		c("near pods that lack a label", "b1", pod(labels("app", "own"), near(with("", hostKey, whose("app", metav1.LabelSelectorOpDoesNotExist)))), web("a1"), pod(on("b1"))),
		c("an affinity term without a selector matches no pod", "", pod(near(corev1.PodAffinityTerm{TopologyKey: hostKey})), web("a1")),
		c("an anti-affinity term without a selector matches no pod", everywhere, pod(far(corev1.PodAffinityTerm{TopologyKey: hostKey})), web("a1")),
		c("an anti-affinity term with an empty selector matches all pods", "a2 b1 b2 x", pod(far(corev1.PodAffinityTerm{TopologyKey: hostKey, LabelSelector: &metav1.LabelSelector{}})), web("a1")),
		c("a pod that has ended is no neighbour", "", pod(near(with("web", hostKey))), web("a1", inPhase(corev1.PodSucceeded))),
		c("a pod that has ended keeps nobody away", everywhere, pod(far(with("web", hostKey))), web("a1", inPhase(corev1.PodSucceeded))),
		c("a wish to be near decides among equals", everywhere, pod(likesNear(1, with("web", zoneKey))), web("a1")).best("a2"),
		c("a wish to be away decides among equals", everywhere, pod(likesFar(1, with("web", zoneKey))), web("a1")).best("b1 b2 x"),
		c("the heavier wish about neighbours decides", everywhere, pod(likesNear(10, with("web", zoneKey)), likesNear(20, with("db", zoneKey))), web("a1"), pod(on("b1"), app("db"))).best("b2"),
		c("more of the wished neighbours weigh more", everywhere, pod(likesNear(10, with("web", zoneKey))), web("a1"), web("b1"), web("b1")).best("b2"),
		c("a wish of a pod that is there counts", everywhere, pod(app("web")), pod(on("a1"), likesNear(10, with("web", zoneKey)))).best("a2"),
		c("a wish of a pod that is there to be left alone counts", everywhere, pod(app("web")), pod(on("a1"), likesFar(10, with("web", zoneKey)))).best("b1 b2 x"),
		c("a pod that must be near such pods welcomes one more", everywhere, pod(app("web")), pod(on("a1"), near(with("web", zoneKey)))).best("a2"),
		c("wishes for and against cancel out", everywhere, pod(likesNear(10, with("web", zoneKey)), likesFar(10, with("web", zoneKey))), web("a1")).best("a2 b1 b2 x"),
	}
}

func namespaceCases() []Case {
	nodes := func(more ...clientObject) []clientObject {
		return append([]clientObject{node("a"), node("b"), node("c"), namespace(Namespace, "trade"), namespace("bank", "money"), namespace("mint", "money")}, more...)
	}
	there := nodes(pod(on("a"), app("web")), pod(in("bank"), on("b"), app("web")), pod(in("mint"), on("c"), app("web")))
	c := func(name, fits string, p *corev1.Pod) Case { return state(name, fits, p, copies(there)...) }
	return []Case{
		c("near pods of its own namespace, unless it says otherwise", "a", pod(near(with("web", hostKey)))),
		c("near pods of a named namespace", "b", pod(near(with("web", hostKey, of("bank"))))),
		c("near pods of two named namespaces", "b c", pod(near(with("web", hostKey, of("bank", "mint"))))),
		c("near pods of namespaces by label", "b c", pod(near(with("web", hostKey, ofTeam("money"))))),
		c("near pods of namespaces by a label nobody has", "", pod(near(with("web", hostKey, ofTeam("none"))))),
		c("near pods of all namespaces", "a b c", pod(near(with("web", hostKey, ofAll)))),
		c("near pods of a named namespace or of those with a label", "a b c", pod(near(with("web", hostKey, of(Namespace), ofTeam("money"))))),
		c("away from pods of its own namespace, unless it says otherwise", "b c", pod(far(with("web", hostKey)))),
		c("away from pods of a named namespace", "a c", pod(far(with("web", hostKey, of("bank"))))),
		c("away from pods of namespaces by label", "a", pod(far(with("web", hostKey, ofTeam("money"))))),
		c("away from pods of all namespaces", "", pod(far(with("web", hostKey, ofAll)))),
		c("away from pods of all namespaces but those of an app nobody has", "a b c", pod(far(with("none", hostKey, ofAll)))),
		state("a pod of another namespace keeps only its own namespace's away", "a b c", pod(app("web")), nodes(pod(in("bank"), on("a"), far(with("web", hostKey))))...),
		state("a pod of another namespace keeps those of this one away by name", "b c", pod(app("web")), nodes(pod(in("bank"), on("a"), far(with("web", hostKey, of(Namespace)))))...),
		state("a pod of another namespace keeps those of this one away by label", "b c", pod(app("web")), nodes(pod(in("bank"), on("a"), far(with("web", hostKey, ofTeam("trade")))))...),
		state("a pod of another namespace keeps those of a third away by label", "a b c", pod(app("web")), nodes(pod(in("bank"), on("a"), far(with("web", hostKey, ofTeam("money")))))...),
		state("a pod of another namespace wishes for one of this", "a b c", pod(app("web")), nodes(pod(in("bank"), on("a"), asks("cpu", "1m"), likesNear(50, with("web", hostKey, of(Namespace)))))...).best("a"),
		state("the first of a group may be the first although another namespace has one", "a b c", pod(app("web"), near(with("web", hostKey))), nodes(pod(in("bank"), on("a"), app("web")))...),
		state("a pod without namespaces to look into is near its own", "a", pod(near(with("web", hostKey, of()))), copies(there)...),
	}
}
