// Package servertest runs a real API server on a real datastore for tests.
//
// In:       a folder.
// Out:      a server on a free port of the loopback address, its certificates, clients.
// Promise:  Stop leaves nothing but the folder; starting again in it finds what was written.
// Not here: anything that makes objects real.
package servertest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"k8s.io/client-go/rest"

	"knarr.dev/knarr/appliance/apiserver"
	"knarr.dev/knarr/appliance/apiserver/atrest"
	"knarr.dev/knarr/appliance/apiserver/audit"
	"knarr.dev/knarr/appliance/apiserver/persistence"
	"knarr.dev/knarr/appliance/datastore"
	"knarr.dev/knarr/bootstrap/pki"
)

// patience is far above what a start or stop takes, on machines that are busy with other tests too.
const patience = time.Minute

// advertised is in the endpoints of the kubernetes Service, which cannot be loopback; nobody connects to it.
var advertised = netip.MustParseAddr("192.0.2.1")

// Server is a running API server.
type Server struct {
	*apiserver.Server
	PKI  *pki.PKI
	URL  string
	Took time.Duration // from the start of the API server to its readiness

	port    int
	cancel  context.CancelFunc
	stopped chan error
}

// Start runs a datastore and an API server until Stop. What the usual configuration has nothing of can be added to it.
func Start(dir string, change ...func(*apiserver.Config)) (*Server, error) {
	loopback := netip.MustParseAddr("127.0.0.1")
	keys, err := pki.Ensure(filepath.Join(dir, "pki"), pki.Want{
		NodeName:          "test",
		Addresses:         []netip.Addr{loopback},
		KubernetesService: netip.MustParseAddr("10.43.0.1"),
		ClusterDomain:     "cluster.local",
	})
	if err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	peerPort, err := freePort()
	if err != nil {
		return nil, err
	}
	store := datastore.New(datastore.Config{
		Name:    "test",
		Dir:     filepath.Join(dir, "etcd"),
		Socket:  filepath.Join(dir, "etcd.sock"),
		PeerURL: "https://" + net.JoinHostPort(loopback.String(), strconv.Itoa(peerPort)),
		Peer:    datastore.Certificate{CertFile: keys.EtcdPeer.CertFile, KeyFile: keys.EtcdPeer.KeyFile, CAFile: keys.EtcdCA.CertFile},
		Log:     slog.New(slog.DiscardHandler),
	})
	told := config(keys, port, persistence.Endpoints{URLs: []string{store.Endpoint()}, Local: store.Keys})
	for _, c := range change {
		c(&told)
	}
	server, err := apiserver.New(told)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{
		Server:  server,
		PKI:     keys,
		port:    port,
		URL:     "https://" + net.JoinHostPort(loopback.String(), strconv.Itoa(port)),
		cancel:  cancel,
		stopped: make(chan error, 1),
	}
	ready := make(chan struct{})
	go s.run(ctx, store, ready)
	select {
	case <-ready:
		return s, nil
	case err := <-s.stopped:
		s.stopped <- err
		return nil, errors.Join(errors.New("the API server ended before it was ready"), err)
	case <-time.After(patience):
		cancel()
		return nil, fmt.Errorf("the API server was not ready within %s", patience)
	}
}

// OnPortOf makes a server that wants another's port.
func OnPortOf(dir string, other *Server) (*apiserver.Server, error) {
	return apiserver.New(config(other.PKI, other.port, persistence.Endpoints{URLs: []string{"unix://" + filepath.Join(dir, "etcd.sock")}}))
}

func config(keys *pki.PKI, port int, store persistence.Endpoints) apiserver.Config {
	return apiserver.Config{
		BindAddress:       netip.MustParseAddr("127.0.0.1"),
		Port:              port,
		AdvertiseAddress:  advertised,
		Audit:             audit.Config{Log: filepath.Join(filepath.Dir(keys.Dir), "audit", "audit.log")},
		Encryption:        atrest.Files{Keys: keys.EncryptionKeysFile},
		ServingCert:       keys.APIServer.CertFile,
		ServingKey:        keys.APIServer.KeyFile,
		ClusterCA:         keys.ClusterCA.CertFile,
		ClientCA:          keys.ClientCA.CertFile,
		FrontProxyCA:      keys.FrontProxyCA.CertFile,
		FrontProxyCert:    keys.FrontProxyClient.CertFile,
		FrontProxyKey:     keys.FrontProxyClient.KeyFile,
		KubeletClientCert: keys.APIServerKubeletClient.CertFile,
		KubeletClientKey:  keys.APIServerKubeletClient.KeyFile,
		ServiceAccountKey: keys.ServiceAccountKeyFile,
		Datastore:         store,
		ServiceCIDRs:      []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")},
	}
}

// run stops the API server before the datastore, as a machine does.
func (s *Server) run(ctx context.Context, store *datastore.Datastore, ready chan<- struct{}) {
	storeCtx, stopStore := context.WithCancel(context.Background())
	up, storeDone := make(chan struct{}), make(chan error, 1)
	go func() { storeDone <- store.Run(storeCtx, func() { close(up) }) }()
	var err error
	select {
	case <-up:
		began := time.Now()
		err = s.Server.Run(ctx, func() { s.Took = time.Since(began); close(ready) })
	case <-ctx.Done():
	case err = <-storeDone:
		storeDone <- nil
	}
	stopStore()
	s.stopped <- errors.Join(err, <-storeDone)
}

// Stop ends both and waits for it.
func (s *Server) Stop() error {
	s.cancel()
	select {
	case err := <-s.stopped:
		s.stopped <- err
		return err
	case <-time.After(patience):
		return fmt.Errorf("the API server did not stop within %s", patience)
	}
}

// Admin is a client configuration of the administrator, over the network.
func (s *Server) Admin() *rest.Config {
	return &rest.Config{
		Host: s.URL,
		QPS:  -1,
		TLSClientConfig: rest.TLSClientConfig{
			CAData:   s.PKI.ClusterCA.CertPEM,
			CertData: s.PKI.Admin.CertPEM,
			KeyData:  s.PKI.Admin.KeyPEM,
		},
	}
}

// Anonymous is a client configuration without credentials.
func (s *Server) Anonymous() *rest.Config { return rest.AnonymousClientConfig(s.Admin()) }

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
