package join

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"

	"knarr.dev/knarr/bootstrap/durable"
	"knarr.dev/knarr/bootstrap/pki"
)

// wanted is a certificate to ask for.
type wanted struct {
	signer   string
	usage    certificatesv1.KeyUsage
	template x509.CertificateRequest
}

func (m *Member) subject() pkix.Name {
	return pkix.Name{CommonName: pki.NodeUserPrefix + m.nodeName, Organization: []string{pki.NodesGroup}}
}

func (m *Member) clientRequest() wanted {
	return wanted{
		signer: certificatesv1.KubeAPIServerClientKubeletSignerName, usage: certificatesv1.UsageClientAuth,
		template: x509.CertificateRequest{Subject: m.subject()},
	}
}

func (m *Member) servingRequest() wanted {
	return wanted{
		signer: certificatesv1.KubeletServingSignerName, usage: certificatesv1.UsageServerAuth,
		template: x509.CertificateRequest{Subject: m.subject(), DNSNames: []string{m.nodeName}, IPAddresses: m.nodeIPs},
	}
}

// request asks for a certificate with a new key and waits until it is there or refused.
func request(ctx context.Context, client kubernetes.Interface, want wanted) (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	raw, err := x509.CreateCertificateRequest(rand.Reader, &want.template, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a certificate request: %w", err)
	}
	requests := client.CertificatesV1().CertificateSigningRequests()
	made, err := requests.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "node-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: raw}),
			SignerName: want.signer,
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, want.usage},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("ask for a certificate: %w", err)
	}
	cert, err := await(ctx, client, made)
	if err != nil {
		return nil, nil, err
	}
	parsed, err := pki.ParseCerts(cert)
	if err != nil {
		return nil, nil, fmt.Errorf("read the certificate of request %s: %w", made.Name, err)
	}
	if !key.PublicKey.Equal(parsed[0].PublicKey) {
		return nil, nil, fmt.Errorf("the certificate of request %s is for another key", made.Name)
	}
	return key, cert, nil
}

// await watches one request from where it was made.
func await(ctx context.Context, client kubernetes.Interface, csr *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	requests := client.CertificatesV1().CertificateSigningRequests()
	for {
		if cert, done, err := answer(csr); done {
			return cert, err
		}
		watch, err := requests.Watch(ctx, metav1.ListOptions{
			FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, csr.Name).String(), ResourceVersion: csr.ResourceVersion,
		})
		if err != nil {
			return nil, waited(ctx, csr.Name, err)
		}
		for event := range watch.ResultChan() {
			seen, ok := event.Object.(*certificatesv1.CertificateSigningRequest)
			if !ok {
				break
			}
			if cert, done, err := answer(seen); done {
				watch.Stop()
				return cert, err
			}
		}
		watch.Stop()
		// The server ended the watch: look again before the next one.
		if csr, err = requests.Get(ctx, csr.Name, metav1.GetOptions{}); err != nil {
			return nil, waited(ctx, csr.Name, err)
		}
	}
}

func waited(ctx context.Context, name string, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("nobody approved certificate request %s: look at it with `knarr kubectl describe csr %s` on a server", name, name)
	}
	return fmt.Errorf("wait for certificate request %s: %w", name, err)
}

// answer is what became of a request.
func answer(csr *certificatesv1.CertificateSigningRequest) (cert []byte, done bool, err error) {
	if len(csr.Status.Certificate) > 0 {
		return csr.Status.Certificate, true, nil
	}
	for _, condition := range csr.Status.Conditions {
		switch condition.Type {
		case certificatesv1.CertificateDenied:
			return nil, true, fmt.Errorf("the certificate was denied: %s", condition.Message)
		case certificatesv1.CertificateFailed:
			return nil, true, fmt.Errorf("the certificate could not be signed: %s", condition.Message)
		}
	}
	return nil, false, nil
}

// nextPair ends the name of a file that holds a key and its certificate until both are in their own files.
const nextPair = ".next"

// storePair replaces a key and its certificate. They are two files, and a node whose client certificate does not fit its
// key would need a token again: so both are safe in one file before the first of the two changes.
func storePair(dir, file string, key crypto.Signer, cert []byte) error {
	content, err := pki.MarshalKey(key)
	if err != nil {
		return err
	}
	if err := durable.Write(filepath.Join(dir, file+nextPair), append(content, cert...), 0o600); err != nil {
		return err
	}
	return finishPair(dir, file)
}

// finishPair ends what storePair began, now or before a power cut.
func finishPair(dir, file string) error {
	path := filepath.Join(dir, file)
	content, err := os.ReadFile(path + nextPair)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the new key: %w", err)
	}
	key, cert := pem.Decode(content)
	if key == nil {
		return fmt.Errorf("%s is damaged: delete it and start again", path+nextPair)
	}
	if err := durable.Write(path+".key", pem.EncodeToMemory(key), 0o600); err != nil {
		return err
	}
	if err := durable.Write(path+".crt", cert, 0o600); err != nil {
		return err
	}
	if err := os.Remove(path + nextPair); err != nil {
		return fmt.Errorf("remove what is stored elsewhere: %w", err)
	}
	return nil
}
