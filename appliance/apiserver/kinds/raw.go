package kinds

import (
	"encoding/json"

	appsv1 "k8s.io/api/apps/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// dropUnreadable empties what should be JSON and is not. As protobuf it may be any bytes, and the library panics over
// them where it notes who owns which field, before anything is validated. Empty, it is refused as missing.
func dropUnreadable(raw *runtime.RawExtension) {
	if raw != nil && len(raw.Raw) > 0 && !json.Valid(raw.Raw) {
		raw.Raw = nil
	}
}

func defaultRevision(r *appsv1.ControllerRevision) { dropUnreadable(&r.Data) }

func defaultDeviceClass(c *resourcev1.DeviceClass) {
	for i := range c.Spec.Config {
		dropParameters(&c.Spec.Config[i].DeviceConfiguration)
	}
}

func dropParameters(c *resourcev1.DeviceConfiguration) {
	if c.Opaque != nil {
		dropUnreadable(&c.Opaque.Parameters)
	}
}

// dropUnreadableStatus does the same for what drivers and the scheduler say of a claim.
func dropUnreadableStatus(s *resourcev1.ResourceClaimStatus) {
	for i := range s.Devices {
		dropUnreadable(s.Devices[i].Data)
	}
	if s.Allocation == nil {
		return
	}
	for i := range s.Allocation.Devices.Config {
		dropParameters(&s.Allocation.Devices.Config[i].DeviceConfiguration)
	}
}
