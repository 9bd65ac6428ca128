package authn

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	clocktesting "k8s.io/utils/clock/testing"
)

// authority signs client certificates.
type authority struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{key: key}
	a.certificate = a.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: "CA"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(time.Hour)})
	return a
}

func (a *authority) sign(t *testing.T, template *x509.Certificate) *x509.Certificate {
	t.Helper()
	template.SerialNumber, template.NotBefore = big.NewInt(1), time.Now().Add(-time.Hour)
	parent := a.certificate
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func (a *authority) client(t *testing.T, name string, end time.Time) *x509.Certificate {
	return a.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name, Organization: []string{"crew"}}, NotAfter: end, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// counted is how often signatures were checked.
type counted struct {
	authenticator.Request
	times int
}

func (c *counted) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	c.times++
	return c.Request.AuthenticateRequest(req)
}

func TestCertificates(t *testing.T) {
	ours, theirs := newAuthority(t), newAuthority(t)
	pool := ours.pool()
	roots := func() (x509.VerifyOptions, bool) {
		return x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, pool != nil
	}
	leif, brief := ours.client(t, "leif", time.Now().Add(time.Hour)), ours.client(t, "brief", time.Now().Add(10*time.Second))
	stranger := theirs.client(t, "leif", time.Now().Add(time.Hour))

	c := NewCertificates(roots)
	checks := &counted{Request: c.check}
	clock := clocktesting.NewFakePassiveClock(time.Now())
	c.check, c.clock = checks, clock

	steps := []struct {
		name    string
		before  func()
		shows   *x509.Certificate
		user    string // "": refused
		checked bool
	}{
		{"a certificate is checked when it is first seen", nil, leif, "leif", true},
		{"and known from then on", nil, leif, "leif", false},
		{"another one of the same authority is not it", nil, brief, "brief", true},
		{"one of another authority is refused", nil, stranger, "", true},
		{"every time", nil, stranger, "", true},
		{"a certificate that has ended is checked again", func() { clock.SetTime(clock.Now().Add(30 * time.Second)) }, brief, "brief", true},
		{"one that has not is known still", nil, leif, "leif", false},
		{"but not for long", func() { clock.SetTime(clock.Now().Add(certificateHolds)) }, leif, "leif", true},
		{"other authorities are another question", func() { pool = theirs.pool() }, leif, "", true},
		{"whoever they are", nil, stranger, "leif", true},
		{"without authorities there are no certificates", func() { pool = nil }, stranger, "", false},
		{"nor without one", nil, nil, "", false},
	}
	for _, step := range steps {
		if step.before != nil {
			step.before()
		}
		req := &http.Request{TLS: &tls.ConnectionState{}}
		if step.shows != nil {
			req.TLS.PeerCertificates = []*x509.Certificate{step.shows}
		}
		before := checks.times
		response, ok, _ := c.AuthenticateRequest(req)
		if user := name(response); ok != (step.user != "") || user != step.user {
			t.Errorf("%s: %q, %v; want %q", step.name, user, ok, step.user)
		}
		if checked := checks.times > before; checked != step.checked {
			t.Errorf("%s: checked = %v", step.name, checked)
		}
	}
}

func name(r *authenticator.Response) string {
	if r == nil {
		return ""
	}
	return r.User.GetName()
}
