package corpus

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func spreadCases() []Case {
	const zoned, everywhere = "a1 a2 b1 b2", "a1 a2 b1 b2 x"
	web := func(node string, changes ...podChange) *corev1.Pod {
		return pod(append(changes, on(node), app("web"))...)
	}
	c := func(name, fits string, p *corev1.Pod, pods ...*corev1.Pod) Case {
		return state(name, fits, p, yard(pods...)...)
	}
	mine := func(changes ...podChange) *corev1.Pod { return pod(append(changes, app("web"))...) }
	return []Case{
		c("an even start", zoned, mine(even("web", zoneKey, 1))),
		c("a zone that is one ahead", "b1 b2", mine(even("web", zoneKey, 1)), web("a1")),
		c("zones that are level", zoned, mine(even("web", zoneKey, 1)), web("a1"), web("b1")),
		c("a zone one ahead and a skew of two", zoned, mine(even("web", zoneKey, 2)), web("a1")),
		c("a zone two ahead and a skew of two", "b1 b2", mine(even("web", zoneKey, 2)), web("a1"), web("a2")),
		c("pods on the hosts of a zone add up", "b1 b2", mine(even("web", zoneKey, 1)), web("a1"), web("a2"), web("b1")),
		c("a node outside the topology will not do", "b1 b2", mine(even("web", zoneKey, 1)), web("a1"), web("x")),
		c("over hosts, every node counts", "a2 b1 b2 x", mine(even("web", hostKey, 1)), web("a1")),
		c("over hosts, all have one", everywhere, mine(even("web", hostKey, 1)), web("a1"), web("a2"), web("b1"), web("b2"), web("x")),
		c("over hosts, all but one have one", "x", mine(even("web", hostKey, 1)), web("a1"), web("a2"), web("b1"), web("b2")),
		c("pods of another app do not count", zoned, mine(even("web", zoneKey, 1)), pod(on("a1"), app("db"))),
		c("pods of another namespace do not count", zoned, mine(even("web", zoneKey, 1)), pod(in("bank"), on("a1"), app("web"))),
		c("pods that have ended do not count", zoned, mine(even("web", zoneKey, 1)), web("a1", inPhase(corev1.PodSucceeded))),
		c("a pod that is not of its own group may go where one is ahead by as much as allowed", zoned, pod(app("db"), even("web", zoneKey, 1)), web("a1")),
		c("a pod that is not of its own group may not go where one is ahead by more", "b1 b2", pod(app("db"), even("web", zoneKey, 1)), web("a1"), web("a2")),
		c("a constraint without a selector is about nobody", zoned, mine(func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: zoneKey, WhenUnsatisfiable: corev1.DoNotSchedule}}
		}), web("a1")),
		c("a constraint by a set of apps", "b1 b2", mine(even("", zoneKey, 1, whoeverIs("app", metav1.LabelSelectorOpIn, "web", "db"))), pod(on("a1"), app("db"))),
		c("a constraint about pods that have a label", "b1 b2", mine(even("", zoneKey, 1, whoeverIs("app", metav1.LabelSelectorOpExists))), pod(on("a1"), app("db"))),
		c("two constraints must both hold", "b2", mine(even("web", zoneKey, 1), even("web", hostKey, 1)), web("a1"), web("b1"), web("a2")),
		c("two constraints of which one rules out a zone", "b1 b2", mine(even("web", zoneKey, 1), even("web", hostKey, 5)), web("a1")),
		c("two constraints that leave nothing", "", mine(even("web", zoneKey, 1), even("db", hostKey, 1), also("db")), web("a1"), pod(on("b1"), labels("db", "yes")), pod(on("b2"), labels("db", "yes"))),
		c("a soft constraint keeps no node out", everywhere, mine(even("web", zoneKey, 1, softly)), web("a1"), web("a2")),
		c("a hard constraint beside a soft one", "b1 b2", mine(even("web", zoneKey, 1), even("web", hostKey, 1, softly)), web("a1")),
		c("a skew far out of hand only lets the emptiest grow", "b1 b2", mine(even("web", zoneKey, 1)), web("a1"), web("a1"), web("a1"), web("a2")),
		state("three zones, the emptiest two may grow", "b c", mine(even("web", zoneKey, 1)), node("a", zone("a")), node("b", zone("b")), node("c", zone("c")), web("a")),
		state("three zones, only the emptiest may grow", "c", mine(even("web", zoneKey, 1)), node("a", zone("a")), node("b", zone("b")), node("c", zone("c")), web("a"), web("b")),
		state("three zones, all are level", "a b c", mine(even("web", zoneKey, 1)), node("a", zone("a")), node("b", zone("b")), node("c", zone("c")), web("a"), web("b"), web("c")),
		state("one zone is always level with itself", "a", mine(even("web", zoneKey, 1)), node("a", zone("a")), web("a"), web("a")),
		state("fewer zones than wanted count as an empty one more", "", mine(even("web", zoneKey, 1, domains(2))), node("a", zone("a")), web("a")),
		state("fewer zones than wanted and nobody there yet", "a", mine(even("web", zoneKey, 1, domains(2))), node("a", zone("a"))),
		state("fewer zones than wanted and a skew of two", "a", mine(even("web", zoneKey, 2, domains(2))), node("a", zone("a")), web("a")),
		state("as many zones as wanted", "a b", mine(even("web", zoneKey, 1, domains(2))), node("a", zone("a")), node("b", zone("b")), web("a"), web("b")),
		state("more zones than wanted", "a b", mine(even("web", zoneKey, 1, domains(1))), node("a", zone("a")), node("b", zone("b")), web("a"), web("b")),
		state("a zone more wanted than there is, each zone may have one", "b", mine(even("web", zoneKey, 1, domains(3))), node("a", zone("a")), node("b", zone("b")), web("a")),
		state("a zone more wanted than there is, all have one", "", mine(even("web", zoneKey, 1, domains(3))), node("a", zone("a")), node("b", zone("b")), web("a"), web("b")),
	}
}

