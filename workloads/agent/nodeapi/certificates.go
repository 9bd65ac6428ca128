package nodeapi

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificates reads the serving certificate and the client CA from files, again whenever one changed.
type certificates struct {
	cert, key, ca string
	log           *slog.Logger

	mu     sync.Mutex
	seen   [3]fileStamp
	loaded *tls.Config
	failed string // the last complaint, so that it is made once
}

type fileStamp struct {
	changed time.Time
	size    int64
}

// serving is the configuration of the listener. The real one is chosen for each handshake.
func (c *certificates) serving() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1"},
		// http.Server insists on a certificate here; it is never asked, because each handshake gets its own configuration.
		GetCertificate:     func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("no certificate") },
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current() },
	}
}

// current returns the newest configuration that could be read: files caught in the middle of a rotation do no harm.
func (c *certificates) current() (*tls.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stamps := [3]fileStamp{stampOf(c.cert), stampOf(c.key), stampOf(c.ca)}
	if c.loaded != nil && stamps == c.seen {
		return c.loaded, nil
	}
	fresh, err := c.load()
	if err != nil {
		if c.failed != err.Error() {
			c.failed = err.Error()
			c.log.Warn("certificates of the node's API not read; requests fail until they are there, or use the old ones", "err", err)
		}
		if c.loaded == nil {
			return nil, err
		}
		return c.loaded, nil
	}
	c.loaded, c.seen, c.failed = fresh, stamps, ""
	return fresh, nil
}

func (c *certificates) load() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return nil, fmt.Errorf("load serving certificate: %w", err)
	}
	authority, err := os.ReadFile(c.ca)
	if err != nil {
		return nil, fmt.Errorf("load client CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(authority) {
		return nil, fmt.Errorf("load client CA: no certificate in %s", c.ca)
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS12,
		NextProtos:   []string{"h2", "http/1.1"},
		Certificates: []tls.Certificate{pair},
		ClientCAs:    pool,
		ClientAuth:   tls.VerifyClientCertIfGiven,
	}, nil
}

func stampOf(path string) fileStamp {
	info, err := os.Stat(path)
	if err != nil {
		return fileStamp{}
	}
	return fileStamp{changed: info.ModTime(), size: info.Size()}
}
