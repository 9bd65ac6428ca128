package kinds

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"reflect"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/kinds/podspec"
	"knarr.dev/knarr/appliance/apiserver/kinds/set"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// longestUID of an object in a request, in bytes.
const longestUID = 128

// PodCertificateRequest is how a node asks a signer for a pod's certificate. It is answered once.
var PodCertificateRequest = resource.Hooks[*certificatesv1.PodCertificateRequest]{
	NeedResourceVersion: true,
	Validate:            always(validatePodCertificateRequest),
	ValidateUpdate: func(_ context.Context, r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
		return check.Unchanged(specPath, r.Spec, old.Spec)
	},
	ValidateStatus: func(_ context.Context, r, old *certificatesv1.PodCertificateRequest) field.ErrorList {
		return validateAnswer(r, old, time.Now())
	},
	Fields: func(r *certificatesv1.PodCertificateRequest) fields.Set {
		return fields.Set{"spec.signerName": r.Spec.SignerName, "spec.podName": r.Spec.PodName, "spec.nodeName": string(r.Spec.NodeName)}
	},
}

func defaultPodCertificateRequest(r *certificatesv1.PodCertificateRequest) {
	set.Pointer(&r.Spec.MaxExpirationSeconds, int32(24*60*60))
}

func validatePodCertificateRequest(r *certificatesv1.PodCertificateRequest) field.ErrorList {
	errs := validateSigner(r.Spec.SignerName, specPath.Child("signerName"))
	for _, ref := range []struct {
		name, value string
		rule        func(string) []string
	}{
		{"podName", r.Spec.PodName, check.Subdomain},
		{"serviceAccountName", r.Spec.ServiceAccountName, check.Subdomain},
		{"nodeName", string(r.Spec.NodeName), check.Subdomain},
	} {
		errs = append(errs, check.Needed(specPath.Child(ref.name), ref.value, ref.rule)...)
	}
	for _, uid := range []struct {
		name  string
		value types.UID
	}{
		{"podUID", r.Spec.PodUID}, {"serviceAccountUID", r.Spec.ServiceAccountUID}, {"nodeUID", r.Spec.NodeUID},
	} {
		switch at := specPath.Child(uid.name); {
		case uid.value == "":
			errs = append(errs, field.Invalid(at, uid.value, "must not be empty"))
		case len(uid.value) > longestUID:
			errs = append(errs, field.TooLong(at, uid.value, longestUID))
		}
	}
	errs = append(errs, podspec.ValidateCertificateLife(r.Spec.SignerName, r.Spec.MaxExpirationSeconds, specPath.Child("maxExpirationSeconds"))...)
	if len(r.Spec.StubPKCS10Request) == 0 {
		return append(errs, field.Invalid(specPath, field.OmitValueType{}, "stubPKCS10Request must be set"))
	}
	errs = append(errs, podspec.ValidateSignerAnnotations(r.Spec.UnverifiedUserAnnotations, specPath.Child("unverifiedUserAnnotations"))...)

	at := specPath.Child("stubPKCS10Request")
	request, err := x509.ParseCertificateRequest(r.Spec.StubPKCS10Request)
	if err == nil {
		err = request.CheckSignature()
	}
	switch {
	case err != nil:
		errs = append(errs, field.Invalid(at, "<value omitted>", "must be a DER-encoded PKCS#10 request signed with its key: "+err.Error()))
	case !supportedKey(request.PublicKey):
		errs = append(errs, field.Invalid(at, "<value omitted>", "key must be one of RSA3072, RSA4096, ECDSAP256, ECDSAP384, ECDSAP521, ED25519"))
	}
	return errs
}

func supportedKey(key any) bool {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return key.Size()*8 == 3072 || key.Size()*8 == 4096
	case *ecdsa.PublicKey:
		return key.Curve == elliptic.P256() || key.Curve == elliptic.P384() || key.Curve == elliptic.P521()
	case ed25519.PublicKey:
		return true
	}
	return false
}

// outcome is the one condition that answers a request.
func outcome(conditions []metav1.Condition) string {
	for _, c := range conditions {
		switch c.Type {
		case certificatesv1.PodCertificateRequestConditionTypeIssued, certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed:
			return c.Type
		}
	}
	return ""
}

