package servertest

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"
)

//go:embed objects.yaml
var objects string

// Smallest is the smallest valid object of a kind; authority is the PEM of any certificate authority, for kinds that
// hold one.
func Smallest(kind schema.GroupVersionKind, authority []byte) (*unstructured.Unstructured, error) {
	request, err := signingRequest()
	if err != nil {
		return nil, err
	}
	values := map[string]string{
		"CSR": base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})),
		"DER": base64.StdEncoding.EncodeToString(request),
		"CA":  strings.ReplaceAll(string(authority), "\n", "\\n"),
	}
	for document := range strings.SplitSeq(os.Expand(objects, func(name string) string { return values[name] }), "\n---\n") {
		object := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(document), &object.Object); err != nil {
			return nil, fmt.Errorf("read objects.yaml: %w", err)
		}
		if object.GroupVersionKind() == kind {
			return object, nil
		}
	}
	return nil, fmt.Errorf("servertest/objects.yaml has no %s", kind)
}

func signingRequest() ([]byte, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "test"}}, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return request, nil
}
