package podspec

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
)

// Bounds of a pod certificate's life. Signers of Kubernetes itself keep to a day.
const (
	minCertificateSeconds    = 60 * 60
	maxCertificateSeconds    = 91 * 24 * 60 * 60
	maxOwnCertificateSeconds = 24 * 60 * 60
)

// ValidateCertificateLife bounds what a pod, or the node for it, may ask of a signer.
func ValidateCertificateLife(signer string, seconds *int32, at *field.Path) field.ErrorList {
	if seconds == nil {
		return nil
	}
	most := int32(maxCertificateSeconds)
	if domain, _, _ := strings.Cut(signer, "/"); domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") {
		most = maxOwnCertificateSeconds
	}
	switch {
	case *seconds < minCertificateSeconds:
		return field.ErrorList{field.Invalid(at, *seconds, fmt.Sprintf("if provided, maxExpirationSeconds must be >= %d", minCertificateSeconds))}
	case *seconds > most:
		return field.ErrorList{field.Invalid(at, *seconds, fmt.Sprintf("if provided, maxExpirationSeconds must be <= %d", most))}
	}
	return nil
}

// ValidateSignerAnnotations are annotations whose keys say whose they are.
func ValidateSignerAnnotations(annotations map[string]string, at *field.Path) field.ErrorList {
	errs := apivalidation.ValidateAnnotations(annotations, at)
	for key := range annotations {
		if !strings.Contains(key, "/") {
			errs = append(errs, field.Invalid(at, key, "must be domain-qualified"))
		}
	}
	return errs
}

func validateCertificateProjection(p *corev1.PodCertificateProjection, base *field.Path) field.ErrorList {
	errs := check.Needed(base.Child("signerName"), p.SignerName, nil)
	errs = append(errs, check.OneOf(base.Child("keyType"), p.KeyType, "RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519")...)
	errs = append(errs, ValidateCertificateLife(p.SignerName, p.MaxExpirationSeconds, base.Child("maxExpirationSeconds"))...)
	errs = append(errs, ValidateSignerAnnotations(p.UserAnnotations, base.Child("userAnnotations"))...)
	paths := certificateFiles(p)
	for name, path := range paths {
		errs = append(errs, filePath(path, base.Child(name))...)
	}
	if len(paths) == 0 {
		errs = append(errs, field.Required(base, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath"))
	}
	return errs
}

// certificateFiles are the paths a projection writes, by the field that names them.
func certificateFiles(p *corev1.PodCertificateProjection) map[string]string {
	paths := map[string]string{}
	for name, path := range map[string]string{"credentialBundlePath": p.CredentialBundlePath, "keyPath": p.KeyPath, "certificateChainPath": p.CertificateChainPath} {
		if path != "" {
			paths[name] = path
		}
	}
	return paths
}
