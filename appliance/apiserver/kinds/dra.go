package kinds

import (
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// ResourceClaim asks for devices; what it asks for stays.
var ResourceClaim = resource.Hooks[*resourcev1.ResourceClaim]{
	ValidateUpdate: onUpdate(func(*resourcev1.ResourceClaim) field.ErrorList { return nil }, func(c, old *resourcev1.ResourceClaim) field.ErrorList {
		return check.Unchanged(specPath, c.Spec, old.Spec)
	}),
}

func defaultResourceClaim(c *resourcev1.ResourceClaim) { defaultDevices(&c.Spec.Devices) }

func defaultResourceClaimTemplate(t *resourcev1.ResourceClaimTemplate) {
	defaultDevices(&t.Spec.Spec.Devices)
}

func defaultDevices(claim *resourcev1.DeviceClaim) {
	for i := range claim.Requests {
		if one := claim.Requests[i].Exactly; one != nil {
			defaultDevice(&one.AllocationMode, &one.Count, one.Tolerations)
		}
		for j := range claim.Requests[i].FirstAvailable {
			one := &claim.Requests[i].FirstAvailable[j]
			defaultDevice(&one.AllocationMode, &one.Count, one.Tolerations)
		}
	}
}

func defaultDevice(mode *resourcev1.DeviceAllocationMode, count *int64, tolerations []resourcev1.DeviceToleration) {
	set.Default(mode, resourcev1.DeviceAllocationModeExactCount)
	if *mode == resourcev1.DeviceAllocationModeExactCount {
		set.Default(count, 1)
	}
	for i := range tolerations {
		set.Default(&tolerations[i].Operator, resourcev1.DeviceTolerationOpEqual)
	}
}
