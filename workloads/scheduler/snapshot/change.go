package snapshot

import corev1 "k8s.io/api/core/v1"

// Kind is what kind of change the cluster saw.
type Kind int

const (
	// Nothing that could move a pod.
	Nothing Kind = iota
	// NodeAdded: Node is new.
	NodeAdded
	// NodeChanged: Node's allocatable, labels, taints, declared features or unschedulable mark differ from NodeBefore's.
	NodeChanged
	// NodeGone: a node went, and with it whatever its pods kept away.
	NodeGone
	// PodPlaced: Pod counts on a node now.
	PodPlaced
	// PodRelabeled: Pod's labels differ from PodBefore's.
	PodRelabeled
	// PodShrunk: Pod asks for other amounts than before.
	PodShrunk
	// PodGone: Pod no longer counts on its node.
	PodGone
	// NamespaceChanged: a namespace is new or has other labels.
	NamespaceChanged
	// StorageChanged: Claim, or if nil a volume or storage class, is new or has news.
	StorageChanged
	// DevicesChanged: devices, a class of them or a claim for some is new, has news or is gone.
	DevicesChanged
)

// Change is one change of the cluster, for the plugins to say whether it helps a pod they refused.
type Change struct {
	Kind             Kind
	Node, NodeBefore *corev1.Node
	Pod, PodBefore   *corev1.Pod
	Claim            *corev1.PersistentVolumeClaim
}
