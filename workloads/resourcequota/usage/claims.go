package usage

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/component-helpers/storage/volume"
)

// ofClass is between the name of a storage class and what is bounded of it.
const ofClass = ".storageclass.storage.k8s.io/"

// Claims measures claims to volumes, altogether and of each storage class.
func Claims(list List) quota.Evaluator {
	return &evaluator[*corev1.PersistentVolumeClaim]{
		resource: corev1.Resource("persistentvolumeclaims"), list: list, on: []string{"create", "update", "update/status"},
		concerns: func(name corev1.ResourceName) bool {
			switch name {
			case "count/persistentvolumeclaims", corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage:
				return true
			}
			return strings.HasSuffix(string(name), ofClass+string(corev1.ResourceRequestsStorage)) ||
				strings.HasSuffix(string(name), ofClass+string(corev1.ResourcePersistentVolumeClaims))
		},
		measure: measureClaim,
		within: func(claim *corev1.PersistentVolumeClaim, scope corev1.ScopedResourceSelectorRequirement) (bool, error) {
			if scope.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass {
				return false, nil
			}
			for _, class := range attributesOf(claim) {
				if selected, err := selects(scope, class); selected || err != nil {
					return selected, err
				}
			}
			return false, nil
		},
	}
}

// attributesOf are the attributes classes of a claim: what it asks for, what it has and what it is being changed to, each
// of which a quota may bound meanwhile. One that has none has the class "".
func attributesOf(claim *corev1.PersistentVolumeClaim) []string {
	var classes []string
	for _, name := range []*string{claim.Spec.VolumeAttributesClassName, claim.Status.CurrentVolumeAttributesClassName} {
		if name != nil && *name != "" {
			classes = append(classes, *name)
		}
	}
	if change := claim.Status.ModifyVolumeStatus; change != nil && change.TargetVolumeAttributesClassName != "" {
		classes = append(classes, change.TargetVolumeAttributesClassName)
	}
	if classes == nil {
		return []string{""}
	}
	return classes
}

func measureClaim(claim *corev1.PersistentVolumeClaim) corev1.ResourceList {
	used := corev1.ResourceList{"count/persistentvolumeclaims": whole(1), corev1.ResourcePersistentVolumeClaims: whole(1)}
	class := volume.GetPersistentVolumeClaimClass(claim)
	if class != "" {
		used[corev1.ResourceName(class+ofClass)+corev1.ResourcePersistentVolumeClaims] = whole(1)
	}
	storage, asked := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	// A volume that grows uses the larger size from the moment its growth began.
	if allocated, growing := claim.Status.AllocatedResources[corev1.ResourceStorage]; growing && (!asked || allocated.Cmp(storage) > 0) {
		storage, asked = allocated, true
	}
	if asked {
		used[corev1.ResourceRequestsStorage] = storage.DeepCopy()
		if class != "" {
			used[corev1.ResourceName(class+ofClass)+corev1.ResourceRequestsStorage] = storage.DeepCopy()
		}
	}
	return used
}
