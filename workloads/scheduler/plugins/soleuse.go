package plugins

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// SoleUse keeps volumes that only one pod may use from a second one: claims with ReadWriteOncePod in the whole cluster,
// disks that cannot be mounted twice on each node.
type SoleUse struct{}

// Name of the rule.
func (SoleUse) Name() string { return "VolumeRestrictions" }

// Filter implements Filterer.
func (SoleUse) Filter(pod *snapshot.Pod, snap *snapshot.Snapshot) (Filter, *Refusal) {
	disks := disksOf(pod.Object)
	var sole []string
	var users int64
	for _, wanted := range pod.Claims {
		claim := snap.Claim(pod.Object.Namespace, wanted.Name)
		if claim != nil && slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
			sole = append(sole, wanted.Name)
			users += snap.Users(pod.Object.Namespace, wanted.Name)
		}
	}
	if len(sole) == 0 && len(disks) == 0 {
		return nil, nil
	}
	claimed := &Refusal{Reasons: []string{"node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"}}
	taken := &Refusal{Reasons: []string{"node(s) had no available disk"}}
	return func(n *snapshot.Node) *Refusal {
		if len(disks) > 0 {
			for _, other := range n.Pods {
				if conflict(disks, disksOf(other.Object)) {
					return taken
				}
			}
		}
		left := users
		for moved, by := range n.Moved {
			left += by * shared(moved, pod.Object.Namespace, sole)
		}
		if left > 0 {
			return claimed
		}
		return nil
	}, nil
}

// disk is a device that pods of one node cannot mount side by side, unless all of them only read it.
type disk struct {
	kind, name string
	shared     bool // among readers
}

func disksOf(pod *corev1.Pod) (disks []disk) {
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.GCEPersistentDisk != nil:
			disks = append(disks, disk{"gce", v.GCEPersistentDisk.PDName, v.GCEPersistentDisk.ReadOnly})
		case v.AWSElasticBlockStore != nil:
			disks = append(disks, disk{"ebs", v.AWSElasticBlockStore.VolumeID, false})
		case v.ISCSI != nil:
			disks = append(disks, disk{"iscsi", v.ISCSI.IQN, v.ISCSI.ReadOnly})
		case v.RBD != nil:
			for _, monitor := range v.RBD.CephMonitors {
				disks = append(disks, disk{"rbd", monitor + "/" + v.RBD.RBDPool + "/" + v.RBD.RBDImage, v.RBD.ReadOnly})
			}
		}
	}
	return disks
}

func conflict(wanted, there []disk) bool {
	for _, a := range wanted {
		for _, b := range there {
			if a.kind == b.kind && a.name == b.name && !(a.shared && b.shared) {
				return true
			}
		}
	}
	return false
}

// shared is how many of the claims a pod uses.
func shared(pod *snapshot.Pod, namespace string, claims []string) (n int64) {
	if pod.Object.Namespace != namespace {
		return 0
	}
	for _, c := range pod.Claims {
		if slices.Contains(claims, c.Name) {
			n++
		}
	}
	return n
}

// Helps implements Filterer.
func (SoleUse) Helps(pod *snapshot.Pod, _ *snapshot.Snapshot, change snapshot.Change) bool {
	switch change.Kind {
	case snapshot.NodeAdded:
		return len(disksOf(pod.Object)) > 0
	case snapshot.PodGone:
		return change.Pod.Namespace == pod.Object.Namespace || len(disksOf(pod.Object)) > 0
	}
	return change.Kind == snapshot.StorageChanged
}
