package kinds

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// Bounds of what drivers say about themselves, from the CSI specification and the API.
const (
	longestDriverName       = 63
	longestNodeID           = 192
	mostHealthConditions    = 16
	longestConditionReason  = 256
	longestConditionMessage = 1024
)

// CSINode tells which drivers run on a node. A driver that changes what it said has to be taken out first, because
// volumes may be attached by what it said before; only how many it takes may change.
var CSINode = resource.Hooks[*storagev1.CSINode]{
	NeedResourceVersion: true,
	Validate:            always(validateCSINode),
	ValidateUpdate: onUpdate(validateCSINode, func(n, old *storagev1.CSINode) field.ErrorList {
		var errs field.ErrorList
		for i, driver := range n.Spec.Drivers {
			for _, before := range old.Spec.Drivers {
				before.Allocatable = driver.Allocatable
				if driver.Name == before.Name && !apiequality.Semantic.DeepEqual(driver, before) {
					errs = append(errs, field.Invalid(specPath.Child("drivers").Index(i), driver, "field is immutable"))
				}
			}
		}
		return errs
	}),
	ValidateStatus: func(_ context.Context, n, _ *storagev1.CSINode) field.ErrorList {
		return validateStorageHealth(n.Status.StorageHealth, statusPath.Child("storageHealth"))
	},
}

func validateCSINode(n *storagev1.CSINode) field.ErrorList {
	var errs field.ErrorList
	drivers := specPath.Child("drivers")
	for i, driver := range n.Spec.Drivers {
		at := drivers.Index(i)
		errs = append(errs, validateDriverName(driver.Name, at.Child("name"))...)
		errs = append(errs, check.Needed(at.Child("nodeID"), driver.NodeID, nil)...)
		if len(driver.NodeID) > longestNodeID {
			errs = append(errs, field.TooLong(at.Child("nodeID"), "", longestNodeID))
		}
		if driver.Allocatable != nil {
			errs = append(errs, check.NotNegativeOptional(at.Child("allocatable", "count"), driver.Allocatable.Count)...)
		}
		for j, key := range driver.TopologyKeys {
			errs = append(errs, check.Needed(at.Child("topologyKeys").Index(j), key, validation.IsQualifiedName)...)
		}
		errs = append(errs, check.Unique(at.Child("topologyKeys"), driver.TopologyKeys, func(key string) string { return key }, "")...)
	}
	return append(errs, check.Unique(drivers, n.Spec.Drivers, func(d storagev1.CSINodeDriver) string { return d.Name }, "name")...)
}

// validateDriverName wants a domain in any case: drivers chose theirs before there was a rule.
func validateDriverName(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	var errs field.ErrorList
	if len(name) > longestDriverName {
		errs = append(errs, field.TooLong(at, "", longestDriverName))
	}
	return append(errs, check.Text(at, strings.ToLower(name), validation.IsDNS1123Subdomain)...)
}

func validateStorageHealth(health []storagev1.StorageHealth, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, h := range health {
		errs = append(errs, validateDriverName(h.Name, at.Index(i).Child("name"))...)
		conditions := at.Index(i).Child("healthConditions")
		if count := len(h.HealthConditions); count > mostHealthConditions {
			errs = append(errs, field.TooMany(conditions, count, mostHealthConditions))
		}
		for j, c := range h.HealthConditions {
			errs = append(errs, validateHealthCondition(&c, conditions.Index(j))...)
		}
	}
	return append(errs, check.Unique(at, health, func(h storagev1.StorageHealth) string { return h.Name }, "name")...)
}

func validateHealthCondition(c *storagev1.StorageHealthCondition, at *field.Path) field.ErrorList {
	errs := check.OneOf(at.Child("status"), c.Status, storagev1.StorageDegraded, storagev1.StorageUnreachable)
	errs = append(errs, check.Needed(at.Child("reason"), c.Reason, nil)...)
	if len(c.Reason) > longestConditionReason {
		errs = append(errs, field.TooLong(at.Child("reason"), "", longestConditionReason))
	}
	if len(c.Message) > longestConditionMessage {
		errs = append(errs, field.TooLong(at.Child("message"), "", longestConditionMessage))
	}
	errs = append(errs, check.OneOfOptional(at.Child("accessMode"), c.AccessMode, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)...)
	return append(errs, check.OneOfOptional(at.Child("volumeMode"), c.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
}
