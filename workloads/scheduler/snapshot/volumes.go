package snapshot

import (
	"iter"
	"maps"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"
)

// volumes are claims, what they are bound to, and how that is done; empty until a pod with a claim comes.
type volumes struct {
	claims     map[types.NamespacedName]*corev1.PersistentVolumeClaim
	volumes    map[string]*Volume
	byClass    map[string]map[string]*Volume
	classes    map[string]*storagev1.StorageClass
	drivers    map[string]*storagev1.CSIDriver
	nodes      map[string]*storagev1.CSINode
	capacities map[types.NamespacedName]*storagev1.CSIStorageCapacity
	users      map[types.NamespacedName]int64 // how many placed pods use a claim

	// What was decided and the cache does not show yet.
	assumedClaims  map[types.NamespacedName]*corev1.PersistentVolumeClaim
	assumedVolumes map[string]*Volume
}

func newVolumes() volumes {
	return volumes{
		claims:         map[types.NamespacedName]*corev1.PersistentVolumeClaim{},
		volumes:        map[string]*Volume{},
		byClass:        map[string]map[string]*Volume{},
		classes:        map[string]*storagev1.StorageClass{},
		drivers:        map[string]*storagev1.CSIDriver{},
		nodes:          map[string]*storagev1.CSINode{},
		capacities:     map[types.NamespacedName]*storagev1.CSIStorageCapacity{},
		users:          map[types.NamespacedName]int64{},
		assumedClaims:  map[types.NamespacedName]*corev1.PersistentVolumeClaim{},
		assumedVolumes: map[string]*Volume{},
	}
}

// Volume is a volume with the nodes it can be reached from, worked out once.
type Volume struct {
	Object *corev1.PersistentVolume
	// Hosts are the only hostnames it is reached from, when that is all it says; nil when it says nothing or more.
	Hosts []string
	reach *nodeaffinity.LazyErrorNodeSelector
}

func newVolume(object *corev1.PersistentVolume) *Volume {
	v := &Volume{Object: object}
	if affinity := object.Spec.NodeAffinity; affinity != nil && affinity.Required != nil {
		v.reach = nodeaffinity.NewLazyErrorNodeSelector(affinity.Required)
		v.Hosts = onlyHosts(affinity.Required)
	}
	return v
}

// onlyHosts are the hostnames a selector asks for, nil when it asks for anything else.
func onlyHosts(s *corev1.NodeSelector) []string {
	if len(s.NodeSelectorTerms) != 1 || len(s.NodeSelectorTerms[0].MatchFields) > 0 || len(s.NodeSelectorTerms[0].MatchExpressions) != 1 {
		return nil
	}
	if e := s.NodeSelectorTerms[0].MatchExpressions[0]; e.Key == corev1.LabelHostname && e.Operator == corev1.NodeSelectorOpIn {
		return e.Values
	}
	return nil
}

// Anywhere says whether the volume can be reached from all nodes.
func (v *Volume) Anywhere() bool { return v.reach == nil }

// ReachedFrom says whether a pod on a node could use the volume. Like those who mount it, it knows a node's labels only.
func (v *Volume) ReachedFrom(node *corev1.Node) bool {
	if v.reach == nil {
		return true
	}
	matches, err := v.reach.Match(node)
	return err == nil && matches
}

// Claim is a volume claim of a pod.
type Claim struct {
	Name string
	Own  bool // made for this pod and to be gone with it
}

func claimsOf(pod *corev1.Pod) []Claim {
	var claims []Claim
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			claims = append(claims, Claim{Name: v.PersistentVolumeClaim.ClaimName})
		case v.Ephemeral != nil:
			claims = append(claims, Claim{Name: ephemeral.VolumeClaimName(pod, v), Own: true})
		}
	}
	return claims
}

// Claim finds a volume claim as it is or was decided to become, or nil.
func (s *Snapshot) Claim(namespace, name string) *corev1.PersistentVolumeClaim {
	key := types.NamespacedName{Namespace: namespace, Name: name}
	if assumed := s.storage.assumedClaims[key]; assumed != nil {
		return assumed
	}
	return s.storage.claims[key]
}

