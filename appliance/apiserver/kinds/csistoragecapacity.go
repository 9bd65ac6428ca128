package kinds

import (
	storagev1 "k8s.io/api/storage/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// CSIStorageCapacity tells how much a storage class has left somewhere. How much may change, not of what.
var CSIStorageCapacity = resource.Hooks[*storagev1.CSIStorageCapacity]{
	NeedResourceVersion: true,
	Validate:            always(validateStorageCapacity),
	ValidateUpdate: onUpdate(validateStorageCapacity, func(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
		errs := check.Unchanged(field.NewPath("nodeTopology"), c.NodeTopology, old.NodeTopology)
		return append(errs, check.Unchanged(field.NewPath("storageClassName"), c.StorageClassName, old.StorageClassName)...)
	}),
}

func validateStorageCapacity(c *storagev1.CSIStorageCapacity) field.ErrorList {
	errs := check.Needed(field.NewPath("storageClassName"), c.StorageClassName, check.Subdomain)
	errs = append(errs, check.Selector(field.NewPath("nodeTopology"), c.NodeTopology)...)
	errs = append(errs, quantityNotNegative(field.NewPath("capacity"), c.Capacity)...)
	return append(errs, quantityNotNegative(field.NewPath("maximumVolumeSize"), c.MaximumVolumeSize)...)
}

func quantityNotNegative(at *field.Path, quantity *apiresource.Quantity) field.ErrorList {
	if quantity == nil || quantity.Sign() >= 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(at, quantity.String(), "must be greater than or equal to 0")}
}
