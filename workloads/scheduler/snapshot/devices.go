package snapshot

import (
	"iter"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
)

// devices are what resource claims are for and what they were given; empty until a pod with such a claim comes.
type devices struct {
	claims  map[types.NamespacedName]*resourcev1.ResourceClaim
	assumed map[types.NamespacedName]*resourcev1.ResourceClaim // decided, not yet shown by the cache
	slices  map[string]*resourcev1.ResourceSlice
	classes map[string]*resourcev1.DeviceClass
	standIn map[corev1.ResourceName]*resourcev1.DeviceClass // by the extended resource a class stands for
	rules   map[string]*resourcev1.DeviceTaintRule
}

func newDevices() devices {
	return devices{
		claims:  map[types.NamespacedName]*resourcev1.ResourceClaim{},
		assumed: map[types.NamespacedName]*resourcev1.ResourceClaim{},
		slices:  map[string]*resourcev1.ResourceSlice{},
		classes: map[string]*resourcev1.DeviceClass{},
		rules:   map[string]*resourcev1.DeviceTaintRule{},
	}
}

// ResourceClaim finds a claim as it is or was decided to become, or nil.
func (s *Snapshot) ResourceClaim(namespace, name string) *resourcev1.ResourceClaim {
	key := types.NamespacedName{Namespace: namespace, Name: name}
	if assumed := s.devices.assumed[key]; assumed != nil {
		return assumed
	}
	return s.devices.claims[key]
}

// ResourceClaims are all claims, as they are or were decided to become, those included that are to be made.
func (s *Snapshot) ResourceClaims() iter.Seq[*resourcev1.ResourceClaim] {
	return func(yield func(*resourcev1.ResourceClaim) bool) {
		for _, claim := range s.devices.assumed {
			if !yield(claim) {
				return
			}
		}
		for key, claim := range s.devices.claims {
			if s.devices.assumed[key] == nil && !yield(claim) {
				return
			}
		}
	}
}

// DeviceClass finds a class of devices, or nil.
func (s *Snapshot) DeviceClass(name string) *resourcev1.DeviceClass { return s.devices.classes[name] }

// StandIn is the class whose devices are what a pod gets that asks for an extended resource (KEP-5004), nil if none is. Besides
// the name a class gives there is one each class has. Of two classes that give the same the younger one stands for it.
func (s *Snapshot) StandIn(resource corev1.ResourceName) *resourcev1.DeviceClass {
	if class, implicit := strings.CutPrefix(string(resource), resourcev1.ResourceDeviceClassPrefix); implicit {
		return s.devices.classes[class]
	}
	return s.devices.standIn[resource]
}

// standIns works out anew what classes stand for. Nodes may say otherwise of pods that ask for it.
func (s *Snapshot) standIns() {
	s.devices.standIn = nil
	for _, class := range s.devices.classes {
		if class.Spec.ExtendedResourceName == nil {
			continue
		}
		resource := corev1.ResourceName(*class.Spec.ExtendedResourceName)
		if other := s.devices.standIn[resource]; other != nil && !succeeds(class, other) {
			continue
		}
		if s.devices.standIn == nil {
			s.devices.standIn = map[corev1.ResourceName]*resourcev1.DeviceClass{}
		}
		s.devices.standIn[resource] = class
	}
	s.order = nil
}

// succeeds says which of two classes stands for the resource both name: the younger, or the first by name.
func succeeds(class, other *resourcev1.DeviceClass) bool {
	if order := class.CreationTimestamp.Compare(other.CreationTimestamp.Time); order != 0 {
		return order > 0
	}
	return class.Name < other.Name
}

// DeviceClasses are all of them.
func (s *Snapshot) DeviceClasses() iter.Seq[*resourcev1.DeviceClass] {
	return maps.Values(s.devices.classes)
}

// ResourceSlices are the devices there are, in a stable order, with the taints that rules add to theirs.
func (s *Snapshot) ResourceSlices() []*resourcev1.ResourceSlice {
	all := make([]*resourcev1.ResourceSlice, 0, len(s.devices.slices))
	for _, name := range slices.Sorted(maps.Keys(s.devices.slices)) {
		all = append(all, s.tainted(s.devices.slices[name]))
	}
	return all
}

