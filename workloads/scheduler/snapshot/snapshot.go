// Package snapshot is the cluster as the scheduler sees it.
//
// In:       nodes, placed pods and what else counts as the shared cache shows them; decisions it does not show yet.
// Out:      nodes with their pods and sums, kept current by what changed, and a Change for each change.
// Promise:  a pod counts on exactly one node, from its decision until it is gone or the decision is taken back.
// Not here: locks. One goroutine owns a Snapshot; others may read while that one waits for them.
package snapshot

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Snapshot holds nodes by name and pods by UID.
type Snapshot struct {
	nodes      map[string]*Node
	known      []*Node // those with an object, as they came
	order      []*Node // the same as Nodes gives them; nil when that is to be worked out
	ordered    int64   // how often it was
	pods       map[types.UID]place
	namespaces map[string]labels.Set
	averse     map[string]*Node                      // those with pods that have required anti-affinity
	fond       map[string]*Node                      // those with pods that have any affinity term that scores
	holders    map[string]int                        // nodes that have an image
	services   map[string]map[string]labels.Selector // by namespace and name
	storage    volumes
	devices    devices
	memory     memory
	nominated  map[types.UID]string
	expected   map[string]map[types.UID]*Pod // by the node they are nominated for
	// averseExpected is how many of those keep others away.
	averseExpected int
}

type place struct {
	node    string
	assumed bool // decided, not yet shown by the cache
}

// New returns an empty Snapshot.
func New() *Snapshot {
	return &Snapshot{
		nodes: map[string]*Node{}, pods: map[types.UID]place{}, namespaces: map[string]labels.Set{}, averse: map[string]*Node{},
		fond: map[string]*Node{}, holders: map[string]int{},
		services: map[string]map[string]labels.Selector{}, storage: newVolumes(), devices: newDevices(), memory: memory{counts: map[any]*count{}},
		nominated: map[types.UID]string{}, expected: map[string]map[types.UID]*Pod{},
	}
}

// Nodes are all nodes, in an order that stays as long as the nodes do: zone by turns, so that whoever looks at some of
// them only has looked at all zones alike.
func (s *Snapshot) Nodes() []*Node {
	if s.order == nil {
		s.order = byTurns(s.known)
		for i, n := range s.order {
			n.Place = i
		}
		s.ordered++
	}
	return s.order
}

// Order is another one whenever Nodes gives other nodes, or the same in another order, or what each says of pods is to be
// asked anew.
func (s *Snapshot) Order() int64 {
	s.Nodes()
	return s.ordered
}

func byTurns(nodes []*Node) []*Node {
	var zones []string
	of := map[string][]*Node{}
	for _, n := range nodes {
		zone := n.Object.Labels[corev1.LabelTopologyRegion] + "/" + n.Object.Labels[corev1.LabelTopologyZone]
		if of[zone] == nil {
			zones = append(zones, zone)
		}
		of[zone] = append(of[zone], n)
	}
	order := make([]*Node, 0, len(nodes))
	for i := 0; len(order) < len(nodes); i++ {
		for _, zone := range zones {
			if i < len(of[zone]) {
				order = append(order, of[zone][i])
			}
		}
	}
	return order
}

// Node finds a node that exists, or nil.
func (s *Snapshot) Node(name string) *Node {
	if n := s.nodes[name]; n != nil && n.Object != nil {
		return n
	}
	return nil
}

// Averse are the nodes with pods that keep others away.
func (s *Snapshot) Averse() map[string]*Node { return s.averse }

// Fond are the nodes with pods that want others near or far, or would welcome them.
func (s *Snapshot) Fond() map[string]*Node { return s.fond }

// Holders is how many nodes have an image.
func (s *Snapshot) Holders(image string) int { return s.holders[image] }

// Namespace is the labels of a namespace.
func (s *Snapshot) Namespace(name string) labels.Set { return s.namespaces[name] }

// SetNode takes a node in, or its news.
func (s *Snapshot) SetNode(object *corev1.Node) Change {
	n := s.at(object.Name)
	before := n.Object
	s.holds(n, -1)
	n.set(object)
	s.holds(n, 1)
	if before == nil || matters(before, object) {
		n.Version++
	}
	if before == nil {
		s.memory.forget()
		s.known, s.order = append(s.known, n), nil
		return Change{Kind: NodeAdded, Node: object}
	}
	if !matters(before, object) {
		return Change{}
	}
	s.memory.forget()
	s.order = nil
	return Change{Kind: NodeChanged, Node: object, NodeBefore: before}
}

// RemoveNode drops a node; pods still on it are remembered, in case it comes back under its name.
func (s *Snapshot) RemoveNode(name string) Change {
	n := s.nodes[name]
	if n == nil || n.Object == nil {
		return Change{}
	}
	s.known, s.order = slices.DeleteFunc(s.known, func(other *Node) bool { return other == n }), nil
	n.Object = nil
	s.memory.forget()
	s.holds(n, -1)
	n.Images = nil
	s.drop(n)
	return Change{Kind: NodeGone}
}