// Users is how many placed pods use a volume claim.
func (s *Snapshot) Users(namespace, name string) int64 {
	return s.storage.users[types.NamespacedName{Namespace: namespace, Name: name}]
}

// use counts a pod among the users of its claims, or with -1 no more.
func (v *volumes) use(pod *Pod, by int64) {
	for _, claim := range pod.Claims {
		key := types.NamespacedName{Namespace: pod.Object.Namespace, Name: claim.Name}
		if v.users[key] += by; v.users[key] == 0 {
			delete(v.users, key)
		}
	}
}

// Volume finds a volume as it is or was decided to become, or nil.
func (s *Snapshot) Volume(name string) *Volume {
	if assumed := s.storage.assumedVolumes[name]; assumed != nil {
		return assumed
	}
	return s.storage.volumes[name]
}

// Volumes are those of a class, as they are or were decided to become.
func (s *Snapshot) Volumes(class string) iter.Seq[*Volume] {
	return func(yield func(*Volume) bool) {
		for name, v := range s.storage.byClass[class] {
			if assumed := s.storage.assumedVolumes[name]; assumed != nil {
				v = assumed
			}
			if !yield(v) {
				return
			}
		}
	}
}

// Class finds a storage class, or nil.
func (s *Snapshot) Class(name string) *storagev1.StorageClass { return s.storage.classes[name] }

// Driver finds how a CSI driver is to be called, or nil.
func (s *Snapshot) Driver(name string) *storagev1.CSIDriver { return s.storage.drivers[name] }

// CSINode finds the CSI drivers of a node, or nil.
func (s *Snapshot) CSINode(name string) *storagev1.CSINode { return s.storage.nodes[name] }

// Capacities are what is left to provision from.
func (s *Snapshot) Capacities() iter.Seq[*storagev1.CSIStorageCapacity] {
	return maps.Values(s.storage.capacities)
}

