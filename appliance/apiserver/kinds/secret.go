package kinds

import (
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// Secret's values are checked as its type says.
var Secret = resource.Hooks[*corev1.Secret]{
	Validate: always(validateSecret),
	ValidateUpdate: onUpdate(validateSecret, func(secret, old *corev1.Secret) field.ErrorList {
		errs := check.Unchanged(field.NewPath("type"), secret.Type, old.Type)
		if !ptr.Deref(old.Immutable, false) {
			return errs
		}
		errs = append(errs, staysImmutable(secret.Immutable)...)
		if !apiequality.Semantic.DeepEqual(secret.Data, old.Data) {
			errs = append(errs, field.Forbidden(field.NewPath("data"), sealed))
		}
		return errs
	}),
	Fields: func(secret *corev1.Secret) fields.Set { return fields.Set{"type": string(secret.Type)} },
}

// defaultSecret also takes over stringData, which is for writing only.
func defaultSecret(secret *corev1.Secret) {
	set.Default(&secret.Type, corev1.SecretTypeOpaque)
	if len(secret.StringData) > 0 && secret.Data == nil {
		secret.Data = make(map[string][]byte, len(secret.StringData))
	}
	for key, value := range secret.StringData {
		secret.Data[key] = []byte(value)
	}
	secret.StringData = nil
}

func validateSecret(secret *corev1.Secret) field.ErrorList {
	data := field.NewPath("data")
	var errs field.ErrorList
	size := 0
	for key, value := range secret.Data {
		errs = append(errs, check.Text(data.Key(key), key, validation.IsConfigMapKey)...)
		size += len(value)
	}
	if size > maxDataBytes {
		errs = append(errs, field.TooLong(data, "", maxDataBytes))
	}
	need := func(keys ...string) {
		for _, key := range keys {
			if _, found := secret.Data[key]; !found {
				errs = append(errs, field.Required(data.Key(key), ""))
			}
		}
	}
	needJSON := func(key string) {
		need(key)
		if value, found := secret.Data[key]; found && json.Unmarshal(value, new(map[string]any)) != nil {
			errs = append(errs, field.Invalid(data.Key(key), "<secret contents redacted>", "invalid JSON")) // never show it
		}
	}
	switch secret.Type {
	case corev1.SecretTypeServiceAccountToken:
		if secret.Annotations[corev1.ServiceAccountNameKey] == "" {
			errs = append(errs, field.Required(metaPath.Child("annotations").Key(corev1.ServiceAccountNameKey), ""))
		}
	case corev1.SecretTypeDockercfg:
		needJSON(corev1.DockerConfigKey)
	case corev1.SecretTypeDockerConfigJson:
		needJSON(corev1.DockerConfigJsonKey)
	case corev1.SecretTypeBasicAuth:
		_, user := secret.Data[corev1.BasicAuthUsernameKey]
		_, password := secret.Data[corev1.BasicAuthPasswordKey]
		if !user && !password {
			need(corev1.BasicAuthUsernameKey, corev1.BasicAuthPasswordKey)
		}
	case corev1.SecretTypeSSHAuth:
		need(corev1.SSHAuthPrivateKey)
	case corev1.SecretTypeTLS:
		need(corev1.TLSCertKey, corev1.TLSPrivateKeyKey)
	}
	return errs
}
