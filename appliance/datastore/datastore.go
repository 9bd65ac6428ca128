// Package datastore runs etcd inside this process.
//
// In:       a folder, a peer address, certificates.
// Out:      etcd's client API on a unix socket that only this user can open, and its keys by calls within the process.
// Promise:  what was acknowledged is on disk; a damaged or foreign folder is refused, never repaired by guessing.
// Not here: what is stored (appliance/apiserver).
package datastore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
)

// Config is what the datastore needs to know.
type Config struct {
	Name    string // of this member: the node's name
	Dir     string
	Socket  string // of the client API
	PeerURL string // https://ADDRESS:PORT
	Peer    Certificate
	Log     *slog.Logger
}

// Certificate is what members show each other.
type Certificate struct{ CertFile, KeyFile, CAFile string }

// Datastore is the etcd member of this machine.
type Datastore struct {
	cfg  Config
	keys pb.KVServer // set before it is ready
}

// New datastore; nothing is opened before Run.
func New(cfg Config) *Datastore { return &Datastore{cfg: cfg} }

// Name of the component.
func (d *Datastore) Name() string { return "datastore" }

// Endpoint is the address the API server's etcd client is given.
func (d *Datastore) Endpoint() string { return "unix://" + d.cfg.Socket }

// Keys are the member's, for callers in this process; for who waited until it was ready.
func (d *Datastore) Keys() pb.KVServer { return d.keys }

const (
	// A single member elects itself after 1 to 2 election timeouts, so a short one starts a machine sooner: the mean
	// wait is 190 ms. etcd asks for at least 5 ticks a timeout; 20 ticks a second cost nothing measurable.
	tick     = 50 * time.Millisecond
	election = 250 * time.Millisecond

	// etcd keeps this many raft entries in memory for followers that fall behind; its default of 10,000 + 5,000
	// costs tens of megabytes after a burst of writes, which a small machine feels.
	snapshotEvery = 2500
	catchUp       = 1000

	// etcd warns of what takes 100 ms; on a card or a busy machine that is everyday, and nothing to act on.
	slow = time.Second
)

// Run the member until ctx ends.
func (d *Datastore) Run(ctx context.Context, ready func()) error {
	if err := os.MkdirAll(d.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("make datastore folder: %w", err)
	}
	// A socket left by a killed process would make listening fail; the machine's lock says nobody else uses it.
	if err := os.Remove(d.cfg.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove old datastore socket: %w", err)
	}
	fatal := make(fatal, 1)
	cfg, err := d.embedConfig(fatal)
	if err != nil {
		return err
	}
	// On a goroutine of its own, because a fatal error inside ends the goroutine it happens on.
	type outcome struct {
		etcd *embed.Etcd
		err  error
	}
	started := make(chan outcome, 1)
	go func() {
		etcd, err := embed.StartEtcd(cfg)
		started <- outcome{etcd, err}
	}()
	var etcd *embed.Etcd
	select {
	case s := <-started:
		etcd, err = s.etcd, s.err
	case err = <-fatal:
	}
	if err != nil {
		return fmt.Errorf("start etcd in %s: %w (is the disk full? if a file is damaged, move the folder away and restore a snapshot)", d.cfg.Dir, err)
	}
	if err := d.serve(ctx, etcd, fatal, ready); err != nil {
		return fmt.Errorf("serve etcd from %s: %w (is the disk full? free some space and start again: what was acknowledged is safe)", d.cfg.Dir, err)
	}
	etcd.Close() // only when nothing failed: after a fatal error it could wait for ever
	return nil
}

func (d *Datastore) serve(ctx context.Context, etcd *embed.Etcd, fatal <-chan error, ready func()) error {
	select {
	case <-etcd.Server.ReadyNotify():
	case err := <-etcd.Err():
		return err
	case err := <-fatal:
		return err
	case <-ctx.Done():
		return nil
	}
	if err := os.Chmod(d.cfg.Socket, 0o600); err != nil {
		return fmt.Errorf("close socket to other users: %w", err)
	}
	d.keys = v3rpc.NewQuotaKVServer(etcd.Server)
	ready()
	select {
	case err := <-etcd.Err():
		return err
	case err := <-fatal:
		return err
	case <-etcd.Server.StopNotify():
		return errors.New("etcd stopped by itself; its log says why")
	case <-ctx.Done():
		return nil
	}
}

func (d *Datastore) embedConfig(fatal fatal) (*embed.Config, error) {
	peer, err := url.Parse(d.cfg.PeerURL)
	if err != nil {
		return nil, fmt.Errorf("datastore peer URL: %w", err)
	}
	client := url.URL{Scheme: "unix", Path: d.cfg.Socket}

	cfg := embed.NewConfig()
	cfg.Name = d.cfg.Name
	cfg.Dir = d.cfg.Dir
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*peer}, []url.URL{*peer}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.PeerTLSInfo = transport.TLSInfo{
		CertFile: d.cfg.Peer.CertFile, KeyFile: d.cfg.Peer.KeyFile,
		TrustedCAFile: d.cfg.Peer.CAFile, ClientCertAuth: true,
	}
	cfg.TlsMinVersion = "TLS1.3"
	cfg.InitialCluster = fmt.Sprintf("%s=%s", d.cfg.Name, d.cfg.PeerURL)
	if _, err := os.Stat(filepath.Join(d.cfg.Dir, "member")); err == nil {
		cfg.ClusterState = embed.ClusterStateFlagExisting
	}
	cfg.TickMs, cfg.ElectionMs = uint(tick.Milliseconds()), uint(election.Milliseconds())
	cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = snapshotEvery, catchUp
	cfg.EnableGRPCGateway = false
	cfg.WarningApplyDuration, cfg.WarningUnaryRequestDuration = slow, slow
	cfg.Logger = "zap"
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zapTo(d.cfg.Log, fatal))
	return cfg, nil
}
