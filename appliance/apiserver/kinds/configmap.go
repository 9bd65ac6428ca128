package kinds

import (
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// maxDataBytes keeps a config map or a secret well below what the datastore takes in one request.
const maxDataBytes = 1 << 20

// ConfigMap may be sealed by its author.
var ConfigMap = resource.Hooks[*corev1.ConfigMap]{
	Validate: always(validateConfigMap),
	ValidateUpdate: onUpdate(validateConfigMap, func(cm, old *corev1.ConfigMap) field.ErrorList {
		var errs field.ErrorList
		if !ptr.Deref(old.Immutable, false) {
			return nil
		}
		errs = append(errs, staysImmutable(cm.Immutable)...)
		if !apiequality.Semantic.DeepEqual(cm.Data, old.Data) {
			errs = append(errs, field.Forbidden(field.NewPath("data"), sealed))
		}
		if !apiequality.Semantic.DeepEqual(cm.BinaryData, old.BinaryData) {
			errs = append(errs, field.Forbidden(field.NewPath("binaryData"), sealed))
		}
		return errs
	}),
}

const sealed = "field is immutable when `immutable` is set"

func staysImmutable(immutable *bool) field.ErrorList {
	if ptr.Deref(immutable, false) {
		return nil
	}
	return field.ErrorList{field.Forbidden(field.NewPath("immutable"), sealed)}
}

func validateConfigMap(cm *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	size := 0
	for key, value := range cm.Data {
		errs = append(errs, check.Text(field.NewPath("data").Key(key), key, validation.IsConfigMapKey)...)
		if _, both := cm.BinaryData[key]; both {
			errs = append(errs, field.Invalid(field.NewPath("data").Key(key), key, "duplicate of key present in binaryData"))
		}
		size += len(value)
	}
	for key, value := range cm.BinaryData {
		errs = append(errs, check.Text(field.NewPath("binaryData").Key(key), key, validation.IsConfigMapKey)...)
		size += len(value)
	}
	if size > maxDataBytes {
		errs = append(errs, field.TooLong(field.NewPath(""), "", maxDataBytes))
	}
	return errs
}
