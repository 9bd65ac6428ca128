package certificates

import (
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/bootstrap/pki"
)

// Usages a signer takes. Key encipherment is for RSA keys, and other clients than ours ask for it out of habit.
var (
	clientUsages  = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageClientAuth}
	servingUsages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageServerAuth}
)

// signable returns what forbids a signer to sign a request, "" when nothing does. An approval does not excuse it:
// the API promises what a certificate of a well-known signer means.
func signable(signer string, usages []certificatesv1.KeyUsage, request *x509.CertificateRequest) string {
	switch signer {
	case certificatesv1.KubeAPIServerClientSignerName:
		return clientSignable(usages, request)
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		if reason := nodeSubject(request); reason != "" {
			return reason
		}
		if hasNames(request) {
			return "a node's client certificate has no alternative names"
		}
		return only(usages, clientUsages, certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth)
	case certificatesv1.KubeletServingSignerName:
		if reason := nodeSubject(request); reason != "" {
			return reason
		}
		switch {
		case len(request.DNSNames)+len(request.IPAddresses) == 0:
			return "a serving certificate needs DNS names or addresses"
		case len(request.EmailAddresses)+len(request.URIs) > 0:
			return "a serving certificate has no e-mail addresses or URIs"
		}
		return only(usages, servingUsages, certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth)
	}
	return fmt.Sprintf("signer %s is not ours", signer)
}

func clientSignable(usages []certificatesv1.KeyUsage, request *x509.CertificateRequest) string {
	if slices.Contains(request.Subject.Organization, pki.MastersGroup) {
		return fmt.Sprintf("group %s cannot be requested", pki.MastersGroup)
	}
	return only(usages, clientUsages, certificatesv1.UsageClientAuth)
}

// only reports usages beyond the allowed or short of the needed ones.
func only(usages, allowed []certificatesv1.KeyUsage, needed ...certificatesv1.KeyUsage) string {
	for _, usage := range usages {
		if !slices.Contains(allowed, usage) {
			return fmt.Sprintf("usage %q is not allowed", usage)
		}
	}
	for _, usage := range needed {
		if !slices.Contains(usages, usage) {
			return fmt.Sprintf("usage %q is missing", usage)
		}
	}
	return ""
}

func nodeSubject(request *x509.CertificateRequest) string {
	switch {
	case !slices.Equal(request.Subject.Organization, []string{pki.NodesGroup}):
		return fmt.Sprintf("the organization must be %s alone", pki.NodesGroup)
	case nodeName(request) == "":
		return fmt.Sprintf("the common name must be %sNAME", pki.NodeUserPrefix)
	}
	return ""
}

// nodeName is the node a request is for, "" for none.
func nodeName(request *x509.CertificateRequest) string {
	name, ok := strings.CutPrefix(request.Subject.CommonName, pki.NodeUserPrefix)
	if !ok {
		return ""
	}
	return name
}

func hasNames(request *x509.CertificateRequest) bool {
	return len(request.DNSNames)+len(request.IPAddresses)+len(request.EmailAddresses)+len(request.URIs) > 0
}

// verdict on a request nobody has decided about.
type verdict struct {
	condition       certificatesv1.RequestConditionType // Approved, Denied, or "" to leave it alone
	reason, message string
}

// permissions are asked of the API server's authorizer, so that an administrator can take them away.
const (
	newNode   = "nodeclient"     // to become a node
	sameNode  = "selfnodeclient" // to stay the node one is
	noInquiry = ""
)

// inquiry is the permission an approval depends on.
func inquiry(csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest) string {
	if csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName || signable(csr.Spec.SignerName, csr.Spec.Usages, request) != "" {
		return noInquiry
	}
	if csr.Spec.Username == request.Subject.CommonName {
		return sameNode
	}
	return newNode
}

// judgeClient decides on a node's client certificate. alive says that a node of that name reports to the cluster now.
func judgeClient(csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest, permitted, alive bool) verdict {
	asked := inquiry(csr, request)
	switch {
	case asked == noInquiry || !permitted:
		return verdict{} // for a person to decide
	case asked == newNode && alive:
		return verdict{certificatesv1.CertificateDenied, "NodeIsAlive", fmt.Sprintf(
			"a node named %[1]s is in this cluster and alive: give the new machine another name, or stop the old one and run `knarr kubectl delete node %[1]s`",
			nodeName(request))}
	case asked == newNode:
		return verdict{certificatesv1.CertificateApproved, "AutoApproved", "Auto approving kubelet client certificate after SubjectAccessReview."}
	}
	return verdict{certificatesv1.CertificateApproved, "AutoApproved", "Auto approving self kubelet client certificate after SubjectAccessReview."}
}

// judgeServing decides on the certificate of a node's own API: the node asks itself, and only for what it is known by.
// node is nil while it has not registered.
func judgeServing(csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest, node *corev1.Node) verdict {
	if csr.Spec.SignerName != certificatesv1.KubeletServingSignerName || signable(csr.Spec.SignerName, csr.Spec.Usages, request) != "" {
		return verdict{}
	}
	if csr.Spec.Username != request.Subject.CommonName || !slices.Contains(csr.Spec.Groups, pki.NodesGroup) {
		return verdict{}
	}
	if node == nil {
		return verdict{}
	}
	names, addresses := []string{node.Name, "localhost"}, []net.IP{}
	for _, a := range node.Status.Addresses {
		if ip := net.ParseIP(a.Address); ip != nil {
			addresses = append(addresses, ip)
		} else {
			names = append(names, a.Address)
		}
	}
	for _, name := range request.DNSNames {
		if !slices.Contains(names, name) {
			return verdict{} // the node may still come to report it; people can see and decide meanwhile
		}
	}
	for _, ip := range request.IPAddresses {
		if !ip.IsLoopback() && !slices.ContainsFunc(addresses, ip.Equal) {
			return verdict{}
		}
	}
	return verdict{certificatesv1.CertificateApproved, "AutoApproved", "a node serves under its own names and addresses"}
}
