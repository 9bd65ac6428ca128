package kinds

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// minCertificateSeconds is the shortest life a certificate can be asked to have.
const minCertificateSeconds = 600

// CertificateSigningRequest records who asked; nothing of the request changes after that.
var CertificateSigningRequest = resource.Hooks[*certificatesv1.CertificateSigningRequest]{
	PrepareCreate: func(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) {
		csr.Spec.Username, csr.Spec.UID, csr.Spec.Groups, csr.Spec.Extra = "", "", nil, nil
		if user, ok := genericapirequest.UserFrom(ctx); ok {
			csr.Spec.Username, csr.Spec.UID, csr.Spec.Groups = user.GetName(), user.GetUID(), user.GetGroups()
			for key, value := range user.GetExtra() {
				if csr.Spec.Extra == nil {
					csr.Spec.Extra = map[string]certificatesv1.ExtraValue{}
				}
				csr.Spec.Extra[key] = value
			}
		}
		csr.Status = certificatesv1.CertificateSigningRequestStatus{}
	},
	PrepareUpdate: func(_ context.Context, csr, old *certificatesv1.CertificateSigningRequest) { csr.Spec = old.Spec },
	PrepareStatus: func(_ context.Context, csr, old *certificatesv1.CertificateSigningRequest) {
		// Signers write the certificate; only the approval subresource decides.
		decisions := decisionsOf(old.Status.Conditions)
		others := slices.DeleteFunc(slices.Clone(csr.Status.Conditions), isDecision)
		csr.Status.Conditions = append(decisions, others...)
		StampConditions(csr, old)
	},
	Validate: always(validateCSR),
	ValidateUpdate: func(context.Context, *certificatesv1.CertificateSigningRequest, *certificatesv1.CertificateSigningRequest) field.ErrorList {
		return nil
	},
	ValidateStatus: func(_ context.Context, csr, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
		return ValidateCSRStatus(csr, old)
	},
	ValidateName: anyName,
	Fields: func(csr *certificatesv1.CertificateSigningRequest) fields.Set {
		return fields.Set{"spec.signerName": csr.Spec.SignerName}
	},
}

func isDecision(c certificatesv1.CertificateSigningRequestCondition) bool {
	return c.Type == certificatesv1.CertificateApproved || c.Type == certificatesv1.CertificateDenied
}

func decisionsOf(conditions []certificatesv1.CertificateSigningRequestCondition) []certificatesv1.CertificateSigningRequestCondition {
	return slices.DeleteFunc(slices.Clone(conditions), func(c certificatesv1.CertificateSigningRequestCondition) bool { return !isDecision(c) })
}