// Waits says whether a claim is bound only when a pod that uses it has a node.
func (s *Snapshot) Waits(claim *corev1.PersistentVolumeClaim) bool {
	class := s.storage.classes[volume.GetPersistentVolumeClaimClass(claim)]
	return class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// AssumeClaim counts on a claim to become as given.
func (s *Snapshot) AssumeClaim(claim *corev1.PersistentVolumeClaim) {
	s.storage.assumedClaims[types.NamespacedName{Namespace: claim.Namespace, Name: claim.Name}] = claim
}

// AssumeVolume counts on a volume to become as given.
func (s *Snapshot) AssumeVolume(object *corev1.PersistentVolume) {
	s.storage.assumedVolumes[object.Name] = newVolume(object)
}

// ForgetClaim takes an assumption back, unless the cache has shown news since.
func (s *Snapshot) ForgetClaim(claim *corev1.PersistentVolumeClaim) {
	key := types.NamespacedName{Namespace: claim.Namespace, Name: claim.Name}
	if s.storage.assumedClaims[key] == claim {
		delete(s.storage.assumedClaims, key)
	}
}

// ForgetVolume takes an assumption back, unless the cache has shown news since.
func (s *Snapshot) ForgetVolume(object *corev1.PersistentVolume) {
	if assumed := s.storage.assumedVolumes[object.Name]; assumed != nil && assumed.Object == object {
		delete(s.storage.assumedVolumes, object.Name)
	}
}

// SetClaim takes a volume claim in, or its news.
func (s *Snapshot) SetClaim(object *corev1.PersistentVolumeClaim) Change {
	key := types.NamespacedName{Namespace: object.Namespace, Name: object.Name}
	if assumed := s.storage.assumedClaims[key]; assumed != nil && Newer(object.ResourceVersion, assumed.ResourceVersion) {
		delete(s.storage.assumedClaims, key)
	}
	s.storage.claims[key] = object
	return Change{Kind: StorageChanged, Claim: object}
}

// RemoveClaim drops a volume claim.
func (s *Snapshot) RemoveClaim(object *corev1.PersistentVolumeClaim) Change {
	key := types.NamespacedName{Namespace: object.Namespace, Name: object.Name}
	delete(s.storage.claims, key)
	delete(s.storage.assumedClaims, key)
	return Change{}
}

// SetVolume takes a volume in, or its news.
func (s *Snapshot) SetVolume(object *corev1.PersistentVolume) Change {
	s.dropVolume(object.Name)
	if assumed := s.storage.assumedVolumes[object.Name]; assumed != nil && Newer(object.ResourceVersion, assumed.Object.ResourceVersion) {
		delete(s.storage.assumedVolumes, object.Name)
	}
	v, class := newVolume(object), volume.GetPersistentVolumeClass(object)
	s.storage.volumes[object.Name] = v
	if s.storage.byClass[class] == nil {
		s.storage.byClass[class] = map[string]*Volume{}
	}
	s.storage.byClass[class][object.Name] = v
	return Change{Kind: StorageChanged}
}

// RemoveVolume drops a volume.
func (s *Snapshot) RemoveVolume(object *corev1.PersistentVolume) Change {
	s.dropVolume(object.Name)
	delete(s.storage.assumedVolumes, object.Name)
	return Change{}
}

func (s *Snapshot) dropVolume(name string) {
	old := s.storage.volumes[name]
	if old == nil {
		return
	}
	delete(s.storage.volumes, name)
	class := volume.GetPersistentVolumeClass(old.Object)
	delete(s.storage.byClass[class], name)
	if len(s.storage.byClass[class]) == 0 {
		delete(s.storage.byClass, class)
	}
}

// SetClass takes a storage class in, or its news.
func (s *Snapshot) SetClass(object *storagev1.StorageClass) Change {
	s.storage.classes[object.Name] = object
	return Change{Kind: StorageChanged}
}

// RemoveClass drops a storage class.
func (s *Snapshot) RemoveClass(object *storagev1.StorageClass) Change {
	delete(s.storage.classes, object.Name)
	return Change{}
}

// SetDriver takes a CSI driver in, or its news.
func (s *Snapshot) SetDriver(object *storagev1.CSIDriver) Change {
	s.storage.drivers[object.Name] = object
	return Change{Kind: StorageChanged}
}

// RemoveDriver drops a CSI driver.
func (s *Snapshot) RemoveDriver(object *storagev1.CSIDriver) Change {
	delete(s.storage.drivers, object.Name)
	return Change{Kind: StorageChanged} // its capacity need not be looked at any more
}

// SetCSINode takes the CSI drivers of a node in, or their news.
func (s *Snapshot) SetCSINode(object *storagev1.CSINode) Change {
	s.storage.nodes[object.Name] = object
	return Change{Kind: StorageChanged}
}

// RemoveCSINode drops the CSI drivers of a node.
func (s *Snapshot) RemoveCSINode(object *storagev1.CSINode) Change {
	delete(s.storage.nodes, object.Name)
	return Change{Kind: StorageChanged} // and with them its limits
}

// SetCapacity takes in what is left to provision from, or its news.
func (s *Snapshot) SetCapacity(object *storagev1.CSIStorageCapacity) Change {
	s.storage.capacities[types.NamespacedName{Namespace: object.Namespace, Name: object.Name}] = object
	return Change{Kind: StorageChanged}
}

// RemoveCapacity drops what was left to provision from.
func (s *Snapshot) RemoveCapacity(object *storagev1.CSIStorageCapacity) Change {
	delete(s.storage.capacities, types.NamespacedName{Namespace: object.Namespace, Name: object.Name})
	return Change{}
}

// Newer says whether one version of an object is later than another. What cannot be compared is taken to be.
func Newer(version, than string) bool {
	order, err := resourceversion.CompareResourceVersion(version, than)
	return err != nil || order > 0
}
