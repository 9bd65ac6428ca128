package admission

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

// certificateApproval wants approvers to be allowed to approve for the signer, not merely to write the path.
func certificateApproval(env *resource.Env) *rule {
	return &rule{
		Handler: admission.NewHandler(admission.Update),
		on:      []string{"certificatesigningrequests/approval"},
		validate: func(ctx context.Context, a admission.Attributes) error {
			csr, err := object[*certificatesv1.CertificateSigningRequest](a)
			if err != nil {
				return err
			}
			return mayUseSigner(ctx, env.Authorizer, a, "approve", csr.Spec.SignerName)
		},
	}
}

// certificateSigning wants the same of those who write a certificate or say that signing failed.
func certificateSigning(env *resource.Env) *rule {
	return &rule{
		Handler: admission.NewHandler(admission.Update),
		on:      []string{"certificatesigningrequests/status"},
		validate: func(ctx context.Context, a admission.Attributes) error {
			csr, err := object[*certificatesv1.CertificateSigningRequest](a)
			if err != nil {
				return err
			}
			old, ok := a.GetOldObject().(*certificatesv1.CertificateSigningRequest)
			if ok && bytes.Equal(old.Status.Certificate, csr.Status.Certificate) && slices.Equal(old.Status.Conditions, csr.Status.Conditions) {
				return nil
			}
			return mayUseSigner(ctx, env.Authorizer, a, "sign", csr.Spec.SignerName)
		},
	}
}

// podCertificateSigning wants the same of those who answer for a pod's certificate.
func podCertificateSigning(env *resource.Env) *rule {
	return &rule{
		Handler: admission.NewHandler(admission.Update),
		on:      []string{"podcertificaterequests/status"},
		validate: func(ctx context.Context, a admission.Attributes) error {
			request, err := object[*certificatesv1.PodCertificateRequest](a)
			if err != nil {
				return err
			}
			return mayUseSigner(ctx, env.Authorizer, a, "sign", request.Spec.SignerName)
		},
	}
}

// trustBundleAttest wants those who say what a signer's certificates are to be allowed to speak for the signer.
func trustBundleAttest(env *resource.Env) *rule {
	return &rule{
		Handler: admission.NewHandler(admission.Create, admission.Update),
		on:      []string{"clustertrustbundles"},
		validate: func(ctx context.Context, a admission.Attributes) error {
			bundle, err := object[*certificatesv1.ClusterTrustBundle](a)
			if err != nil || bundle.Spec.SignerName == "" {
				return err
			}
			return mayUseSigner(ctx, env.Authorizer, a, "attest", bundle.Spec.SignerName)
		},
	}
}

// mayUseSigner asks for the signer by its name, then for all of its domain.
func mayUseSigner(ctx context.Context, authz authorizer.Authorizer, a admission.Attributes, verb, signer string) error {
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		decision, _, err := authz.Authorize(ctx, authorizer.AttributesRecord{
			User: a.GetUserInfo(), Verb: verb, APIGroup: certificatesv1.GroupName, APIVersion: "*", Resource: "signers", Name: name, ResourceRequest: true,
		})
		if err == nil && decision == authorizer.DecisionAllow {
			return nil
		}
	}
	return admission.NewForbidden(a, fmt.Errorf("user not permitted to %s for signerName %q", verb, signer))
}

// certificateSubjects refuses requests for client certificates of the administrators' group: nobody could take
// such a certificate back.
func certificateSubjects() *rule {
	return &rule{
		Handler: admission.NewHandler(admission.Create),
		on:      []string{"certificatesigningrequests"},
		validate: func(_ context.Context, a admission.Attributes) error {
			csr, err := object[*certificatesv1.CertificateSigningRequest](a)
			if err != nil || csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
				return err
			}
			block, _ := pem.Decode(csr.Spec.Request)
			if block == nil {
				return nil // validation's to report
			}
			request, err := x509.ParseCertificateRequest(block.Bytes)
			if err != nil {
				return admission.NewForbidden(a, fmt.Errorf("failed to parse CSR: %w", err))
			}
			if slices.Contains(request.Subject.Organization, user.SystemPrivilegedGroup) {
				return admission.NewForbidden(a, errors.New("use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"))
			}
			return nil
		},
	}
}
