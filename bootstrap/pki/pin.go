package pki

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
)

// Pin is the fingerprint of an authority's public key: SHA-256 of its SubjectPublicKeyInfo, in URL-safe base64.
// It is of the key rather than the certificate, so that a certificate signed anew keeps it.
func Pin(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}
