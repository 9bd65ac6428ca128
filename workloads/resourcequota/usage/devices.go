package usage

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	quota "k8s.io/apiserver/pkg/quota/v1"
)

const countDeviceClaims corev1.ResourceName = "count/resourceclaims.resource.k8s.io"

// Devices measures claims to devices, of each device class: the most that a claim could be given.
func Devices(list List) quota.Evaluator {
	return &evaluator[*resourcev1.ResourceClaim]{
		resource: resourcev1.Resource("resourceclaims"), list: list, on: []string{"create", "update"},
		concerns: func(name corev1.ResourceName) bool {
			return name == countDeviceClaims || strings.HasSuffix(string(name), corev1.ResourceClaimsPerClass)
		},
		measure: measureDevices,
	}
}

func measureDevices(claim *resourcev1.ResourceClaim) corev1.ResourceList {
	most := map[string]int64{}
	for _, request := range claim.Spec.Devices.Requests {
		if exactly := request.Exactly; exactly != nil {
			most[exactly.DeviceClassName] += devices(exactly.AllocationMode, exactly.Count)
		}
		// One of these is chosen later; of each class the largest of them could be.
		alternatives := map[string]int64{}
		for _, sub := range request.FirstAvailable {
			alternatives[sub.DeviceClassName] = max(alternatives[sub.DeviceClassName], devices(sub.AllocationMode, sub.Count))
		}
		for class, n := range alternatives {
			most[class] += n
		}
	}
	used := corev1.ResourceList{countDeviceClaims: whole(1)}
	for class, n := range most {
		used[corev1.ResourceName(class+corev1.ResourceClaimsPerClass)] = whole(n)
	}
	return used
}

func devices(mode resourcev1.DeviceAllocationMode, count int64) int64 {
	if mode == resourcev1.DeviceAllocationModeAll {
		return resourcev1.AllocationResultsMaxSize
	}
	return count
}
