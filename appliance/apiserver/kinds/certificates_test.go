package kinds

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// certificate is one for a key, in PEM, signed by itself.
func certificate(t *testing.T, public crypto.PublicKey, from time.Time, life time.Duration, authority bool) string {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: from, NotAfter: from.Add(life), IsCA: authority, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestTrustBundle(t *testing.T) {
	now := time.Now()
	authority := certificate(t, newKey(t).Public(), now, time.Hour, true)
	leaf := certificate(t, newKey(t).Public(), now, time.Hour, false)
	tests := map[string]struct {
		name, beginning, signer, bundle string
		want                            string
	}{
		"one of nobody's has a plain name":         {name: "example.com.all", bundle: authority},
		"one of a signer carries the signer":       {name: "example.com:web:v1", signer: "example.com/web", bundle: authority},
		"one of a signer cannot hide that":         {name: "v1", signer: "example.com/web", bundle: authority, want: "must be named with prefix example.com:web:"},
		"one of nobody's cannot look like another": {name: "example.com:web:v1", bundle: authority, want: "metadata.name: Invalid value"},
		"a beginning ends as names do not":         {beginning: "example.com:web:v1-", signer: "example.com/web", bundle: authority},
		"a beginning carries the signer too":       {beginning: "v1-", signer: "example.com/web", bundle: authority, want: "metadata.generateName: Invalid value"},
		"a beginning is part of a name":            {name: "a", beginning: "\"", bundle: authority, want: "metadata.generateName: Invalid value"},
		"an empty one is none":                     {name: "a", want: "at least one trust anchor"},
		"only authorities are trusted":             {name: "a", bundle: leaf, want: "entry 0 does not have the CA bit set"},
		"each once":                                {name: "a", bundle: authority + authority, want: "duplicate trust anchor (indices 0 and 1)"},
		"keys are not for publication":             {name: "a", bundle: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY"})), want: "bad block type"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			b := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: tc.name, GenerateName: tc.beginning}, Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: tc.signer, TrustBundle: tc.bundle}}
			expect(t, validateTrustBundle(b), tc.want)
		})
	}
}

func podCertificateRequest(t *testing.T, key crypto.Signer) *certificatesv1.PodCertificateRequest {
	t.Helper()
	stub, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	r := &certificatesv1.PodCertificateRequest{Spec: certificatesv1.PodCertificateRequestSpec{
		SignerName: "example.com/web", PodName: "web", PodUID: "p", ServiceAccountName: "default", ServiceAccountUID: "s", NodeName: "one", NodeUID: "n",
		StubPKCS10Request: stub,
	}}
	defaults.Default(r)
	return r
}

func TestPodCertificateRequest(t *testing.T) {
	tests := map[string]struct {
		change func(*certificatesv1.PodCertificateRequest)
		want   string
	}{
		"a day is the default":                 {change: func(*certificatesv1.PodCertificateRequest) {}},
		"an hour is the least":                 {change: func(r *certificatesv1.PodCertificateRequest) { r.Spec.MaxExpirationSeconds = ptr.To[int32](3599) }, want: "must be >= 3600"},
		"91 days are the most":                 {change: func(r *certificatesv1.PodCertificateRequest) { r.Spec.MaxExpirationSeconds = ptr.To[int32](7862401) }, want: "must be <= 7862400"},
		"the request proves that it has a key": {change: func(r *certificatesv1.PodCertificateRequest) { r.Spec.StubPKCS10Request[70] ^= 1 }, want: "stubPKCS10Request: Invalid value"},
		"it says for which pod":                {change: func(r *certificatesv1.PodCertificateRequest) { r.Spec.PodUID = "" }, want: "spec.podUID: Invalid value: \"\": must not be empty"},
		"a UID has an end":                     {change: func(r *certificatesv1.PodCertificateRequest) { r.Spec.NodeUID = types.UID(strings.Repeat("u", 129)) }, want: "spec.nodeUID: Too long"},
		"it brings a request":                  {change: func(r *certificatesv1.PodCertificateRequest) { r.Spec.StubPKCS10Request = nil }, want: "spec: Invalid value: stubPKCS10Request must be set"},
		"annotations say whose they are": {change: func(r *certificatesv1.PodCertificateRequest) {
			r.Spec.UnverifiedUserAnnotations = map[string]string{"path": "/x"}
		}, want: "must be domain-qualified"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r := podCertificateRequest(t, newKey(t))
			if *r.Spec.MaxExpirationSeconds != 86400 {
				t.Errorf("default life is %d s, want a day", *r.Spec.MaxExpirationSeconds)
			}
			tc.change(r)
			expect(t, validatePodCertificateRequest(r), tc.want)
		})
	}
}

func TestSignersAnswerWhatWasAsked(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	key, other := newKey(t), newKey(t)
	issue := func(chain string, life time.Duration) certificatesv1.PodCertificateRequestStatus {
		from, to := metav1.NewTime(now), metav1.NewTime(now.Add(life))
		return certificatesv1.PodCertificateRequestStatus{
			Conditions:       []metav1.Condition{{Type: "Issued", Status: metav1.ConditionTrue, Reason: "Fine", LastTransitionTime: from}},
			CertificateChain: chain, NotBefore: &from, BeginRefreshAt: &to, NotAfter: &to,
		}
	}
	day := 24 * time.Hour
	good := issue(certificate(t, key.Public(), now, day, false), day)
	denied := certificatesv1.PodCertificateRequestStatus{Conditions: []metav1.Condition{{Type: "Denied", Status: metav1.ConditionTrue}}}
	tests := map[string]struct {
		old, status certificatesv1.PodCertificateRequestStatus
		want        string
	}{
		"a certificate":                   {status: good},
		"a no":                            {status: denied},
		"not both":                        {status: certificatesv1.PodCertificateRequestStatus{Conditions: append(denied.Conditions, good.Conditions...)}, want: "only one of"},
		"one answer is for ever":          {old: denied, status: good, want: "field is immutable"},
		"not for another key":             {status: issue(certificate(t, other.Public(), now, day, false), day), want: "not issued to the requested public key"},
		"not for longer than asked":       {status: issue(certificate(t, key.Public(), now, 2*day, false), 2*day), want: "must be <= spec.maxExpirationSeconds"},
		"not for less than an hour":       {status: issue(certificate(t, key.Public(), now, time.Minute, false), time.Minute), want: "must be >= 1 hour"},
		"its times are the certificate's": {status: issue(certificate(t, key.Public(), now, day, false), 2*time.Hour), want: "must be those of the leaf"},
		"no certificate without a yes":    {status: certificatesv1.PodCertificateRequestStatus{CertificateChain: "x"}, want: `need the "Issued" condition`},
		"nothing but certificates":        {status: issue("x", day), want: "must consist of valid PEM certificates"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			old := podCertificateRequest(t, key)
			r := old.DeepCopy()
			old.Status, r.Status = tc.old, tc.status
			expect(t, validateAnswer(r, old, now), tc.want)
		})
	}
}