// validateAnswer lets a signer answer once, and only with what was asked for.
func validateAnswer(r, old *certificatesv1.PodCertificateRequest, now time.Time) field.ErrorList {
	if outcome(old.Status.Conditions) != "" {
		return check.Unchanged(statusPath, r.Status, old.Status)
	}
	conditions := statusPath.Child("conditions")
	var errs field.ErrorList
	answers := 0
	for i, c := range r.Status.Conditions {
		errs = append(errs, check.OneOf(conditions.Index(i).Child("type"), c.Type, certificatesv1.PodCertificateRequestConditionTypeIssued,
			certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed)...)
		errs = append(errs, check.OneOf(conditions.Index(i).Child("status"), c.Status, metav1.ConditionTrue)...)
		answers++
	}
	if answers > 1 {
		errs = append(errs, field.Forbidden(conditions, `only one of the "Issued", "Denied", "Failed" conditions may be set`))
	}
	issued := outcome(r.Status.Conditions) == certificatesv1.PodCertificateRequestConditionTypeIssued
	s := &r.Status
	if !issued {
		if s.CertificateChain != "" || s.NotBefore != nil || s.NotAfter != nil || s.BeginRefreshAt != nil {
			errs = append(errs, field.Forbidden(statusPath.Child("certificateChain"), `a certificate and its times need the "Issued" condition`))
		}
		return errs
	}
	if s.NotBefore == nil || s.NotAfter == nil || s.BeginRefreshAt == nil {
		return append(errs, field.Required(statusPath.Child("notBefore"), "notBefore, notAfter and beginRefreshAt must be set together with certificateChain"))
	}
	return append(errs, validateIssued(r, now)...)
}

// validateIssued compares the certificate with the request and with what the status says of it.
func validateIssued(r *certificatesv1.PodCertificateRequest, now time.Time) field.ErrorList {
	at := statusPath.Child("certificateChain")
	refuse := func(format string, args ...any) field.ErrorList {
		return field.ErrorList{field.Invalid(at, "<value omitted>", fmt.Sprintf(format, args...))}
	}
	leaf, err := leafOf(r.Status.CertificateChain)
	if err != nil {
		return refuse("%v", err)
	}
	request, err := x509.ParseCertificateRequest(r.Spec.StubPKCS10Request)
	if err != nil || !reflect.DeepEqual(request.PublicKey, leaf.PublicKey) {
		return refuse("leaf certificate was not issued to the requested public key")
	}
	life := leaf.NotAfter.Sub(leaf.NotBefore)
	most := time.Duration(*r.Spec.MaxExpirationSeconds) * time.Second
	s := &r.Status
	switch {
	case !s.NotBefore.Time.Equal(leaf.NotBefore) || !s.NotAfter.Time.Equal(leaf.NotAfter):
		return refuse("notBefore and notAfter of the status must be those of the leaf certificate")
	case life > most:
		return refuse("leaf certificate lifetime must be <= spec.maxExpirationSeconds (%v), was %v", most, life)
	case life < time.Hour:
		return refuse("leaf certificate lifetime must be >= 1 hour, was %v", life)
	case now.Add(5 * time.Minute).Before(leaf.NotBefore): // clocks differ by that much
		return refuse("leaf certificate is not valid yet")
	case s.BeginRefreshAt.Time.Before(leaf.NotBefore) || s.BeginRefreshAt.Time.After(leaf.NotAfter):
		return refuse("beginRefreshAt must be between notBefore and notAfter")
	}
	return nil
}

// leafOf is the first certificate of a chain that consists of nothing else.
func leafOf(chain string) (*x509.Certificate, error) {
	var leaf *x509.Certificate
	rest := []byte(chain)
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if block.Type != "CERTIFICATE" || err != nil {
			return nil, fmt.Errorf("must consist of valid PEM certificates")
		}
		if leaf == nil {
			leaf = certificate
		}
	}
	if leaf == nil || strings.TrimSpace(string(rest)) != "" {
		return nil, fmt.Errorf("must consist of valid PEM certificates")
	}
	return leaf, nil
}