// tainted is a slice with the taints that rules add to its devices.
func (s *Snapshot) tainted(slice *resourcev1.ResourceSlice) *resourcev1.ResourceSlice {
	own := slice
	for _, name := range slices.Sorted(maps.Keys(s.devices.rules)) {
		rule := &s.devices.rules[name].Spec
		for i := range slice.Spec.Devices {
			if rule.Taint.Effect == resourcev1.DeviceTaintEffectNone || !ruled(rule.DeviceSelector, slice, slice.Spec.Devices[i].Name) {
				continue
			}
			if own == slice {
				own = slice.DeepCopy()
			}
			own.Spec.Devices[i].Taints = append(own.Spec.Devices[i].Taints, rule.Taint)
		}
	}
	return own
}

// ruled says whether a selector means a device; one that names nothing means none.
func ruled(s *resourcev1.DeviceTaintSelector, slice *resourcev1.ResourceSlice, device string) bool {
	return s != nil && (s.Driver == nil || *s.Driver == slice.Spec.Driver) && (s.Pool == nil || *s.Pool == slice.Spec.Pool.Name) &&
		(s.Device == nil || *s.Device == device)
}

// AssumeResourceClaim counts on a claim to become as given.
func (s *Snapshot) AssumeResourceClaim(claim *resourcev1.ResourceClaim) {
	s.devices.assumed[types.NamespacedName{Namespace: claim.Namespace, Name: claim.Name}] = claim
}

// ForgetResourceClaim takes an assumption back, unless the cache has shown news since.
func (s *Snapshot) ForgetResourceClaim(claim *resourcev1.ResourceClaim) {
	key := types.NamespacedName{Namespace: claim.Namespace, Name: claim.Name}
	if s.devices.assumed[key] == claim {
		delete(s.devices.assumed, key)
	}
}

// SetResourceClaim takes a claim in, or its news. What was decided about it stays until the cache shows an allocation:
// writing one takes two writes.
func (s *Snapshot) SetResourceClaim(object *resourcev1.ResourceClaim) Change {
	key := types.NamespacedName{Namespace: object.Namespace, Name: object.Name}
	if assumed := s.devices.assumed[key]; assumed != nil && object.Status.Allocation != nil && Newer(object.ResourceVersion, assumed.ResourceVersion) {
		delete(s.devices.assumed, key)
	}
	s.devices.claims[key] = object
	return Change{Kind: DevicesChanged}
}

// RemoveResourceClaim drops a claim; its devices are free.
func (s *Snapshot) RemoveResourceClaim(object *resourcev1.ResourceClaim) Change {
	key := types.NamespacedName{Namespace: object.Namespace, Name: object.Name}
	delete(s.devices.claims, key)
	if assumed := s.devices.assumed[key]; assumed != nil && assumed.UID == object.UID { // not one that is to be made in its place
		delete(s.devices.assumed, key)
	}
	return Change{Kind: DevicesChanged}
}

// SetResourceSlice takes devices in, or their news.
func (s *Snapshot) SetResourceSlice(object *resourcev1.ResourceSlice) Change {
	s.devices.slices[object.Name] = object
	return Change{Kind: DevicesChanged}
}

// RemoveResourceSlice drops devices.
func (s *Snapshot) RemoveResourceSlice(object *resourcev1.ResourceSlice) Change {
	delete(s.devices.slices, object.Name)
	return Change{Kind: DevicesChanged} // its pool may be complete without it
}

// SetDeviceClass takes a class of devices in, or its news.
func (s *Snapshot) SetDeviceClass(object *resourcev1.DeviceClass) Change {
	s.devices.classes[object.Name] = object
	s.standIns()
	return Change{Kind: DevicesChanged}
}

// RemoveDeviceClass drops a class of devices.
func (s *Snapshot) RemoveDeviceClass(object *resourcev1.DeviceClass) Change {
	delete(s.devices.classes, object.Name)
	s.standIns()
	return Change{}
}

// SetDeviceTaintRule takes in taints of devices, or their news.
func (s *Snapshot) SetDeviceTaintRule(object *resourcev1.DeviceTaintRule) Change {
	s.devices.rules[object.Name] = object
	return Change{Kind: DevicesChanged}
}

// RemoveDeviceTaintRule drops taints of devices.
func (s *Snapshot) RemoveDeviceTaintRule(object *resourcev1.DeviceTaintRule) Change {
	delete(s.devices.rules, object.Name)
	return Change{Kind: DevicesChanged}
}
