package attach

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/storage/csi"
)

// view is everything about one node.
type view struct {
	name        string
	node        *corev1.Node // nil: it has left the cluster
	wanted      []want
	attachments []*storagev1.VolumeAttachment // of all nodes: a volume may be elsewhere
}

// want is a volume a pod of this node needs attached.
type want struct {
	pod    *corev1.Pod
	volume *corev1.PersistentVolume
}

// decision is what to do about one node.
type decision struct {
	attach []ask
	detach []*storagev1.VolumeAttachment
	tell   []news
	waits  time.Duration // 0: until something changes
}

type ask struct {
	volume string
	object *storagev1.VolumeAttachment
}

type news struct {
	pod     *corev1.Pod
	message string
}

// nameIsOurs tells attachments that follow pods from those somebody made by hand, which are theirs to take away.
var nameIsOurs = regexp.MustCompile(`^csi-[0-9a-f]{64}$`)

// silence is how long a node may be without a word before a volume it has mounted is taken from it: it may be writing.
const silence = 6 * time.Minute

func judge(v view, now time.Time) decision {
	var d decision
	needed := map[string]bool{}
	for _, w := range v.wanted {
		name := nameFor(w.volume, v.name)
		if needed[name] {
			continue
		}
		needed[name] = true
		switch there := find(v.attachments, name); {
		case there != nil && there.DeletionTimestamp != nil:
			// on its way out, for an earlier pod: the event of its end comes
		case there != nil, v.node == nil:
		default:
			if other := elsewhere(v, w.volume); other != "" {
				d.tell = append(d.tell, news{w.pod, multiAttach(w.volume, other)})
				d.waits = again
				continue
			}
			d.attach = append(d.attach, ask{w.volume.Name, attachment(w.volume, v.name)})
		}
	}
	for _, a := range v.attachments {
		if a.Spec.NodeName != v.name || needed[a.Name] || a.DeletionTimestamp != nil || !nameIsOurs.MatchString(a.Name) {
			continue
		}
		if mayDetach(v.node, a, now) {
			d.detach = append(d.detach, a)
		} else {
			d.waits = again
		}
	}
	return d
}

// mayDetach: the node says that it has the volume mounted no longer, or it cannot say anything any more.
func mayDetach(node *corev1.Node, a *storagev1.VolumeAttachment, now time.Time) bool {
	if node == nil || slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService }) {
		return true
	}
	if !slices.ContainsFunc(node.Status.VolumesInUse, func(used corev1.UniqueVolumeName) bool { return isOf(a, used) }) {
		return true
	}
	return now.Sub(silentSince(node, now)) >= silence
}

// isOf says whether a name in a node's status is an attachment's volume. Attachments are named after it.
func isOf(a *storagev1.VolumeAttachment, used corev1.UniqueVolumeName) bool {
	handle, ours := strings.CutPrefix(string(used), "kubernetes.io/csi/"+a.Spec.Attacher+"^")
	return ours && csi.AttachmentName(a.Spec.Attacher, handle, a.Spec.NodeName) == a.Name
}

// silentSince is when a node stopped reporting; now while it does.
func silentSince(node *corev1.Node, now time.Time) time.Time {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionUnknown {
			return c.LastTransitionTime.Time
		}
	}
	return now
}

// elsewhere names the other node that a volume for one machine is on.
func elsewhere(v view, volume *corev1.PersistentVolume) string {
	many := slices.ContainsFunc(volume.Spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool {
		return m == corev1.ReadWriteMany || m == corev1.ReadOnlyMany
	})
	if many {
		return ""
	}
	for _, a := range v.attachments {
		if a.Spec.NodeName != v.name && *a.Spec.Source.PersistentVolumeName == volume.Name {
			return a.Spec.NodeName
		}
	}
	return ""
}

func multiAttach(volume *corev1.PersistentVolume, other string) string {
	return fmt.Sprintf("Multi-Attach error for volume %q Volume is already exclusively attached to node %s and can't be attached to another", volume.Name, other)
}

func find(list []*storagev1.VolumeAttachment, name string) *storagev1.VolumeAttachment {
	for _, a := range list {
		if a.Name == name {
			return a
		}
	}
	return nil
}

func attachment(volume *corev1.PersistentVolume, node string) *storagev1.VolumeAttachment {
	return &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: nameFor(volume, node)},
		Spec: storagev1.VolumeAttachmentSpec{
			Attacher: volume.Spec.CSI.Driver, NodeName: node,
			Source: storagev1.VolumeAttachmentSource{PersistentVolumeName: &volume.Name},
		},
	}
}

func nameFor(volume *corev1.PersistentVolume, node string) string {
	return csi.AttachmentName(volume.Spec.CSI.Driver, volume.Spec.CSI.VolumeHandle, node)
}
