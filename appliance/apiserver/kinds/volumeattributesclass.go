package kinds

import (
	"maps"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// Bounds of a class's parameters.
const (
	mostAttributeParameters   = 512
	largestAttributeParameter = 256 * 1024 // all keys and values together
)

// VolumeAttributesClass names attributes of volumes. It never changes: claims that name it have them already.
var VolumeAttributesClass = resource.Hooks[*storagev1.VolumeAttributesClass]{
	Validate: always(validateVolumeAttributes),
	ValidateUpdate: onUpdate(validateVolumeAttributes, func(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
		var errs field.ErrorList
		if c.DriverName != old.DriverName {
			errs = append(errs, field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
		}
		if !maps.Equal(c.Parameters, old.Parameters) {
			errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
		}
		return errs
	}),
}

func validateVolumeAttributes(c *storagev1.VolumeAttributesClass) field.ErrorList {
	errs := check.Needed(field.NewPath("driverName"), c.DriverName, validation.IsQualifiedName)
	at := field.NewPath("parameters")
	size := 0
	for key, value := range c.Parameters {
		size += len(key) + len(value)
		if key == "" {
			errs = append(errs, field.Invalid(at, key, "field must not be empty"))
		}
	}
	switch count := len(c.Parameters); {
	case count == 0:
		errs = append(errs, field.Required(at, "must contain at least one key/value pair"))
	case count > mostAttributeParameters:
		errs = append(errs, field.TooLong(at, "", mostAttributeParameters))
	case size > largestAttributeParameter:
		errs = append(errs, field.TooLong(at, "", largestAttributeParameter))
	}
	return errs
}
