package pki

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/tools/clientcmd"
)

var today = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func wanted() Want {
	return Want{
		NodeName:          "alpha",
		Addresses:         []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")},
		KubernetesService: netip.MustParseAddr("10.43.0.1"),
		ClusterDomain:     "cluster.local",
	}
}

func mustEnsure(t *testing.T, dir string, want Want, now time.Time) *PKI {
	t.Helper()
	p, err := ensure(dir, want, now)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *PKI) issued() []string {
	var names []string
	for _, path := range p.Issued {
		names = append(names, filepath.Base(path))
	}
	return names
}

func TestEnsureAgain(t *testing.T) {
	leaves := []string{
		"admin.crt", "apiserver-kubelet-client.crt", "apiserver.crt", "etcd-client.crt", "etcd-peer.crt",
		"etcd-server.crt", "front-proxy-client.crt", "node-client.crt", "node-server.crt",
	}
	tests := map[string]struct {
		change func(t *testing.T, dir string, want *Want)
		now    time.Time
		issued []string
		err    string
	}{
		"nothing changed, nothing issued": {},
		"a new address reissues what machines are reached by": {
			change: func(_ *testing.T, _ string, want *Want) {
				want.Addresses = []netip.Addr{netip.MustParseAddr("192.0.2.8")}
			},
			issued: []string{"apiserver.crt", "etcd-peer.crt", "etcd-server.crt", "node-server.crt"},
		},
		"another service range reissues the API server's alone": {
			change: func(_ *testing.T, _ string, want *Want) { want.KubernetesService = netip.MustParseAddr("10.96.0.1") },
			issued: []string{"apiserver.crt"},
		},
		"so does an address of all API servers": {
			change: func(_ *testing.T, _ string, want *Want) { want.Virtual = netip.MustParseAddr("192.0.2.100") },
			issued: []string{"apiserver.crt"},
		},
		"with more than a third of its life left a leaf stays": {now: today.Add(leafLifetime*2/3 - time.Hour)},
		"with less than a third of its life left a leaf goes":  {now: today.Add(leafLifetime*2/3 + time.Hour), issued: leaves},
		"long after its end a leaf is issued again":            {now: today.Add(3 * leafLifetime), issued: leaves},
		"a clock back at its factory date changes nothing":     {now: time.Unix(60, 0)},
		"a missing leaf is issued": {
			change: func(t *testing.T, dir string, _ *Want) { remove(t, dir, "admin.crt") },
			issued: []string{"admin.crt"},
		},
		"a missing leaf key is issued": {
			change: func(t *testing.T, dir string, _ *Want) { remove(t, dir, "admin.key") },
			issued: []string{"admin.crt"},
		},
		"a damaged leaf is issued again": {
			change: func(t *testing.T, dir string, _ *Want) { damage(t, dir, "apiserver.crt") },
			issued: []string{"apiserver.crt"},
		},
		"a leaf left empty by a power cut is issued again": {
			change: func(t *testing.T, dir string, _ *Want) { overwrite(t, dir, "apiserver.key", nil) },
			issued: []string{"apiserver.crt"},
		},
		"a leaf with another one's key is issued again": {
			change: func(t *testing.T, dir string, _ *Want) {
				overwrite(t, dir, "admin.key", read(t, dir, "node-client.key"))
			},
			issued: []string{"admin.crt"},
		},
		"a CA that changed takes its leaves along": {
			change: func(t *testing.T, dir string, _ *Want) {
				remove(t, dir, "front-proxy-ca.crt")
				remove(t, dir, "front-proxy-ca.key")
			},
			issued: []string{"front-proxy-ca.crt", "front-proxy-client.crt"},
		},
		"a CA certificate that went missing is signed anew with its key and other leaves stay": {
			change: func(t *testing.T, dir string, _ *Want) { remove(t, dir, "ca.crt") },
			issued: []string{"apiserver.crt", "ca.crt"}, // the API server presents the authority's certificate
		},
		"a damaged CA certificate is an error": {
			change: func(t *testing.T, dir string, _ *Want) { damage(t, dir, "ca.crt") },
			err:    "ca.crt: it is not a PEM certificate; restore it from a backup, or delete it",
		},
		"a damaged CA key is an error": {
			change: func(t *testing.T, dir string, _ *Want) { damage(t, dir, "client-ca.key") },
			err:    "client-ca.key: it is not a PEM private key; restore it from a backup",
		},
		"a CA without its key is an error": {
			change: func(t *testing.T, dir string, _ *Want) { remove(t, dir, "etcd-ca.key") },
			err:    "etcd-ca.crt has lost its key",
		},
		"a CA with another one's key is an error": {
			change: func(t *testing.T, dir string, _ *Want) { overwrite(t, dir, "ca.key", read(t, dir, "etcd-ca.key")) },
			err:    "does not belong to the key",
		},
		"a leaf in the place of a CA is an error": {
			change: func(t *testing.T, dir string, _ *Want) {
				overwrite(t, dir, "ca.key", read(t, dir, "admin.key"))
				overwrite(t, dir, "ca.crt", read(t, dir, "admin.crt"))
			},
			err: "ca.crt is not a certificate authority",
		},
		"a damaged service-account key is an error": {
			change: func(t *testing.T, dir string, _ *Want) { damage(t, dir, "service-account.key") },
			err:    "a new one ends every token in use",
		},
		"a clock decades ahead is named": {now: today.AddDate(40, 0, 0), err: "set the clock if it is wrong"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			dir, want, now := t.TempDir(), wanted(), today
			mustEnsure(t, dir, want, now)
			if tc.change != nil {
				tc.change(t, dir, &want)
			}
			if !tc.now.IsZero() {
				now = tc.now
			}
			p, err := ensure(dir, want, now)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("ensure() = %v; want an error with %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.issued, p.issued()); diff != "" {
				t.Errorf("issued (-want +got):\n%s", diff)
			}
			if again := mustEnsure(t, dir, want, now); len(again.Issued) != 0 {
				t.Errorf("a second pass issued %v", again.issued())
			}
		})
	}
}

func TestEnsureFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	p := mustEnsure(t, dir, wanted(), today)
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v, %v; want 0700", info.Mode(), err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2*13+2 {
		t.Errorf("%d files, %v; want 13 pairs, a key and the encryption keys", len(entries), err)
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v; want 0600", entry.Name(), info.Mode(), err)
		}
	}
	wantDNS := []string{
		"alpha", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
	}
	if diff := cmp.Diff(wantDNS, p.APIServer.Cert.DNSNames); diff != "" {
		t.Errorf("API server names (-want +got):\n%s", diff)
	}
	for _, host := range []string{"127.0.0.1", "::1", "192.0.2.7", "2001:db8::7", "10.43.0.1"} {
		if err := p.APIServer.Cert.VerifyHostname(host); err != nil {
			t.Errorf("API server: %v", err)
		}
	}
	if got := p.NodeClient.Cert.Subject; got.CommonName != "system:node:alpha" || !slices.Equal(got.Organization, []string{"system:nodes"}) {
		t.Errorf("node is %v; want system:node:alpha of system:nodes", got)
	}
	// A clock that starts in 1970 must not shorten what is issued then.
	early := mustEnsure(t, t.TempDir(), wanted(), time.Unix(60, 0))
	if end := early.APIServer.Cert.NotAfter; end.Before(earliest.Add(leafLifetime)) {
		t.Errorf("issued in 1970, ends %s", end)
	}
}

// Every server and client certificate works in a real handshake, checked against the authority it belongs to.
func TestHandshakes(t *testing.T) {
	p := mustEnsure(t, t.TempDir(), wanted(), time.Now())
	tests := map[string]struct{ server, serverCA, client, clientCA *Pair }{
		"administrator to API server":   {p.APIServer, p.ClusterCA, p.Admin, p.ClientCA},
		"node to API server":            {p.APIServer, p.ClusterCA, p.NodeClient, p.ClientCA},
		"API server to node":            {p.NodeServer, p.ClusterCA, p.APIServerKubeletClient, p.ClientCA},
		"API server to datastore":       {p.EtcdServer, p.EtcdCA, p.EtcdClient, p.EtcdCA},
		"datastore member to the other": {p.EtcdPeer, p.EtcdCA, p.EtcdPeer, p.EtcdCA},
		"front proxy to API server":     {p.APIServer, p.ClusterCA, p.FrontProxyClient, p.FrontProxyCA},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			near, far := net.Pipe()
			defer near.Close()
			server := tls.Server(far, &tls.Config{
				Certificates: []tls.Certificate{served(t, tc.server)}, ClientCAs: tc.clientCA.Pool(), ClientAuth: tls.RequireAndVerifyClientCert,
			})
			done := make(chan error, 1)
			go func() {
				_, err := server.Write([]byte("hello"))
				done <- err
				far.Close()
			}()
			client := tls.Client(near, &tls.Config{
				Certificates: []tls.Certificate{served(t, tc.client)}, RootCAs: tc.serverCA.Pool(), ServerName: "alpha",
			})
			got, err := io.ReadAll(io.LimitReader(client, 5))
			if err != nil || !bytes.Equal(got, []byte("hello")) {
				t.Errorf("client read %q, %v", got, err)
			}
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	stranger := mustEnsure(t, t.TempDir(), wanted(), time.Now())
	if _, err := p.Admin.Cert.Verify(x509.VerifyOptions{Roots: stranger.ClientCA.Pool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("another cluster accepts our administrator")
	}
}

// served is the pair as servers and clients read it from its files.
func served(t *testing.T, pair *Pair) tls.Certificate {
	t.Helper()
	out, err := tls.LoadX509KeyPair(pair.CertFile, pair.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestWriteKubeconfig(t *testing.T) {
	p := mustEnsure(t, t.TempDir(), wanted(), today)
	path := filepath.Join(t.TempDir(), "new", "kubeconfig")
	if err := WriteKubeconfig(path, "https://127.0.0.1:6443", p.ClusterCA, p.Admin); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("kubeconfig: %v, %v; want 0600", info.Mode(), err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != "https://127.0.0.1:6443" || !bytes.Equal(config.CertData, p.Admin.CertPEM) || !bytes.Equal(config.CAData, p.ClusterCA.CertPEM) {
		t.Errorf("kubeconfig says %+v", config)
	}
	if err := WriteKubeconfig(path, "https://127.0.0.1:6443", p.ClusterCA, p.Admin); err != nil {
		t.Fatal(err)
	}
	if again, err := os.Stat(path); err != nil || !os.SameFile(info, again) {
		t.Errorf("the same content was written again, %v", err)
	}
}

func BenchmarkEnsureNew(b *testing.B) {
	for b.Loop() {
		if _, err := ensure(b.TempDir(), wanted(), today); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEnsureAgain(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		if _, err := ensure(dir, wanted(), today); err != nil {
			b.Fatal(err)
		}
	}
}

func read(t *testing.T, dir, file string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func overwrite(t *testing.T, dir, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func damage(t *testing.T, dir, file string) {
	t.Helper()
	content := read(t, dir, file)
	overwrite(t, dir, file, append([]byte("x"), content[len(content)/2:]...))
}

func remove(t *testing.T, dir, file string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, file)); err != nil {
		t.Fatal(err)
	}
}
