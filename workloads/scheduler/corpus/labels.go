package corpus

import corev1 "k8s.io/api/core/v1"

const (
	noSchedule = corev1.TaintEffectNoSchedule
	noExecute  = corev1.TaintEffectNoExecute
	preferNot  = corev1.TaintEffectPreferNoSchedule
	equal      = corev1.TolerationOpEqual
	exists     = corev1.TolerationOpExists
)

func taintCases() []Case {
	tainted := func(name, fits string, toleration podChange, effect corev1.TaintEffect) Case {
		changes := []podChange{}
		if toleration != nil {
			changes = append(changes, toleration)
		}
		return state(name, fits, pod(changes...), node("plain"), node("own", taint("team", "red", effect)))
	}
	return []Case{
		tainted("a taint keeps pods off", "plain", nil, noSchedule),
		tainted("a taint that evicts keeps pods off as well", "plain", nil, noExecute),
		tainted("a soft taint keeps nobody off", "plain own", nil, preferNot).best("plain"),
		tainted("a toleration of key, value and effect", "plain own", tolerates("team", equal, "red", noSchedule), noSchedule),
		tainted("a toleration without an operator compares the value", "plain own", tolerates("team", "", "red", noSchedule), noSchedule),
		tainted("a toleration of another value", "plain", tolerates("team", equal, "blue", noSchedule), noSchedule),
		tainted("a toleration of another key", "plain", tolerates("crew", equal, "red", noSchedule), noSchedule),
		tainted("a toleration of another effect", "plain", tolerates("team", equal, "red", noExecute), noSchedule),
		tainted("a toleration of a softer effect", "plain", tolerates("team", equal, "red", preferNot), noSchedule),
		tainted("a toleration of all effects", "plain own", tolerates("team", equal, "red", ""), noSchedule),
		tainted("a toleration of all effects of a taint that evicts", "plain own", tolerates("team", equal, "red", ""), noExecute),
		tainted("a toleration of all values", "plain own", tolerates("team", exists, "", noSchedule), noSchedule),
		tainted("a toleration of all values and effects", "plain own", tolerates("team", exists, "", ""), noExecute),
		tainted("a toleration of all keys", "plain own", tolerates("", exists, "", ""), noSchedule),
		tainted("a toleration of all keys with one effect", "plain own", tolerates("", exists, "", noSchedule), noSchedule),
		tainted("a toleration of all keys with another effect", "plain", tolerates("", exists, "", noExecute), noSchedule),
		tainted("a soft taint that is tolerated makes no difference", "plain own", tolerates("team", exists, "", preferNot), preferNot).best("plain own"),
		state("all taints must be tolerated", "", pod(tolerates("a", exists, "", "")), node("n", taint("a", "", noSchedule), taint("b", "", noSchedule))),
		state("two tolerations for two taints", "n", pod(tolerates("a", exists, "", ""), tolerates("b", exists, "", "")), node("n", taint("a", "", noSchedule), taint("b", "", noSchedule))),
		state("one toleration for the effects of one key", "n", pod(tolerates("a", exists, "", "")), node("n", taint("a", "", noSchedule), taint("a", "", noExecute))),
		state("a hard taint behind a soft one", "", pod(), node("n", taint("a", "", preferNot), taint("b", "", noSchedule))),
		state("a taint without a value and a toleration with an empty one", "n", pod(tolerates("a", equal, "", "")), node("n", taint("a", "", noSchedule))),
		state("a taint without a value and a toleration with one", "", pod(tolerates("a", equal, "x", "")), node("n", taint("a", "", noSchedule))),
		state("a node that is not ready by its taint", "", pod(), node("n", taint(corev1.TaintNodeNotReady, "", noSchedule))),
		state("a node short of memory by its taint, and a pod that tolerates it", "n", pod(tolerates(corev1.TaintNodeMemoryPressure, exists, "", noSchedule)), node("n", taint(corev1.TaintNodeMemoryPressure, "", noSchedule))),
		state("a cordoned node", "open", pod(), node("open"), node("closed", cordoned)),
		state("a cordoned node and a pod that tolerates it", "open closed", pod(tolerates(corev1.TaintNodeUnschedulable, exists, "", noSchedule)), node("open"), node("closed", cordoned)),
		state("a cordoned node and a pod that tolerates everything", "open closed", pod(tolerates("", exists, "", "")), node("open"), node("closed", cordoned)),
		state("a cordoned node and a pod that tolerates its eviction only", "open", pod(tolerates(corev1.TaintNodeUnschedulable, exists, "", noExecute)), node("open"), node("closed", cordoned)),
		state("the fewest soft taints win", "one two three", pod(), node("one", taint("a", "", preferNot)), node("two", taint("a", "", preferNot), taint("b", "", preferNot)),
			node("three", taint("a", "", preferNot), taint("b", "", preferNot), taint("c", "", preferNot))).best("one"),
		state("a tolerated soft taint is none", "one two", pod(tolerates("a", exists, "", preferNot), tolerates("b", exists, "", preferNot)), node("one", taint("c", "", preferNot)), node("two", taint("a", "", preferNot), taint("b", "", preferNot))).best("two"),
		state("a toleration of a hard effect does not help with a soft taint", "one two", pod(tolerates("a", exists, "", noSchedule)), node("one", taint("a", "", preferNot)), node("two")).best("two"),
	}
}

