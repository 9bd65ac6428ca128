// Package pki keeps this machine's keys and certificates.
//
// In:       a folder, and what this machine's certificates must say.
// Out:      four authorities, the service-account key, the keys Secrets are encrypted with, and a leaf certificate for
// each role on a server.
// Promise:  an authority that exists is never replaced; a leaf always says what is wanted, does not end soon,
// and is issued again when damaged. Files change whole and only root reads keys.
// Not here: certificates of other machines (bootstrap/join asks, workloads/certificates signs).
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"knarr.dev/knarr/bootstrap/durable"
	"knarr.dev/knarr/bootstrap/keyring"
)

// Want is what the certificates of a server must say.
type Want struct {
	NodeName  string
	Addresses []netip.Addr // this machine's, loopback not needed
	// KubernetesService is the first address of the service range, where pods find the API server.
	KubernetesService netip.Addr
	// Virtual is the address of whichever API server answers, if the cluster has one.
	Virtual       netip.Addr
	ClusterDomain string
}

// PKI is all a server holds.
type PKI struct {
	Dir string

	ClusterCA    *Pair // serving certificates: API server and nodes; what kubeconfigs and pods trust
	ClientCA     *Pair // client certificates: a name and groups
	EtcdCA       *Pair // the datastore, both ways
	FrontProxyCA *Pair // the API server speaking for a user to an aggregated one

	ServiceAccountKey     crypto.Signer // signs service-account tokens
	ServiceAccountKeyFile string

	EncryptionKeysFile string // what Secrets are encrypted with in the datastore (bootstrap/keyring)

	APIServer              *Pair
	APIServerKubeletClient *Pair // the API server to a node's API
	FrontProxyClient       *Pair
	Admin                  *Pair // group system:masters
	EtcdServer             *Pair
	EtcdPeer               *Pair
	EtcdClient             *Pair
	NodeClient             *Pair // system:node:NAME
	NodeServer             *Pair // this node's API on 10250

	// Issued names the files made by this call, for the log; empty when all was in order.
	Issued []string
}

// Names of the files a node holds, whether its server wrote them or bootstrap/join did.
const (
	ClusterCAFile  = "ca.crt"
	ClientCAFile   = "client-ca.crt"
	NodeClientFile = "node-client" // .crt and .key
	NodeServerFile = "node-server" // .crt and .key
)

// ClusterCAKeyFile is where servers, and they alone, keep the key of the cluster's authority.
const ClusterCAKeyFile = "ca.key"

// EncryptionKeysFile is where servers, and they alone, keep what Secrets are encrypted with. Every server of a cluster
// has the same, as it has the same authorities.
const EncryptionKeysFile = "encryption.yaml"

// NodeUser and NodesGroup are a node's identity; the Node authorizer and the signers go by them.
const (
	NodeUserPrefix = "system:node:"
	NodesGroup     = "system:nodes"
	MastersGroup   = "system:masters"
)

// KubeletClientUser is the API server on its way to a node's API; baseline binds it to system:kubelet-api-admin,
// which is all it needs.
const KubeletClientUser = "kube-apiserver-kubelet-client"

// Ensure loads what dir holds and makes the rest.
func Ensure(dir string, want Want) (*PKI, error) { return ensure(dir, want, time.Now()) }

func ensure(dir string, want Want, now time.Time) (*PKI, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder for keys: %w", err)
	}
	p := &PKI{Dir: dir, ServiceAccountKeyFile: filepath.Join(dir, "service-account.key"), EncryptionKeysFile: filepath.Join(dir, EncryptionKeysFile)}
	if err := p.ensureRoots(now); err != nil {
		return nil, err
	}
	for into, leaf := range p.leaves(want) {
		pair, made, err := ensureLeaf(dir, leaf, now)
		if err != nil {
			return nil, err
		}
		*into = pair
		if made {
			p.Issued = append(p.Issued, pair.CertFile)
		}
	}
	slices.Sort(p.Issued)
	return p, nil
}

