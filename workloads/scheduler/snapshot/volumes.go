package snapshot

import (
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"
)

// volumes are claims, what they are bound to, and how that is done; empty until a pod with a claim comes.
type volumes struct {
	claims  map[types.NamespacedName]*corev1.PersistentVolumeClaim
	volumes map[string]*corev1.PersistentVolume
	modes   map[string]storagev1.VolumeBindingMode // by storage class
	users   map[types.NamespacedName]int64         // how many placed pods use a claim
}

func newVolumes() volumes {
	return volumes{
		claims:  map[types.NamespacedName]*corev1.PersistentVolumeClaim{},
		volumes: map[string]*corev1.PersistentVolume{},
		modes:   map[string]storagev1.VolumeBindingMode{},
		users:   map[types.NamespacedName]int64{},
	}
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

// Claim finds a volume claim, or nil.
func (s *Snapshot) Claim(namespace, name string) *corev1.PersistentVolumeClaim {
	return s.storage.claims[types.NamespacedName{Namespace: namespace, Name: name}]
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

// Volume finds a volume, or nil.
func (s *Snapshot) Volume(name string) *corev1.PersistentVolume { return s.storage.volumes[name] }

// Waits says whether a claim is bound only when a pod that uses it has a node.
func (s *Snapshot) Waits(claim *corev1.PersistentVolumeClaim) bool {
	return s.storage.modes[volume.GetPersistentVolumeClaimClass(claim)] == storagev1.VolumeBindingWaitForFirstConsumer
}

// SetClaim takes a volume claim in, or its news.
func (s *Snapshot) SetClaim(object *corev1.PersistentVolumeClaim) Change {
	s.storage.claims[types.NamespacedName{Namespace: object.Namespace, Name: object.Name}] = object
	return Change{Kind: StorageChanged, Claim: object}
}

// RemoveClaim drops a volume claim.
func (s *Snapshot) RemoveClaim(object *corev1.PersistentVolumeClaim) Change {
	delete(s.storage.claims, types.NamespacedName{Namespace: object.Namespace, Name: object.Name})
	return Change{}
}

// SetVolume takes a volume in, or its news.
func (s *Snapshot) SetVolume(object *corev1.PersistentVolume) Change {
	s.storage.volumes[object.Name] = object
	return Change{Kind: StorageChanged}
}

// RemoveVolume drops a volume.
func (s *Snapshot) RemoveVolume(object *corev1.PersistentVolume) Change {
	delete(s.storage.volumes, object.Name)
	return Change{}
}

// SetClass takes a storage class in.
func (s *Snapshot) SetClass(object *storagev1.StorageClass) Change {
	mode := storagev1.VolumeBindingImmediate
	if object.VolumeBindingMode != nil {
		mode = *object.VolumeBindingMode
	}
	s.storage.modes[object.Name] = mode
	return Change{Kind: StorageChanged}
}

// RemoveClass drops a storage class.
func (s *Snapshot) RemoveClass(object *storagev1.StorageClass) Change {
	delete(s.storage.modes, object.Name)
	return Change{}
}