func nodeLabelCases() []Case {
	const (
		inSet, notIn  = corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn
		has, lacks    = corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist
		more, less    = corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt
		disk, ssd     = "disk", "ssd"
		hdd, cores    = "hdd", "cores"
		tier, classic = "tier", "classic"
	)
	three := func(name, fits string, changes ...podChange) Case {
		return state(name, fits, pod(changes...), node("s", label(disk, ssd, cores, "16")), node("h", label(disk, hdd, cores, "4")), node("n"))
	}
	return []Case{
		three("a selector by label", "s", selects(disk, ssd)),
		three("a selector nobody matches", "", selects(disk, "tape")),
		three("a selector of two labels", "h", selects(disk, hdd, cores, "4")),
		three("a selector of which half matches", "", selects(disk, ssd, cores, "4")),
		three("a selector of an empty value does not match a missing label", "", selects(tier, "")),
		three("a label in a set", "s h", requires(is(disk, inSet, ssd, hdd))),
		three("a label in a set of one", "h", requires(is(disk, inSet, hdd))),
		three("a label in a set nobody has", "", requires(is(disk, inSet, "tape"))),
		three("a label not in a set, or missing", "h n", requires(is(disk, notIn, ssd))),
		three("a label not in a set of all there are", "n", requires(is(disk, notIn, ssd, hdd))),
		three("a label that exists", "s h", requires(is(disk, has))),
		three("a label that does not exist", "n", requires(is(disk, lacks))),
		three("a label above a number", "s", requires(is(cores, more, "8"))),
		three("a label exactly at a number is not above it", "s", requires(is(cores, more, "4"))),
		three("a label below a number", "h", requires(is(cores, less, "8"))),
		three("a label exactly at a number is not below it", "", requires(is(cores, less, "4"))),
		three("numbers are compared as numbers", "s", requires(is(cores, more, "9"))),
		three("a label that is no number is neither above nor below", "", requires(is(disk, more, "1"))),
		three("all conditions of a term", "s", requires(is(disk, has), is(cores, more, "8"))),
		three("all conditions of a term, which contradict", "", requires(is(disk, inSet, ssd), is(disk, inSet, hdd))),
		three("one of two terms", "s h", requires(is(disk, inSet, ssd)), requires(is(cores, less, "8"))),
		three("one of two terms, one of which nobody meets", "n", requires(is(disk, inSet, "tape")), requires(is(disk, lacks))),
		three("a term without conditions matches nothing", "", requires()),
		three("a term without conditions beside one with some", "h", requires(), requires(is(disk, inSet, hdd))),
		three("a selector and an affinity must both match", "s", selects(disk, ssd), requires(is(cores, more, "8"))),
		three("a selector and an affinity that contradict", "", selects(disk, ssd), requires(is(cores, less, "8"))),
		three("wishes keep no node out", "s h n", wishes(100, is(disk, inSet, "tape"))),
		three("a wish decides among equals", "s h n", wishes(1, is(disk, inSet, hdd))).best("h"),
		three("the heavier wish decides", "s h n", wishes(1, is(disk, inSet, hdd)), wishes(2, is(disk, inSet, ssd))).best("s"),
		three("wishes add up", "s h n", wishes(3, is(disk, inSet, hdd)), wishes(2, is(disk, inSet, ssd)), wishes(2, is(cores, more, "8"))).best("s"),
		three("a wish for what a node lacks", "s h n", wishes(1, is(disk, lacks))).best("n"),
		three("a wish of two conditions needs both", "s h n", wishes(5, is(disk, has), is(cores, more, "8"))).best("s"),
		three("a wish among the nodes that will do", "s h", requires(is(disk, has)), wishes(1, is(cores, less, "8"))).best("h"),
		three("nodes a wish does not tell apart stay equal", "s h n", wishes(1, is(disk, has))).best("s h"),
		state("the kubernetes.io/hostname label is a label like others", "b", pod(selects(hostKey, "b")), node("a"), node("b")),
		state("a label with an empty value is matched by an empty selector", "b", pod(selects(tier, "")), node("a"), node("b", label(tier, ""))),
		state("a label with an empty value exists", "b", pod(requires(is(tier, has))), node("a"), node("b", label(tier, ""))),
		state("labels are compared exactly", "", pod(selects(tier, "Classic")), node("a", label(tier, classic))),
	}
}