// also marks a pod of a second group, and has its second constraint mean that.
func also(group string) podChange {
	return func(p *corev1.Pod) {
		p.Labels[group] = "yes"
		p.Spec.TopologySpreadConstraints[1].LabelSelector = &metav1.LabelSelector{MatchLabels: map[string]string{group: "yes"}}
	}
}

func spreadPolicyCases() []Case {
	const honor, ignore = corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore
	web := func(node string, changes ...podChange) *corev1.Pod {
		return pod(append(changes, on(node), app("web"))...)
	}
	mine := func(changes ...podChange) *corev1.Pod { return pod(append(changes, app("web"))...) }
	// Zone c is out of the pod's reach, and empty: whether it counts decides whether a and b are too full.
	zones := func(c *corev1.Node, pods ...clientObject) []clientObject {
		return append([]clientObject{node("a", zone("a"), label("pool", "in")), node("b", zone("b"), label("pool", "in")), c, web("a"), web("b")}, pods...)
	}
	elsewhere := func() *corev1.Node { return node("c", zone("c"), label("pool", "out")) }
	tainted := func() *corev1.Node {
		return node("c", zone("c"), label("pool", "in"), taint("own", "", noSchedule))
	}
	rev := func(hash string) podChange { return labels("pod-template-hash", hash) }
	return []Case{
		state("a zone the selector rules out does not count", "a b", mine(selects("pool", "in"), even("web", zoneKey, 1)), zones(elsewhere())...),
		state("a zone the affinity rules out does not count", "a b", mine(requires(is("pool", corev1.NodeSelectorOpIn, "in")), even("web", zoneKey, 1)), zones(elsewhere())...),
		state("a zone the selector rules out counts when told to", "", mine(selects("pool", "in"), even("web", zoneKey, 1, affinityPolicy(ignore))), zones(elsewhere())...),
		state("a zone the selector rules out does not count when told not to", "a b", mine(selects("pool", "in"), even("web", zoneKey, 1, affinityPolicy(honor))), zones(elsewhere())...),
		state("a zone of tainted nodes counts", "", mine(even("web", zoneKey, 1)), zones(tainted())...),
		state("a zone of tainted nodes does not count when told not to", "a b", mine(even("web", zoneKey, 1, taintsPolicy(honor))), zones(tainted())...),
		state("a zone of tainted nodes counts when told to", "", mine(even("web", zoneKey, 1, taintsPolicy(ignore))), zones(tainted())...),
		state("a zone of tainted nodes counts for a pod that tolerates it", "c", mine(tolerates("own", exists, "", ""), even("web", zoneKey, 1, taintsPolicy(honor))), zones(tainted())...),
		state("a zone of cordoned nodes counts", "", mine(even("web", zoneKey, 1)), zones(node("c", zone("c"), cordoned))...),
		state("a zone of cordoned nodes does not count when taints are honored", "a b", mine(even("web", zoneKey, 1, taintsPolicy(honor))), zones(node("c", zone("c"), cordoned))...),
		state("a zone of full nodes counts", "", mine(asks("cpu", "1"), even("web", zoneKey, 1)), zones(node("c", zone("c"), has("cpu", "500m")))...),
		state("a zone with a soft taint counts and will do", "c", mine(even("web", zoneKey, 1, taintsPolicy(honor))), zones(node("c", zone("c"), taint("own", "", preferNot)))...),
		state("pods on nodes the selector rules out do not count", "a b", mine(selects("pool", "in"), even("web", zoneKey, 1)), node("a", zone("a"), label("pool", "in")), node("b", zone("b"), label("pool", "in")), node("a-out", zone("a")), web("a-out")),
		state("pods on nodes the selector rules out count when told to", "b", mine(selects("pool", "in"), even("web", zoneKey, 1, affinityPolicy(ignore))), node("a", zone("a"), label("pool", "in")), node("b", zone("b"), label("pool", "in")), node("a-out", zone("a")), web("a-out")),
		state("nodes that lack one of two topologies count for neither", "b", mine(even("web", zoneKey, 1), even("web", hostKey, 1)), node("a", zone("a")), node("b", zone("b")), node("x"), web("a"), web("x")),
		state("each revision of an app is spread for itself", "a b", mine(rev("2"), even("web", zoneKey, 1, byLabels("pod-template-hash"))), node("a", zone("a")), node("b", zone("b")), web("a", rev("1"))),
		state("pods of the same revision count", "b", mine(rev("1"), even("web", zoneKey, 1, byLabels("pod-template-hash"))), node("a", zone("a")), node("b", zone("b")), web("a", rev("1"))),
		state("a label to tell revisions by that the pod lacks is ignored", "b", mine(even("web", zoneKey, 1, byLabels("pod-template-hash"))), node("a", zone("a")), node("b", zone("b")), web("a", rev("1"))),
		state("revisions told by two labels", "a b", mine(rev("1"), labels("track", "x"), even("web", zoneKey, 1, byLabels("pod-template-hash", "track"))), node("a", zone("a")), node("b", zone("b")), web("a", rev("1"), labels("track", "y"))),
		state("softly spread pods go to the emptier zone", "a b", mine(even("web", zoneKey, 1, softly)), node("a", zone("a")), node("b", zone("b")), web("a")).best("b"),
		state("softly spread pods go to the emptier host", "a b", mine(even("web", hostKey, 1, softly)), node("a"), node("b"), web("a"), web("b"), web("a")).best("b"),
		state("a softly spread pod avoids nodes outside the topology", "a x", mine(even("web", zoneKey, 1, softly)), node("a", zone("a")), node("x"), web("a")).best("a"),
		state("pods of a service are spread over hosts", "a b", mine(), node("a"), node("b"), service("web", "web"), web("a"), pod(on("b"), app("db"))).best("b"),
		state("pods of a service are spread over zones", "a b1", mine(), node("a", zone("a")), node("b1", zone("b")), service("web", "web"), web("a"), pod(on("b1"), app("db"))).best("b1"),
		state("pods of another service are not", "a b", mine(), node("a"), node("b"), service("db", "db"), web("a"), pod(on("b"), app("db"))).best("a b"),
	}
}
