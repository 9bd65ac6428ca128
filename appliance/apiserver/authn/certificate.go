package authn

import (
	"crypto/x509"
	"net/http"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	requestx509 "k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/utils/clock"
	"k8s.io/utils/lru"
)

// Certificates tells who a client is by its certificate.
//
// Checking a chain of signatures takes longer than all else a small read needs, and a connection shows the same
// certificate with every request; so an answer holds for a while. What could change it meanwhile is asked each time or
// is slower than that: the certificate's own end, the authorities (a new file is a new pool), an authority's end.
type Certificates struct {
	check authenticator.Request
	roots requestx509.VerifyOptionFunc
	known *lru.Cache
	clock clock.PassiveClock
}

const (
	certificateHolds = time.Minute
	certificatesKept = 1024 // those of the nodes and a few more; a parsed certificate is about 3 KB
)

// shown is a certificate that was checked against a pool. Both are never changed once they are made, so that their
// addresses stand for what they hold.
type shown struct {
	certificate *x509.Certificate
	roots       *x509.CertPool
}

type known struct {
	response authenticator.Response
	until    time.Time
}

// NewCertificates asks roots for the authorities at each request.
func NewCertificates(roots requestx509.VerifyOptionFunc) *Certificates {
	return &Certificates{
		check: requestx509.NewDynamic(roots, requestx509.CommonNameUserConversion),
		roots: roots, known: lru.New(certificatesKept), clock: clock.RealClock{},
	}
}

// AuthenticateRequest implements authenticator.Request.
func (c *Certificates) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	if req.TLS == nil || len(req.TLS.PeerCertificates) == 0 {
		return nil, false, nil
	}
	options, ok := c.roots()
	if !ok {
		return nil, false, nil
	}
	key, now := shown{req.TLS.PeerCertificates[0], options.Roots}, c.clock.Now()
	if found, ok := c.known.Get(key); ok {
		if k := found.(known); now.Before(k.until) {
			response := k.response
			return &response, true, nil
		}
	}
	response, ok, err := c.check.AuthenticateRequest(req)
	if err == nil && ok {
		until := now.Add(certificateHolds)
		if end := key.certificate.NotAfter; end.Before(until) {
			until = end
		}
		c.known.Add(key, known{*response, until})
	}
	return response, ok, err
}