func nodeFieldCases() []Case {
	const inSet, notIn = corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn
	name := "metadata.name"
	both := func(l string) podChange {
		return requiresTerm(corev1.NodeSelectorTerm{
			MatchFields:      []corev1.NodeSelectorRequirement{is(name, inSet, "b")},
			MatchExpressions: []corev1.NodeSelectorRequirement{is("disk", inSet, l)},
		})
	}
	three := func(title, fits string, changes ...podChange) Case {
		return state(title, fits, pod(changes...), node("a", label("disk", "ssd")), node("b", label("disk", "hdd")), node("c"))
	}
	return []Case{
		three("a node by its name", "b", requiresField(is(name, inSet, "b"))),
		three("all nodes but one by its name", "a c", requiresField(is(name, notIn, "b"))),
		three("a node by a name nobody has", "", requiresField(is(name, inSet, "z"))),
		three("a name and a label that agree", "b", both("hdd")),
		three("a name and a label that do not", "", both("ssd")),
		three("a name or a label", "a b", requiresField(is(name, inSet, "b")), requires(is("disk", inSet, "ssd"))),
		three("one name or another", "a c", requiresField(is(name, inSet, "a")), requiresField(is(name, inSet, "c"))),
		three("a node by name that a selector rules out", "", requiresField(is(name, inSet, "b")), selects("disk", "ssd")),
		three("a node by its name and a wish for another", "b", requiresField(is(name, inSet, "b")), wishes(100, is("disk", inSet, "ssd"))),
		state("a node by its name that is full", "", pod(requiresField(is(name, inSet, "a")), asks("cpu", "9")), node("a"), node("b", has("cpu", "16"))),
		state("a node by its name that is tainted", "", pod(requiresField(is(name, inSet, "a"))), node("a", taint("x", "", noSchedule)), node("b")),
		state("a node by its name that is cordoned, for a pod that tolerates it", "a", pod(requiresField(is(name, inSet, "a")), tolerates(corev1.TaintNodeUnschedulable, exists, "", "")), node("a", cordoned), node("b")),
	}
}
