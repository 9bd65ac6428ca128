package snapshot

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Node is a node with its pods and the sums over them.
type Node struct {
	Name        string
	Object      *corev1.Node // nil while only pods of it are known
	Allocatable Resources
	MaxPods     int64
	Requested   Resources
	Assumed     Resources // Requested with a guess for containers that ask for nothing
	Images      map[string]int64
	// Cordoned and Taints are the object's, copied because every pod asks every node for them.
	Cordoned bool
	Taints   []corev1.Taint
	Place    int // among Snapshot.Nodes
	// Version is another one whenever what the node itself says of pods may be: its room, labels, taints and ports, and who
	// waits for room on it.
	Version uint64

	Pods   map[types.UID]*Pod
	Averse map[types.UID]*Pod   // those of Pods with required anti-affinity
	Fond   map[types.UID]*Pod   // those of Pods with any affinity term that scores
	ports  map[types.UID]*Pod   // those of Pods with host ports
	owned  map[types.UID][]*Pod // Pods by their controller; a list is never changed, trials share it

	hostname    string // its label, which rules about hosts ask every node for
	hasHostname bool

	// Moved is how a trial differs from the node it was made of: 1 for pods that joined, -1 for pods that left.
	Moved map[*Pod]int64
}

func newNode(name string) *Node {
	return &Node{
		Name: name, Pods: map[types.UID]*Pod{}, Averse: map[types.UID]*Pod{}, Fond: map[types.UID]*Pod{}, ports: map[types.UID]*Pod{},
		owned: map[types.UID][]*Pod{},
	}
}

// OwnedBy are the pods of a controller here.
func (n *Node) OwnedBy(controller types.UID) []*Pod { return n.owned[controller] }

// Label is the node's value of a label; has is false if it carries none.
func (n *Node) Label(key string) (value string, has bool) {
	if key == corev1.LabelHostname {
		return n.hostname, n.hasHostname
	}
	value, has = n.Object.Labels[key]
	return value, has
}

// PortsFree says whether a pod could hold these host ports here.
func (n *Node) PortsFree(wanted []HostPort) bool {
	for _, pod := range n.ports {
		for _, taken := range pod.Ports {
			for _, want := range wanted {
				if want.conflicts(taken) {
					return false
				}
			}
		}
	}
	return true
}

// Trial is a copy to ask "what if" of: pods may Join and Leave it while the cluster's picture stays as it is.
func (n *Node) Trial() *Node {
	trial := *n
	trial.Requested.Scalar, trial.Assumed.Scalar = maps.Clone(n.Requested.Scalar), maps.Clone(n.Assumed.Scalar)
	for _, set := range []*map[types.UID]*Pod{&trial.Pods, &trial.Averse, &trial.Fond, &trial.ports} {
		*set = maps.Clone(*set)
	}
	trial.owned = maps.Clone(n.owned)
	trial.Moved = map[*Pod]int64{}
	maps.Copy(trial.Moved, n.Moved)
	return &trial
}

// Join adds a pod to a trial.
func (n *Node) Join(pod *Pod) {
	n.add(pod)
	n.move(pod, 1)
}

// Leave takes a pod from a trial.
func (n *Node) Leave(pod *Pod) {
	n.remove(pod.Object.UID)
	n.move(pod, -1)
}

func (n *Node) move(pod *Pod, by int64) {
	if n.Moved[pod] += by; n.Moved[pod] == 0 {
		delete(n.Moved, pod)
	}
}

func (n *Node) set(object *corev1.Node) {
	n.Object, n.Cordoned, n.Taints = object, object.Spec.Unschedulable, object.Spec.Taints
	n.hostname, n.hasHostname = object.Labels[corev1.LabelHostname]
	n.Allocatable, n.MaxPods = Of(object.Status.Allocatable)
	n.Images = make(map[string]int64, len(object.Status.Images))
	for _, image := range object.Status.Images {
		for _, name := range image.Names {
			n.Images[name] = image.SizeBytes
		}
	}
}

func (n *Node) add(pod *Pod) {
	uid := pod.Object.UID
	n.Version++
	n.Pods[uid] = pod
	n.Requested.add(&pod.Requests, 1)
	n.Assumed.add(&pod.Assumed, 1)
	if len(pod.AntiAffinity) > 0 {
		n.Averse[uid] = pod
	}
	if len(pod.Affinity)+len(pod.PreferAffinity)+len(pod.PreferAntiAffinity) > 0 {
		n.Fond[uid] = pod
	}
	if len(pod.Ports) > 0 {
		n.ports[uid] = pod
	}
	if owner := metav1.GetControllerOfNoCopy(pod.Object); owner != nil {
		n.owned[owner.UID] = append(slices.Clip(n.owned[owner.UID]), pod)
	}
}

func (n *Node) remove(uid types.UID) {
	pod := n.Pods[uid]
	n.Version++
	n.Requested.add(&pod.Requests, -1)
	n.Assumed.add(&pod.Assumed, -1)
	for _, set := range []map[types.UID]*Pod{n.Pods, n.Averse, n.Fond, n.ports} {
		delete(set, uid)
	}
	owner := metav1.GetControllerOfNoCopy(pod.Object)
	if owner == nil {
		return
	}
	left := slices.DeleteFunc(slices.Clone(n.owned[owner.UID]), func(other *Pod) bool { return other == pod })
	if n.owned[owner.UID] = left; len(left) == 0 {
		delete(n.owned, owner.UID)
	}
}
