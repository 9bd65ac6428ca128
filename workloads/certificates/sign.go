package certificates

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"knarr.dev/knarr/bootstrap/pki"
)

const (
	defaultLifetime = 365 * 24 * time.Hour
	shortest        = 10 * time.Minute
	// backdate lets machines whose clocks are a little behind use a certificate at once.
	backdate = 5 * time.Minute
)

// Signers are the authorities behind the well-known signers.
type Signers struct {
	Client  *pki.Pair // kubernetes.io/kube-apiserver-client and ...-kubelet
	Serving *pki.Pair // kubernetes.io/kubelet-serving
}

func (s Signers) of(signer string) *pki.Pair {
	switch signer {
	case certificatesv1.KubeAPIServerClientSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName:
		return s.Client
	case certificatesv1.KubeletServingSignerName:
		return s.Serving
	}
	return nil
}

// parse reads the request in a CSR and checks that its author has the key.
func parse(csr *certificatesv1.CertificateSigningRequest) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("the request is not PEM of type CERTIFICATE REQUEST")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the request: %w", err)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("check the request's signature: %w", err)
	}
	return request, nil
}

// template is the certificate for a request that is signable.
func template(spec *certificatesv1.CertificateSigningRequestSpec, request *x509.CertificateRequest, ca *x509.Certificate, now time.Time) *x509.Certificate {
	lifetime := defaultLifetime
	if spec.ExpirationSeconds != nil {
		lifetime = min(max(time.Duration(*spec.ExpirationSeconds)*time.Second, shortest), defaultLifetime)
	}
	cert := &x509.Certificate{
		Subject:               request.Subject,
		DNSNames:              request.DNSNames,
		IPAddresses:           request.IPAddresses,
		EmailAddresses:        request.EmailAddresses,
		URIs:                  request.URIs,
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(lifetime),
		BasicConstraintsValid: true,
	}
	if cert.NotAfter.After(ca.NotAfter) {
		cert.NotAfter = ca.NotAfter
	}
	for _, usage := range spec.Usages {
		switch usage {
		case certificatesv1.UsageDigitalSignature:
			cert.KeyUsage |= x509.KeyUsageDigitalSignature
		case certificatesv1.UsageKeyEncipherment:
			cert.KeyUsage |= x509.KeyUsageKeyEncipherment
		case certificatesv1.UsageClientAuth:
			cert.ExtKeyUsage = append(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
		case certificatesv1.UsageServerAuth:
			cert.ExtKeyUsage = append(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		}
	}
	return cert
}

// sign returns the certificate in PEM.
func sign(template *x509.Certificate, request *x509.CertificateRequest, ca *pki.Pair) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	template.SerialNumber = serial
	raw, err := x509.CreateCertificate(rand.Reader, template, ca.Cert, request.PublicKey, ca.Key)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: raw}), nil
}
