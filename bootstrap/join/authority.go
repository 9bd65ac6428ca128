package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"time"

	"knarr.dev/knarr/bootstrap/pki"
)

// findAuthority shakes hands with a server and returns the authority that the pin names, once the server has proven
// to hold a certificate of it. Servers present the authority's certificate after their own, so that no request has to
// be sent, least of all the token, before the server is known.
func findAuthority(ctx context.Context, server, pin string, now time.Time) (*x509.Certificate, error) {
	address, err := url.Parse(server)
	if err != nil {
		return nil, fmt.Errorf("read address: %w", err)
	}
	port := address.Port()
	if port == "" {
		port = "443"
	}
	var authority *x509.Certificate
	var untrusted error
	dialer := &tls.Dialer{Config: &tls.Config{
		MinVersion:         tls.VersionTLS12,
		ServerName:         address.Hostname(),
		InsecureSkipVerify: true, // the pin takes the place of roots, below
		VerifyConnection: func(state tls.ConnectionState) error {
			authority, untrusted = pinned(state.PeerCertificates, pin, address.Hostname(), now)
			return untrusted
		},
	}}
	conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(address.Hostname(), port))
	if untrusted != nil {
		return nil, untrusted
	}
	if err != nil {
		return nil, unreachable(server, err)
	}
	return authority, conn.Close()
}

// pinned finds the authority among what a server presented and checks the server's certificate against it.
func pinned(presented []*x509.Certificate, pin, host string, now time.Time) (*x509.Certificate, error) {
	for _, ca := range presented[1:] {
		if !ca.IsCA || pki.Pin(ca) != pin {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(ca)
		_, err := presented[0].Verify(x509.VerifyOptions{
			Roots: roots, DNSName: host, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		})
		var expired x509.CertificateInvalidError
		var name x509.HostnameError
		switch {
		case errors.As(err, &expired) && expired.Reason == x509.Expired:
			return nil, fmt.Errorf("the server's certificate is not valid at %s: compare the clocks of both machines (%w)", now.UTC().Format(time.RFC3339), err)
		case errors.As(err, &name):
			return nil, fmt.Errorf("the server is not known as %s: join it by its node-ip (%w)", host, err)
		case err != nil:
			return nil, fmt.Errorf("check the server's certificate: %w", err)
		}
		return ca, nil
	}
	return nil, errors.New("the server is not of the cluster the token is for: check the address, and that the token was made there; " +
		"if both are right, somebody answers in the server's place")
}
