package corpus

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func volumeCases() []Case {
	c := func(name, fits string, p *corev1.Pod, more ...clientObject) Case {
		return state(name, fits, p, append([]clientObject{node("a", zone("a")), node("b", zone("b")), node("c", zone("b"))}, more...)...)
	}
	rwop := modes(corev1.ReadWriteOncePod)
	return []Case{
		c("a volume all nodes reach", "a b c", pod(uses("data")), claim("data", "", "v"), volume("v", "", serves("data"))),
		c("a volume one node reaches", "b", pod(uses("data")), claim("data", "", "v"), volume("v", "", serves("data"), reached(hostKey, "b"))),
		c("a volume two nodes reach", "a c", pod(uses("data")), claim("data", "", "v"), volume("v", "", serves("data"), reached(hostKey, "a", "c"))),
		c("a volume of a zone", "b c", pod(uses("data")), claim("data", "", "v"), volume("v", "", serves("data"), reached(zoneKey, "b"))),
		c("a volume nobody reaches", "", pod(uses("data")), claim("data", "", "v"), volume("v", "", serves("data"), reached(hostKey, "z"))),
		c("two volumes on one node", "b", pod(uses("data", "logs")), claim("data", "", "v"), claim("logs", "", "w"), volume("v", "", serves("data"), reached(hostKey, "b")), volume("w", "", serves("logs"), reached(zoneKey, "b"))),
		c("two volumes on two nodes", "", pod(uses("data", "logs")), claim("data", "", "v"), claim("logs", "", "w"), volume("v", "", serves("data"), reached(hostKey, "a")), volume("w", "", serves("logs"), reached(hostKey, "b"))),
		c("a volume and a selector that agree", "b", pod(uses("data"), selects(hostKey, "b")), claim("data", "", "v"), volume("v", "", serves("data"), reached(zoneKey, "b"))),
		c("a volume and a selector that do not", "", pod(uses("data"), selects(hostKey, "a")), claim("data", "", "v"), volume("v", "", serves("data"), reached(zoneKey, "b"))),
		c("a claim that does not exist", "", pod(uses("data"))),
		c("a claim of another namespace", "", pod(uses("data")), namespace("bank", "money"), claim("data", "", "v", func(c *corev1.PersistentVolumeClaim) { c.Namespace = "bank" })),
		c("a claim that is not bound", "", pod(uses("data")), claim("data", "", "")),
		c("a claim that is not bound although there is a volume", "", pod(uses("data")), claim("data", "", ""), volume("v", "")),
		c("a claim whose volume does not exist", "", pod(uses("data")), claim("data", "", "v")),
		c("one of two claims is not bound", "", pod(uses("data", "logs")), claim("data", "", "v"), volume("v", "", serves("data")), claim("logs", "", "")),
		c("a volume labeled with a zone", "b c", pod(uses("data")), claim("data", "", "v"), volume("v", "", serves("data"), tagged(zoneKey, "b"))),
		c("a volume labeled with two zones", "a b c", pod(uses("data")), claim("data", "", "v"), volume("v", "", serves("data"), tagged(zoneKey, "a__b"))),
		c("a volume labeled with a zone nobody is in", "", pod(uses("data")), claim("data", "", "v"), volume("v", "", serves("data"), tagged(zoneKey, "z"))),
		c("a volume labeled with a region none of the nodes name", "", pod(uses("data")), claim("data", "", "v"), volume("v", "", serves("data"), tagged(corev1.LabelTopologyRegion, "r"))),
		c("a volume labeled with a zone by its old name", "b c", pod(uses("data")), claim("data", "", "v"), volume("v", "", serves("data"), tagged(corev1.LabelFailureDomainBetaZone, "b"))),
		state("a volume labeled with a zone in a cluster without zones", "a b", pod(uses("data")), node("a"), node("b"), claim("data", "", "v"), volume("v", "", serves("data"), tagged(zoneKey, "z"))),
		c("a claim for one pod that nobody uses", "a b c", pod(uses("data")), claim("data", "", "v", rwop), volume("v", "", serves("data"), can(corev1.ReadWriteOncePod))),
		c("a claim for one pod that another uses", "", pod(uses("data")), claim("data", "", "v", rwop), volume("v", "", serves("data"), can(corev1.ReadWriteOncePod)), pod(on("a"), uses("data"))),
		c("a claim for one pod that one uses that has ended", "a b c", pod(uses("data")), claim("data", "", "v", rwop), volume("v", "", serves("data"), can(corev1.ReadWriteOncePod)), pod(on("a"), uses("data"), inPhase(corev1.PodSucceeded))),
		c("a claim for one node that another pod uses elsewhere", "a b c", pod(uses("data")), claim("data", "", "v"), volume("v", "", serves("data")), pod(on("a"), uses("data"))),
		c("a claim for one pod and another one that is in use", "a b c", pod(uses("data")), claim("data", "", "v", rwop), claim("logs", "", "w", rwop), volume("v", "", serves("data"), can(corev1.ReadWriteOncePod)), volume("w", "", serves("logs"), can(corev1.ReadWriteOncePod)), pod(on("a"), uses("logs"))),
	}
}

