package certificates

import (
	"encoding/pem"
	"time"

	"crypto/x509"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// How long a request stays to be looked at.
const (
	keepDecided = time.Hour
	keepPending = 24 * time.Hour
)

// remaining is how long a request is kept; what is not positive goes now.
func remaining(csr *certificatesv1.CertificateSigningRequest, now time.Time) time.Duration {
	if end := certificateEnd(csr.Status.Certificate); !end.IsZero() && now.After(end) {
		return 0
	}
	since, keep := csr.CreationTimestamp.Time, keepPending
	for _, condition := range csr.Status.Conditions {
		// An approval alone is not the end: the signer may be somebody else's and slow.
		final := condition.Type != certificatesv1.CertificateApproved || len(csr.Status.Certificate) > 0
		if final && condition.LastUpdateTime.After(since) {
			since = condition.LastUpdateTime.Time
		}
		if final {
			keep = keepDecided
		}
	}
	return since.Add(keep).Sub(now)
}

func certificateEnd(content []byte) time.Time {
	block, _ := pem.Decode(content)
	if block == nil {
		return time.Time{}
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}
	}
	return cert.NotAfter
}
