package pki

import (
	"bytes"
	"cmp"
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
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"knarr.dev/knarr/bootstrap/durable"
)

const (
	caLifetime   = 30 * 365 * 24 * time.Hour // longer than the machines: a CA that ends takes its cluster along
	leafLifetime = 365 * 24 * time.Hour
	// Leaf certificates are made anew with a third of their life left, which leaves months for a machine that sleeps.
	renewBefore = leafLifetime / 3
)

// begin is the NotBefore of all we issue here. NotBefore protects nobody in a cluster that is its own authority,
// while a machine without a clock battery starts in 1970, or one whose clock ran ahead is set back: with this
// date neither ever holds a certificate that is not valid yet.
var begin = time.Unix(0, 0).UTC()

// earliest bounds what we believe of the clock when counting lifetimes: no knarr is older than this, so a clock
// that says otherwise would issue certificates that expire the moment it is set right.
var earliest = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Pair is a certificate and its key, in memory and on disk.
type Pair struct {
	Cert              *x509.Certificate
	Key               crypto.Signer
	Chain             []*x509.Certificate // what follows Cert in its file
	CertPEM, KeyPEM   []byte
	CertFile, KeyFile string
}

// Pool holds the certificate alone, as the root others are checked against.
func (p *Pair) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.Cert)
	return pool
}

// leaf is what a certificate below one of our CAs must say.
type leaf struct {
	file   string // without suffix
	signer *Pair
	name   string
	groups []string
	dns    []string
	ips    []netip.Addr
	usages []x509.ExtKeyUsage
	// presentSigner puts the authority into the file, for those who know it by its pin alone (bootstrap/join).
	presentSigner bool
}

// ensureCA loads an authority or makes it. What is there is never replaced: everything the cluster trusts hangs on it.
func ensureCA(dir, file, name string, now time.Time) (pair *Pair, made bool, err error) {
	pair = &Pair{CertFile: filepath.Join(dir, file+".crt"), KeyFile: filepath.Join(dir, file+".key")}
	keyMissing, err := pair.loadKey()
	if err != nil {
		return nil, false, fmt.Errorf("%w; restore it from a backup: every certificate of the cluster depends on it", err)
	}
	certMissing, err := pair.loadCert()
	if err != nil {
		return nil, false, fmt.Errorf("%w; restore it from a backup, or delete it if %s is intact: it is then signed anew with that key", err, pair.KeyFile)
	}
	switch {
	case keyMissing && !certMissing:
		return nil, false, fmt.Errorf("%s has lost its key %s: restore the key from a backup", pair.CertFile, pair.KeyFile)
	case keyMissing:
		if err := pair.newKey(); err != nil {
			return nil, false, err
		}
		// The key goes first: a certificate is signed again for a key without one, but not the other way round.
		if err := durable.Write(pair.KeyFile, pair.KeyPEM, 0o600); err != nil {
			return nil, false, err
		}
		fallthrough
	case certMissing:
		template := &x509.Certificate{
			Subject:               pkix.Name{CommonName: name},
			NotBefore:             begin,
			NotAfter:              believable(now).Add(caLifetime),
			KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign,
			BasicConstraintsValid: true,
			IsCA:                  true,
		}
		if err := pair.sign(template, template, pair.Key); err != nil {
			return nil, false, err
		}
		return pair, true, durable.Write(pair.CertFile, pair.CertPEM, 0o600)
	}
	switch {
	case !pair.matches():
		return nil, false, fmt.Errorf("%s does not belong to the key %s: restore both from the same backup", pair.CertFile, pair.KeyFile)
	case !pair.Cert.IsCA:
		return nil, false, fmt.Errorf("%s is not a certificate authority: restore it from a backup", pair.CertFile)
	case now.After(pair.Cert.NotAfter):
		return nil, false, fmt.Errorf("%s ended on %s and this machine's clock says %s: set the clock if it is wrong",
			pair.CertFile, pair.Cert.NotAfter.Format(time.DateOnly), now.UTC().Format(time.DateOnly))
	}
	return pair, false, nil
}

// ensureLeaf loads a certificate or, when it is missing, damaged, close to its end or says something else than
// wanted, issues it again with a new key.
func ensureLeaf(dir string, want leaf, now time.Time) (pair *Pair, made bool, err error) {
	pair = &Pair{CertFile: filepath.Join(dir, want.file+".crt"), KeyFile: filepath.Join(dir, want.file+".key")}
	keyMissing, keyErr := pair.loadKey()
	certMissing, certErr := pair.loadCert()
	if err := unreadable(keyErr, certErr); err != nil {
		return nil, false, err
	}
	if !keyMissing && !certMissing && keyErr == nil && certErr == nil && pair.matches() && want.fulfilledBy(pair, now) {
		return pair, false, nil
	}
	if err := pair.newKey(); err != nil {
		return nil, false, err
	}
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: want.name, Organization: want.groups},
		NotBefore:   begin,
		NotAfter:    want.end(now),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: want.usages,
		DNSNames:    want.dns,
	}
	for _, ip := range want.ips {
		template.IPAddresses = append(template.IPAddresses, ip.AsSlice())
	}
	if err := pair.sign(template, want.signer.Cert, want.signer.Key); err != nil {
		return nil, false, err
	}
	pair.Chain = nil
	if want.presentSigner {
		pair.Chain = []*x509.Certificate{want.signer.Cert}
		pair.CertPEM = append(pair.CertPEM, want.signer.CertPEM...)
	}
	// Losing these in a power cut costs nothing: the next start issues them again. So nothing waits for the disk.
	if err := durable.Replace(pair.KeyFile, pair.KeyPEM, 0o600); err != nil {
		return nil, false, err
	}
	return pair, true, durable.Replace(pair.CertFile, pair.CertPEM, 0o600)
}