// StampConditions dates conditions that are new or changed.
func StampConditions(csr, old *certificatesv1.CertificateSigningRequest) {
	now := metav1.Now()
	for i := range csr.Status.Conditions {
		c := &csr.Status.Conditions[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		for _, before := range old.Status.Conditions {
			if before.Type == c.Type && before.Status == c.Status && !before.LastTransitionTime.IsZero() {
				c.LastTransitionTime = before.LastTransitionTime
			}
		}
	}
}

// usages a key can have.
var usages = []certificatesv1.KeyUsage{
	certificatesv1.UsageSigning, certificatesv1.UsageDigitalSignature, certificatesv1.UsageContentCommitment, certificatesv1.UsageKeyEncipherment,
	certificatesv1.UsageKeyAgreement, certificatesv1.UsageDataEncipherment, certificatesv1.UsageCertSign, certificatesv1.UsageCRLSign,
	certificatesv1.UsageEncipherOnly, certificatesv1.UsageDecipherOnly, certificatesv1.UsageAny, certificatesv1.UsageServerAuth,
	certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning, certificatesv1.UsageEmailProtection, certificatesv1.UsageSMIME,
	certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel, certificatesv1.UsageIPsecUser, certificatesv1.UsageTimestamping,
	certificatesv1.UsageOCSPSigning, certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC,
}

func validateCSR(csr *certificatesv1.CertificateSigningRequest) field.ErrorList {
	var errs field.ErrorList
	if block, _ := pem.Decode(csr.Spec.Request); block == nil || block.Type != "CERTIFICATE REQUEST" {
		errs = append(errs, field.Invalid(specPath.Child("request"), csr.Spec.Request, "PEM block type must be CERTIFICATE REQUEST"))
	} else if request, err := x509.ParseCertificateRequest(block.Bytes); err != nil {
		errs = append(errs, field.Invalid(specPath.Child("request"), csr.Spec.Request, fmt.Sprintf("%v", err)))
	} else if err := request.CheckSignature(); err != nil {
		errs = append(errs, field.Invalid(specPath.Child("request"), csr.Spec.Request, fmt.Sprintf("%v", err)))
	}
	if len(csr.Spec.Usages) == 0 {
		errs = append(errs, field.Required(specPath.Child("usages"), ""))
	}
	for i, usage := range csr.Spec.Usages {
		errs = append(errs, check.OneOf(specPath.Child("usages").Index(i), usage, usages...)...)
	}
	errs = append(errs, check.Unique(specPath.Child("usages"), csr.Spec.Usages, func(u certificatesv1.KeyUsage) certificatesv1.KeyUsage { return u }, "")...)
	if seconds := csr.Spec.ExpirationSeconds; seconds != nil && *seconds < minCertificateSeconds {
		errs = append(errs, field.Invalid(specPath.Child("expirationSeconds"), *seconds, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	return append(errs, validateSigner(csr.Spec.SignerName, specPath.Child("signerName"))...)
}

// validateSigner wants a domain with a dot and a path: example.com/signer.
func validateSigner(name string, at *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	domain, path, found := strings.Cut(name, "/")
	if !found || strings.Contains(path, "/") {
		return field.ErrorList{field.Invalid(at, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	errs := check.Text(at, domain, check.Subdomain)
	if !strings.Contains(domain, ".") {
		errs = append(errs, field.Invalid(at, domain, "should be a domain with at least two segments separated by dots"))
	}
	return append(errs, check.Text(at, path, check.Subdomain)...)
}

// ValidateCSRStatus keeps decisions and certificates for ever: somebody may already have acted on them.
func ValidateCSRStatus(csr, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	conditions := statusPath.Child("conditions")
	errs := check.Unique(conditions, csr.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) certificatesv1.RequestConditionType {
		return c.Type
	}, "type")
	has := map[certificatesv1.RequestConditionType]bool{}
	for i, c := range csr.Status.Conditions {
		at := conditions.Index(i)
		has[c.Type] = true
		switch {
		case c.Type == "":
			errs = append(errs, field.Required(at.Child("type"), ""))
		case c.Status == "":
			errs = append(errs, field.Required(at.Child("status"), ""))
		case (isDecision(c) || c.Type == certificatesv1.CertificateFailed) && c.Status != "True":
			errs = append(errs, field.NotSupported(at.Child("status"), c.Status, []string{"True"}))
		}
	}
	if has[certificatesv1.CertificateApproved] && has[certificatesv1.CertificateDenied] {
		errs = append(errs, field.Invalid(conditions, certificatesv1.CertificateDenied, "Approved and Denied conditions are mutually exclusive"))
	}
	for _, before := range old.Status.Conditions {
		if (isDecision(before) || before.Type == certificatesv1.CertificateFailed) && !has[before.Type] {
			errs = append(errs, field.Forbidden(conditions, fmt.Sprintf("updates may not remove a condition of type %q", before.Type)))
		}
	}
	if len(old.Status.Certificate) > 0 {
		errs = append(errs, check.Unchanged(statusPath.Child("certificate"), csr.Status.Certificate, old.Status.Certificate)...)
	} else if len(csr.Status.Certificate) > 0 {
		if block, _ := pem.Decode(csr.Status.Certificate); block == nil || block.Type != "CERTIFICATE" {
			errs = append(errs, field.Invalid(statusPath.Child("certificate"), "<certificate data>", "must contain at least one CERTIFICATE PEM block"))
		}
	}
	return errs
}