func lateVolumeCases() []Case {
	const none = "kubernetes.io/no-provisioner"
	local := func(name, host string, changes ...volumeChange) *corev1.PersistentVolume {
		return volume(name, "late", append([]volumeChange{reached(hostKey, host)}, changes...)...)
	}
	c := func(name, fits string, p *corev1.Pod, more ...clientObject) Case {
		return state(name, fits, p, append([]clientObject{node("a", zone("a")), node("b", zone("b")), node("c", zone("b")), later("late", none)}, more...)...)
	}
	made := func(name, fits string, class classChange, more ...clientObject) Case {
		changes := []classChange{}
		if class != nil {
			changes = append(changes, class)
		}
		return state(name, fits, pod(uses("data")), append([]clientObject{node("a", zone("a")), node("b", zone("b")), node("c", zone("b")), later("late", "maker.example", changes...), claim("data", "late", "", sized("2Gi"))}, more...)...)
	}
	return []Case{
		c("a claim that waits goes where there is a volume", "b", pod(uses("data")), claim("data", "late", ""), local("v", "b")),
		c("a claim that waits and volumes on two nodes", "a c", pod(uses("data")), claim("data", "late", ""), local("v", "a"), local("w", "c")),
		c("a claim that waits and no volume", "", pod(uses("data")), claim("data", "late", "")),
		c("a claim that waits and a volume of another class", "", pod(uses("data")), claim("data", "late", ""), volume("v", "other")),
		c("a claim that waits and a volume all nodes reach", "a b c", pod(uses("data")), claim("data", "late", ""), volume("v", "late")),
		c("a claim that waits and a volume of a zone", "b c", pod(uses("data")), claim("data", "late", ""), volume("v", "late", reached(zoneKey, "b"))),
		c("a claim that waits and a volume that is too small", "a", pod(uses("data")), claim("data", "late", "", sized("2Gi")), local("v", "a", holds("2Gi")), local("w", "b", holds("1Gi"))),
		c("a claim that waits and a volume that is larger", "a", pod(uses("data")), claim("data", "late", ""), local("v", "a", holds("9Gi"))),
		c("a claim that waits and a volume that cannot be written to", "a", pod(uses("data")), claim("data", "late", ""), local("v", "a", can(corev1.ReadWriteOnce, corev1.ReadOnlyMany)), local("w", "b", can(corev1.ReadOnlyMany))),
		c("a claim that waits and a volume that is another's", "b", pod(uses("data")), claim("data", "late", ""), local("v", "a", serves("logs")), local("w", "b"), claim("logs", "late", "v")),
		c("a claim that waits and a volume reserved for it", "a", pod(uses("data")), claim("data", "late", ""), local("v", "a", serves("data"), available), local("w", "b")),
		c("a claim that waits and a block device", "b", pod(uses("data")), claim("data", "late", ""), local("v", "a", block), local("w", "b")),
		c("a claim that waits and wants a block device", "a", pod(uses("data")), claim("data", "late", "", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) }), local("v", "a", block), local("w", "b")),
		c("a claim that waits and selects its volume", "b", pod(uses("data")), claim("data", "late", "", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"disk": "ssd"}}
		}), local("v", "a"), local("w", "b", tagged("disk", "ssd"))),
		c("two claims that wait need two volumes", "b", pod(uses("data", "logs")), claim("data", "late", ""), claim("logs", "late", ""), local("v", "a"), local("w", "b"), local("x", "b")),
		c("two claims that wait, the larger one must get the larger volume", "a", pod(uses("data", "logs")), claim("data", "late", "", sized("5Gi")), claim("logs", "late", ""), local("v", "a", holds("1Gi")), local("w", "a", holds("5Gi")), local("x", "b", holds("1Gi")), local("y", "b", holds("4Gi"))),
		c("a claim that waits beside one that is bound", "b", pod(uses("data", "logs")), claim("data", "late", ""), claim("logs", "", "z"), volume("z", "", serves("logs"), reached(zoneKey, "b")), local("v", "a"), local("w", "b")),
		c("a claim that waits beside one that is bound elsewhere", "", pod(uses("data", "logs")), claim("data", "late", ""), claim("logs", "", "z"), volume("z", "", serves("logs"), reached(hostKey, "c")), local("v", "a"), local("w", "b")),
		made("a claim that waits for a volume to be made", "a b c", nil),
		made("volumes that are made in one zone only", "b c", only(zoneKey, "b")),
		made("volumes that are made in either of two zones", "a b c", only(zoneKey, "a", "b")),
		made("volumes that are made in a zone without nodes", "", only(zoneKey, "z")),
		made("volumes that are made for one host only", "a", only(hostKey, "a")),
		made("volumes that are made by a driver that does not say what is left", "a b c", nil, driver("maker.example", false), capacity("cap", "late", "a", "1Gi")),
		made("volumes that are made where enough is left", "b c", nil, driver("maker.example", true), capacity("cap-a", "late", "a", "1Gi"), capacity("cap-b", "late", "b", "2Gi")),
		made("volumes that are made where nothing is known to be left", "", nil, driver("maker.example", true)),
		made("what is left of another class does not count", "", nil, driver("maker.example", true), capacity("cap", "other", "b", "9Gi")),
		made("the largest volume that can be made counts, not what is left", "", nil, driver("maker.example", true), func() clientObject {
			left := capacity("cap", "late", "b", "9Gi")
			left.MaximumVolumeSize = ptr.To(resource.MustParse("1Gi"))
			return left
		}()),
		c("the volume that is used least wins", "a b", pod(uses("data")), claim("data", "late", ""), local("v", "a", holds("1Gi")), local("w", "b", holds("9Gi"))).best("b"),
		c("volumes used alike are equal, whatever their size", "a b", pod(uses("data", "logs")), claim("data", "late", ""), claim("logs", "late", ""), local("v", "a", holds("4Gi")), local("w", "a", holds("4Gi")), local("x", "b", holds("2Gi")), local("y", "b", holds("6Gi"))).best("a b"),
		made("where more is left a volume is made rather", "a b c", nil, driver("maker.example", true), capacity("cap-a", "late", "a", "4Gi"), capacity("cap-b", "late", "b", "40Gi")).best("b c"),
		state("a volume that is being made for a node", "b", pod(uses("data")), node("a"), node("b"), later("late", "maker.example"), claim("data", "late", "", marked("volume.kubernetes.io/selected-node", "b"))),
		state("a claim that waits takes a volume there is before one is made", "a b", pod(uses("data")), node("a"), node("b"), later("late", "maker.example"), claim("data", "late", ""), local("v", "b")),
		state("a claim that waits for a volume reserved for it may get one made elsewhere", "a b", pod(uses("data")), node("a"), node("b"), later("late", "maker.example"), claim("data", "late", ""), local("v", "b", serves("data"), available)),
	}
}

