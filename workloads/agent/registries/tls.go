package registries

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// clientTLS reads the files a host's configuration names.
func clientTLS(files *TLS) (*tls.Config, error) {
	config := &tls.Config{InsecureSkipVerify: files.InsecureSkipVerify} // as asked for
	if files.CAFile != "" {
		text, err := os.ReadFile(files.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read ca_file: %w", err)
		}
		if config.RootCAs, err = x509.SystemCertPool(); err != nil {
			return nil, fmt.Errorf("read the machine's certificates: %w", err)
		}
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("ca_file %s holds no certificate", files.CAFile)
		}
	}
	if files.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(files.CertFile, files.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read cert_file and key_file: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
