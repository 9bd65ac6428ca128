package subresource

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apiserver/pkg/registry/rest"

	"knarr.dev/knarr/appliance/apiserver/kinds"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// Approval is where a certificate signing request is approved or denied.
func Approval(_ *resource.Env, storage *resource.Storage) (rest.Storage, error) {
	return partOf(storage, func(csr, old *certificatesv1.CertificateSigningRequest) {
		conditions := csr.Status.Conditions
		csr.Spec, csr.Status = old.Spec, old.Status
		csr.Status.Conditions = conditions
		kinds.StampConditions(csr, old)
	}, kinds.ValidateCSRStatus), nil
}
