package join

import (
	"context"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"knarr.dev/knarr/bootstrap/pki"
)

// How long to wait after a renewal that failed, doubling from the first to the last.
const (
	firstRetry = 10 * time.Second
	lastRetry  = 10 * time.Minute
)

// Name implements a component: Run keeps the node's two certificates valid.
func (m *Member) Name() string { return "node certificates" }

// Run is ready at once. The serving certificate is asked for here rather than in Join, since servers approve it only
// when the node has registered with the addresses in it; until then the file is not there.
func (m *Member) Run(ctx context.Context, ready func()) error {
	ready()
	retry := firstRetry
	for {
		wait, err := m.renew(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			m.log.Warn("certificate not renewed; it is tried again", "err", err, "after", retry)
			wait, retry = retry, min(2*retry, lastRetry)
		default:
			retry = firstRetry
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// renew replaces what is due and says when to look again.
func (m *Member) renew(ctx context.Context) (time.Duration, error) {
	next := time.Duration(1<<63 - 1)
	for _, c := range []struct {
		file string
		want wanted
	}{{pki.NodeClientFile, m.clientRequest()}, {pki.NodeServerFile, m.servingRequest()}} {
		path := filepath.Join(m.dir, c.file)
		pair, err := pki.LoadPair(path+".crt", path+".key")
		if err != nil || !c.want.satisfiedBy(pair.Cert) || !m.now().Before(due(pair.Cert)) {
			if pair, err = m.replace(ctx, c.file, c.want); err != nil {
				return 0, fmt.Errorf("renew %s: %w", c.file, err)
			}
		}
		next = min(next, due(pair.Cert).Sub(m.now()))
	}
	return max(next, firstRetry), nil
}

func (m *Member) replace(ctx context.Context, file string, want wanted) (*pki.Pair, error) {
	key, cert, err := request(ctx, m.client, want)
	if err != nil {
		return nil, err
	}
	if err := storePair(m.dir, file, key, cert); err != nil {
		return nil, err
	}
	m.log.Info("certificate obtained", "file", file)
	path := filepath.Join(m.dir, file)
	return pki.LoadPair(path+".crt", path+".key")
}

// due is two thirds into a certificate's life, which leaves months for a machine that is off or cut off.
func due(cert *x509.Certificate) time.Time {
	return cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 3 * 2)
}

// satisfiedBy reports whether a certificate says what is wanted now.
func (w *wanted) satisfiedBy(cert *x509.Certificate) bool {
	if cert.Subject.CommonName != w.template.Subject.CommonName || !slices.Equal(cert.DNSNames, w.template.DNSNames) {
		return false
	}
	if len(cert.IPAddresses) != len(w.template.IPAddresses) {
		return false
	}
	for i, ip := range w.template.IPAddresses {
		if !ip.Equal(cert.IPAddresses[i]) {
			return false
		}
	}
	return true
}
