package kinds

import (
	"testing"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestWhatIsNoJSONIsDropped(t *testing.T) {
	opaque := func(raw string) resourcev1.DeviceConfiguration {
		return resourcev1.DeviceConfiguration{Opaque: &resourcev1.OpaqueDeviceConfiguration{Parameters: runtime.RawExtension{Raw: []byte(raw)}}}
	}
	for raw, want := range map[string]string{`{"a":1}`: `{"a":1}`, `k}`: "", "": "", "\x00": ""} {
		claim := &resourcev1.ResourceClaim{
			Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Config: []resourcev1.DeviceClaimConfiguration{{DeviceConfiguration: opaque(raw)}, {}}}},
			Status: resourcev1.ResourceClaimStatus{
				Devices:    []resourcev1.AllocatedDeviceStatus{{Data: &runtime.RawExtension{Raw: []byte(raw)}}, {}},
				Allocation: &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Config: []resourcev1.DeviceAllocationConfiguration{{DeviceConfiguration: opaque(raw)}}}},
			},
		}
		defaultResourceClaim(claim)
		for where, got := range map[string][]byte{
			"spec": claim.Spec.Devices.Config[0].Opaque.Parameters.Raw, "status": claim.Status.Devices[0].Data.Raw, "allocation": claim.Status.Allocation.Devices.Config[0].Opaque.Parameters.Raw,
		} {
			if string(got) != want {
				t.Errorf("%s: %q became %q, want %q", where, raw, got, want)
			}
		}
	}
}