// SetPod takes a placed pod in, or its news.
func (s *Snapshot) SetPod(object *corev1.Pod) Change {
	was, known := s.pods[object.UID]
	var before, after *Pod
	moves := true
	if !known {
		after = NewPod(object)
	} else {
		before = s.nodes[was.node].Pods[object.UID]
		after = before.renewed(object)
		moves = was.node != object.Spec.NodeName || !alike(before.Object, object)
		s.take(object.UID, moves)
	}
	s.put(after, place{node: object.Spec.NodeName}, moves)
	switch {
	case !known || was.assumed:
		return Change{Kind: PodPlaced, Pod: object}
	case !apiequality.Semantic.DeepEqual(before.Object.Labels, object.Labels):
		return Change{Kind: PodRelabeled, Pod: object, PodBefore: before.Object}
	case !apiequality.Semantic.DeepEqual(before.Requests, s.nodes[object.Spec.NodeName].Pods[object.UID].Requests):
		return Change{Kind: PodShrunk, Pod: object}
	}
	return Change{}
}

// RemovePod drops a pod that is gone or finished, wherever it is.
func (s *Snapshot) RemovePod(object *corev1.Pod) Change {
	if _, known := s.pods[object.UID]; !known {
		return Change{}
	}
	s.take(object.UID, true)
	return Change{Kind: PodGone, Pod: object}
}

// Assume counts a pod on the node it was decided for.
func (s *Snapshot) Assume(pod *Pod, node string) {
	if _, known := s.pods[pod.Object.UID]; known {
		s.take(pod.Object.UID, true)
	}
	s.put(pod, place{node: node, assumed: true}, true)
}

// Forget takes an assumption back; a placement the cache has shown since stays. The Change is what that frees.
func (s *Snapshot) Forget(pod *Pod) Change {
	if at, known := s.pods[pod.Object.UID]; !known || !at.assumed {
		return Change{}
	}
	s.take(pod.Object.UID, true)
	return Change{Kind: PodGone, Pod: pod.Object}
}

// Placed says whether a pod counts on a node already.
func (s *Snapshot) Placed(uid types.UID) bool {
	_, known := s.pods[uid]
	return known
}

// SetNamespace takes a namespace in, or its news.
func (s *Snapshot) SetNamespace(object *corev1.Namespace) Change {
	before, known := s.namespaces[object.Name]
	if known && maps.Equal(before, object.Labels) {
		return Change{}
	}
	s.namespaces[object.Name] = object.Labels
	s.memory.forget()
	return Change{Kind: NamespaceChanged}
}

// RemoveNamespace drops a namespace.
func (s *Snapshot) RemoveNamespace(name string) { delete(s.namespaces, name) }

// SetService takes in whom a service is for.
func (s *Snapshot) SetService(object *corev1.Service) {
	if len(object.Spec.Selector) == 0 {
		s.RemoveService(object)
		return
	}
	if s.services[object.Namespace] == nil {
		s.services[object.Namespace] = map[string]labels.Selector{}
	}
	s.services[object.Namespace][object.Name] = labels.SelectorFromSet(object.Spec.Selector)
	s.memory.forget()
}

// RemoveService drops a service.
func (s *Snapshot) RemoveService(object *corev1.Service) {
	if _, known := s.services[object.Namespace][object.Name]; known {
		s.memory.forget()
	}
	delete(s.services[object.Namespace], object.Name)
	if len(s.services[object.Namespace]) == 0 {
		delete(s.services, object.Namespace)
	}
}

// Services are the selectors of a namespace's services.
func (s *Snapshot) Services(namespace string) []labels.Selector {
	return slices.Collect(maps.Values(s.services[namespace]))
}

func (s *Snapshot) at(name string) *Node {
	n := s.nodes[name]
	if n == nil {
		n = newNode(name)
		s.nodes[name] = n
	}
	return n
}

// holds counts a node's images in (or with -1 out).
func (s *Snapshot) holds(n *Node, by int) {
	for image := range n.Images {
		if s.holders[image] += by; s.holders[image] == 0 {
			delete(s.holders, image)
		}
	}
}

// put counts a pod on a node. It moves unless only its state does, in ways nobody counts.
func (s *Snapshot) put(pod *Pod, at place, moves bool) {
	n := s.at(at.node)
	n.add(pod)
	if moves {
		s.memory.note(Move{pod, n, 1})
	}
	s.storage.use(pod, 1)
	s.pods[pod.Object.UID] = at
	if len(n.Averse) > 0 {
		s.averse[n.Name] = n
	}
	if len(n.Fond) > 0 {
		s.fond[n.Name] = n
	}
}

func (s *Snapshot) take(uid types.UID, moves bool) {
	n := s.nodes[s.pods[uid].node]
	if moves {
		s.memory.note(Move{n.Pods[uid], n, -1})
	}
	s.storage.use(n.Pods[uid], -1)
	n.remove(uid)
	delete(s.pods, uid)
	s.drop(n)
}

// drop forgets what a node no longer is.
func (s *Snapshot) drop(n *Node) {
	if len(n.Averse) == 0 {
		delete(s.averse, n.Name)
	}
	if len(n.Fond) == 0 {
		delete(s.fond, n.Name)
	}
	if n.Object == nil && len(n.Pods) == 0 {
		delete(s.nodes, n.Name)
	}
}

// matters says whether a node's news could change where pods go. Heartbeats and image lists do not wake anything.
func matters(before, after *corev1.Node) bool {
	return before.Spec.Unschedulable != after.Spec.Unschedulable ||
		!maps.Equal(before.Labels, after.Labels) ||
		!apiequality.Semantic.DeepEqual(before.Spec.Taints, after.Spec.Taints) ||
		!slices.Equal(before.Status.DeclaredFeatures, after.Status.DeclaredFeatures) ||
		!apiequality.Semantic.DeepEqual(before.Status.Allocatable, after.Status.Allocatable)
}