// ensureRoots makes the authorities and the other keys side by side: each waits for the disk when new.
func (p *PKI) ensureRoots(now time.Time) error {
	authorities := []struct {
		into       **Pair
		file, name string
		made       bool
	}{
		{into: &p.ClusterCA, file: "ca", name: "knarr cluster CA"},
		{into: &p.ClientCA, file: "client-ca", name: "knarr client CA"},
		{into: &p.EtcdCA, file: "etcd-ca", name: "knarr etcd CA"},
		{into: &p.FrontProxyCA, file: "front-proxy-ca", name: "knarr front-proxy CA"},
	}
	var group errgroup.Group
	for i := range authorities {
		group.Go(func() (err error) {
			a := &authorities[i]
			*a.into, a.made, err = ensureCA(p.Dir, a.file, a.name, now)
			return err
		})
	}
	var keyMade, ringMade bool
	group.Go(func() (err error) {
		p.ServiceAccountKey, keyMade, err = ensureSigningKey(p.ServiceAccountKeyFile)
		return err
	})
	group.Go(func() (err error) {
		ringMade, err = keyring.Ensure(p.EncryptionKeysFile)
		return err
	})
	if err := group.Wait(); err != nil {
		return err
	}
	for _, a := range authorities {
		if a.made {
			p.Issued = append(p.Issued, (*a.into).CertFile)
		}
	}
	if keyMade {
		p.Issued = append(p.Issued, p.ServiceAccountKeyFile)
	}
	if ringMade {
		p.Issued = append(p.Issued, p.EncryptionKeysFile)
	}
	return nil
}

func ensureSigningKey(path string) (key crypto.Signer, made bool, err error) {
	content, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, false, fmt.Errorf("read service-account key: %w", err)
	default:
		if key, err = ParseKey(content); err != nil {
			return nil, false, fmt.Errorf("read service-account key %s: %w; restore it from a backup, or delete it: a new one ends every token in use", path, err)
		}
		return key, false, nil
	}
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, false, fmt.Errorf("make service-account key: %w", err)
	}
	if content, err = MarshalKey(key); err != nil {
		return nil, false, fmt.Errorf("make service-account key: %w", err)
	}
	return key, true, durable.Write(path, content, 0o600)
}

// leaves is the list of certificates a server holds.
func (p *PKI) leaves(want Want) map[**Pair]leaf {
	var (
		server   = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		client   = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		both     = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
		loopback = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
		machine  = distinct(append(loopback, want.Addresses...))
		local    = []string{want.NodeName, "localhost"}
		service  = []string{
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + want.ClusterDomain,
		}
	)
	return map[**Pair]leaf{
		&p.APIServer: {
			file: "apiserver", signer: p.ClusterCA, name: "kube-apiserver", usages: server,
			dns: append(slices.Clone(local), service...),
			ips: distinct(append(slices.Clone(machine), want.KubernetesService, want.Virtual)), presentSigner: true,
		},
		&p.NodeServer: {
			file: NodeServerFile, signer: p.ClusterCA, usages: server,
			name: NodeUserPrefix + want.NodeName, groups: []string{NodesGroup}, dns: local, ips: machine,
		},
		&p.NodeClient: {
			file: NodeClientFile, signer: p.ClientCA, usages: client,
			name: NodeUserPrefix + want.NodeName, groups: []string{NodesGroup},
		},
		&p.APIServerKubeletClient: {
			file: "apiserver-kubelet-client", signer: p.ClientCA, name: KubeletClientUser, usages: client,
		},
		&p.Admin: {
			file: "admin", signer: p.ClientCA, name: "kubernetes-admin", groups: []string{MastersGroup}, usages: client,
		},
		&p.FrontProxyClient: {
			file: "front-proxy-client", signer: p.FrontProxyCA, name: "front-proxy-client", usages: client,
		},
		&p.EtcdServer: {file: "etcd-server", signer: p.EtcdCA, name: want.NodeName, dns: local, ips: machine, usages: both},
		&p.EtcdPeer:   {file: "etcd-peer", signer: p.EtcdCA, name: want.NodeName, dns: local, ips: machine, usages: both},
		&p.EtcdClient: {file: "etcd-client", signer: p.EtcdCA, name: "knarr", usages: client},
	}
}

// distinct drops repeated and invalid addresses and keeps the order, which the comparison with a certificate needs.
func distinct(addrs []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, addr := range addrs {
		addr = addr.Unmap()
		if addr.IsValid() && !slices.Contains(out, addr) {
			out = append(out, addr)
		}
	}
	return out
}