// unreadable picks the errors that issuing again would not mend, such as a folder without permission.
func unreadable(errs ...error) error {
	for _, err := range errs {
		var path *fs.PathError
		if errors.As(err, &path) {
			return err
		}
	}
	return nil
}

func (l leaf) end(now time.Time) time.Time {
	end := believable(now).Add(leafLifetime)
	if end.After(l.signer.Cert.NotAfter) {
		return l.signer.Cert.NotAfter
	}
	return end
}

// fulfilledBy reports whether a certificate says what is wanted, no more and no less, and will for a while.
func (l leaf) fulfilledBy(pair *Pair, now time.Time) bool {
	cert := pair.Cert
	if cert.CheckSignatureFrom(l.signer.Cert) != nil {
		return false
	}
	if l.presentSigner && (len(pair.Chain) != 1 || !pair.Chain[0].Equal(l.signer.Cert)) {
		return false
	}
	if now.Before(cert.NotBefore) || now.Add(renewBefore).After(cert.NotAfter) && l.end(now).After(cert.NotAfter) {
		return false
	}
	ips := make([]netip.Addr, 0, len(cert.IPAddresses))
	for _, ip := range cert.IPAddresses {
		addr, _ := netip.AddrFromSlice(ip)
		ips = append(ips, addr.Unmap())
	}
	return cert.Subject.CommonName == l.name &&
		slices.Equal(cert.Subject.Organization, l.groups) &&
		slices.Equal(cert.DNSNames, l.dns) &&
		slices.Equal(ips, l.ips) &&
		slices.Equal(cert.ExtKeyUsage, l.usages)
}

func believable(now time.Time) time.Time {
	if now.Before(earliest) {
		return earliest
	}
	return now
}

// LoadPair reads a pair that is complete and whole.
func LoadPair(certFile, keyFile string) (*Pair, error) {
	pair := &Pair{CertFile: certFile, KeyFile: keyFile}
	if missing, err := pair.loadKey(); missing || err != nil {
		return nil, cmp.Or(err, fmt.Errorf("read key %s: %w", keyFile, fs.ErrNotExist))
	}
	if missing, err := pair.loadCert(); missing || err != nil {
		return nil, cmp.Or(err, fmt.Errorf("read certificate %s: %w", certFile, fs.ErrNotExist))
	}
	if !pair.matches() {
		return nil, fmt.Errorf("%s does not belong to the key %s", certFile, keyFile)
	}
	return pair, nil
}

// matches reports whether certificate and key are of one pair.
func (p *Pair) matches() bool {
	public, ok := p.Cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(p.Key.Public())
}

func (p *Pair) newKey() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make key %s: %w", p.KeyFile, err)
	}
	p.Key = key
	if p.KeyPEM, err = MarshalKey(key); err != nil {
		return fmt.Errorf("make key %s: %w", p.KeyFile, err)
	}
	return nil
}

func (p *Pair) sign(template, parent *x509.Certificate, signer crypto.Signer) error {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return fmt.Errorf("issue %s: %w", p.CertFile, err)
	}
	template.SerialNumber = serial
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, p.Key.Public(), signer)
	if err != nil {
		return fmt.Errorf("issue %s: %w", p.CertFile, err)
	}
	if p.Cert, err = x509.ParseCertificate(raw); err != nil {
		return fmt.Errorf("issue %s: %w", p.CertFile, err)
	}
	p.CertPEM = MarshalCert(p.Cert)
	return nil
}

func (p *Pair) loadKey() (missing bool, err error) {
	p.KeyPEM, err = os.ReadFile(p.KeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("read key: %w", err)
	}
	if p.Key, err = ParseKey(p.KeyPEM); err != nil {
		return false, fmt.Errorf("read key %s: %w", p.KeyFile, err)
	}
	return false, nil
}

func (p *Pair) loadCert() (missing bool, err error) {
	p.CertPEM, err = os.ReadFile(p.CertFile)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("read certificate: %w", err)
	}
	certs, err := ParseCerts(p.CertPEM)
	if err != nil {
		return false, fmt.Errorf("read certificate %s: %w", p.CertFile, err)
	}
	p.Cert, p.Chain = certs[0], certs[1:]
	return false, nil
}

// MarshalKey encodes a private key as PKCS #8 in PEM.
func MarshalKey(key crypto.Signer) ([]byte, error) {
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}), nil
}

// MarshalCert encodes a certificate in PEM.
func MarshalCert(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

// ParseKey reads the private key of a PEM file in any of the usual encodings, since an operator may bring a CA.
func ParseKey(content []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		var key any
		var err error
		switch block.Type {
		case "PRIVATE KEY":
			key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		case "EC PRIVATE KEY":
			key, err = x509.ParseECPrivateKey(block.Bytes)
		case "RSA PRIVATE KEY":
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		default:
			continue
		}
		signer, ok := key.(crypto.Signer)
		if err != nil || !ok {
			return nil, errors.New("it holds no usable private key")
		}
		return signer, nil
	}
	return nil, errors.New("it is not a PEM private key")
}

// ParseCerts reads the certificates of a PEM file; there is at least one when err is nil.
func ParseCerts(content []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("it holds a damaged certificate: %w", err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 || len(bytes.TrimSpace(content)) == 0 {
		return nil, errors.New("it is not a PEM certificate")
	}
	return certs, nil
}