func available(v *corev1.PersistentVolume) { v.Status.Phase = corev1.VolumeAvailable }

func block(v *corev1.PersistentVolume) { v.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) }

func limitCases() []Case {
	bound := func(name string) []clientObject {
		return []clientObject{claim(name, "", "pv-"+name), volume("pv-"+name, "", serves(name), csi("csi.example"))}
	}
	c := func(name, fits string, limit int32, there []string, wanted ...string) Case {
		objects := []clientObject{node("a"), node("b"), attaches("a", "csi.example", limit), driver("csi.example", false)}
		known := map[string]bool{}
		for _, n := range append(append([]string{}, there...), wanted...) {
			if !known[n] {
				objects = append(objects, bound(n)...)
			}
			known[n] = true
		}
		for _, n := range there {
			objects = append(objects, pod(on("a"), uses(n)))
		}
		return state(name, fits, pod(uses(wanted...)), objects...)
	}
	return []Case{
		c("a node that can attach one more volume", "a b", 2, []string{"one"}, "two"),
		c("a node that can attach no more volumes", "b", 1, []string{"one"}, "two"),
		c("a volume that is attached already needs no room", "a b", 1, []string{"one"}, "one"),
		c("a pod with more volumes than are left", "b", 2, []string{"one"}, "two", "three"),
		c("a pod with two volumes of which one is attached", "a b", 2, []string{"one"}, "one", "two"),
		c("a volume that two pods use counts once", "a b", 2, []string{"one", "one"}, "two"),
		c("a node that can attach nothing", "b", 0, nil, "one"),
		state("a pod without volumes does not care that no more can be attached", "a", pod(), append(append([]clientObject{node("a"), attaches("a", "csi.example", 1), pod(on("a"), uses("one"))}, bound("one")...), driver("csi.example", false))...),
		state("a driver that asks for it keeps pods from nodes it is not on", "a", pod(uses("one")), append([]clientObject{node("a"), node("b"), node("c"), attaches("a", "csi.example", 1), attaches("b", "other.example", 1), strict("csi.example")}, bound("one")...)...),
		state("a driver that asks for it may be full where it is", "", pod(uses("one")), append([]clientObject{node("a"), node("b"), attaches("a", "csi.example", 0), strict("csi.example")}, bound("one")...)...),
		state("a driver on no node that does not ask for it", "a b", pod(uses("one")), append([]clientObject{node("a"), node("b"), driver("csi.example", false)}, bound("one")...)...),
		state("limits of another driver do not count", "a b", pod(uses("one")), append([]clientObject{node("a"), node("b"), attaches("a", "other.example", 0), driver("csi.example", false)}, bound("one")...)...),
	}
}
