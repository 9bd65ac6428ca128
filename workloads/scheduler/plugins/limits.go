package plugins

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// VolumeLimits keeps nodes from having more volumes of a CSI driver attached than it can attach to them, and pods from nodes
// without the driver where that asks for it (CSIDriver.spec.preventPodSchedulingIfMissing).
type VolumeLimits struct{}

// Name of the rule.
func (VolumeLimits) Name() string { return "NodeVolumeLimits" }

// attachmentKinds are the kinds of objects the rule reads.
var attachmentKinds = append(slices.Clip(volumeKinds), SourceOf(&storagev1.CSINode{}, (*snapshot.Snapshot).SetCSINode, (*snapshot.Snapshot).RemoveCSINode))

// Needs implements Follower.
func (VolumeLimits) Needs(pod *snapshot.Pod, _ *snapshot.Snapshot) []Source {
	if len(pod.Claims) == 0 {
		return nil
	}
	return attachmentKinds
}

// attachment is a volume that a driver attaches: one however many pods on the node use it.
type attachment struct{ driver, volume string }

// Filter implements Filterer.
func (VolumeLimits) Filter(pod *snapshot.Pod, snap *snapshot.Snapshot) (Filter, *Refusal) {
	wanted := map[attachment]bool{}
	addAttachments(wanted, pod, snap)
	if len(wanted) == 0 {
		return nil, nil
	}
	refusal := &Refusal{Reasons: []string{"node(s) exceed max volume count"}}
	absent := map[string]*Refusal{} // by the driver, of those whose volumes go only where they are
	for a := range wanted {
		if d := snap.Driver(a.driver); d != nil && ptr.Deref(d.Spec.PreventPodSchedulingIfMissing, false) {
			absent[a.driver] = &Refusal{Reasons: []string{a.driver + " CSI driver is not installed on the node"}, Final: true}
		}
	}
	return func(n *snapshot.Node) *Refusal {
		node := snap.CSINode(n.Name)
		for driver, refusal := range absent {
			if !installed(node, driver) {
				return refusal
			}
		}
		limits := limitsOf(node)
		if len(limits) == 0 {
			return nil
		}
		there := map[attachment]bool{}
		for _, other := range n.Pods {
			addAttachments(there, other, snap)
		}
		count, more := map[string]int64{}, map[string]bool{}
		for a := range there {
			count[a.driver]++
		}
		for a := range wanted {
			if !there[a] {
				count[a.driver]++
				more[a.driver] = true
			}
		}
		for driver := range more {
			if limit, limited := limits[driver]; limited && count[driver] > limit {
				return refusal
			}
		}
		return nil
	}, nil
}

// addAttachments notes what has to be attached for a pod.
func addAttachments(to map[attachment]bool, pod *snapshot.Pod, snap *snapshot.Snapshot) {
	for _, wanted := range pod.Claims {
		claim := snap.Claim(pod.Object.Namespace, wanted.Name)
		if claim == nil {
			continue
		}
		if claim.Spec.VolumeName == "" {
			// It is to be made yet: by the class's provisioner, which has the name of its driver.
			if class := snap.Class(volume.GetPersistentVolumeClaimClass(claim)); class != nil && class.Provisioner != volume.NotSupportedProvisioner {
				to[attachment{class.Provisioner, claim.Namespace + "/" + claim.Name}] = true
			}
			continue
		}
		if v := snap.Volume(claim.Spec.VolumeName); v != nil && v.Object.Spec.CSI != nil {
			to[attachment{v.Object.Spec.CSI.Driver, v.Object.Spec.CSI.VolumeHandle}] = true
		}
	}
}

func installed(node *storagev1.CSINode, driver string) bool {
	return node != nil && slices.ContainsFunc(node.Spec.Drivers, func(d storagev1.CSINodeDriver) bool { return d.Name == driver })
}

// limitsOf is how many volumes each driver can attach to a node, where it says.
func limitsOf(node *storagev1.CSINode) map[string]int64 {
	if node == nil {
		return nil
	}
	limits := map[string]int64{}
	for _, driver := range node.Spec.Drivers {
		if driver.Allocatable != nil && driver.Allocatable.Count != nil {
			limits[driver.Name] = int64(*driver.Allocatable.Count)
		}
	}
	return limits
}

// Helps implements Filterer.
func (VolumeLimits) Helps(_ *snapshot.Pod, _ *snapshot.Snapshot, change snapshot.Change) bool {
	switch change.Kind {
	case snapshot.NodeAdded, snapshot.StorageChanged:
		return true
	case snapshot.PodGone:
		return usesClaims(change.Pod)
	}
	return false
}

func usesClaims(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.PersistentVolumeClaim != nil || v.Ephemeral != nil {
			return true
		}
	}
	return false
}
