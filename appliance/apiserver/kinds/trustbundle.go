package kinds

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// ClusterTrustBundle holds certificates that pods may trust.
var ClusterTrustBundle = resource.Hooks[*certificatesv1.ClusterTrustBundle]{
	NeedResourceVersion: true,
	Validate:            always(validateTrustBundle),
	ValidateUpdate: onUpdate(validateTrustBundle, func(b, old *certificatesv1.ClusterTrustBundle) field.ErrorList {
		return check.Unchanged(specPath.Child("signerName"), b.Spec.SignerName, old.Spec.SignerName)
	}),
	ValidateName: anyName, // what is right depends on the signer: bundleName
	Fields: func(b *certificatesv1.ClusterTrustBundle) fields.Set {
		return fields.Set{"spec.signerName": b.Spec.SignerName}
	},
}

func validateTrustBundle(b *certificatesv1.ClusterTrustBundle) field.ErrorList {
	var errs field.ErrorList
	if b.Spec.SignerName != "" {
		errs = append(errs, validateSigner(b.Spec.SignerName, specPath.Child("signerName"))...)
	}
	for _, name := range []struct {
		field, value string
		prefix       bool
	}{{"name", b.Name, false}, {"generateName", b.GenerateName, true}} {
		if name.value != "" { // a name that is missing is reported for every kind
			errs = append(errs, check.Text(metaPath.Child(name.field), name.value, bundleName(b.Spec.SignerName, name.prefix))...)
		}
	}
	return append(errs, validateAnchors(b.Spec.TrustBundle, specPath.Child("trustBundle"))...)
}

// bundleName is the rule for names of a signer's bundles. They carry the signer's name, so that one who may name bundles
// freely can't speak for a signer.
func bundleName(signer string, beginning bool) func(string) []string {
	return func(name string) []string {
		if signer != "" {
			prefix := strings.ReplaceAll(signer, "/", ":") + ":"
			rest, ok := strings.CutPrefix(name, prefix)
			if !ok {
				return []string{fmt.Sprintf("ClusterTrustBundle for signerName %s must be named with prefix %s", signer, prefix)}
			}
			name = rest
		}
		return apivalidation.NameIsDNSSubdomain(name, beginning)
	}
}

// validateAnchors wants nothing but certificates of authorities, each once.
func validateAnchors(bundle string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	bad := func(format string, args ...any) {
		errs = append(errs, field.Invalid(at, "<value omitted>", fmt.Sprintf(format, args...)))
	}
	seen := map[string]int{}
	rest := []byte(bundle)
	for i := 0; ; i++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if first, again := seen[string(block.Bytes)]; again {
			bad("duplicate trust anchor (indices %d and %d)", first, i)
		}
		seen[string(block.Bytes)] = i
		switch certificate, err := x509.ParseCertificate(block.Bytes); {
		case block.Type != "CERTIFICATE":
			bad("entry %d has bad block type: %v", i, block.Type)
		case len(block.Headers) > 0:
			bad("entry %d has PEM block headers", i)
		case err != nil:
			bad("entry %d does not parse as X.509", i)
		case !certificate.IsCA:
			bad("entry %d does not have the CA bit set", i)
		}
	}
	switch {
	case len(seen) == 0:
		bad("at least one trust anchor must be provided")
	case strings.TrimSpace(string(rest)) != "":
		bad("non-PEM data after the last entry")
	}
	return errs
}
