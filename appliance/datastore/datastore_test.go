package datastore

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"knarr.dev/knarr/test/certs"
)

// start runs a datastore until the returned function is called.
func start(t *testing.T, cfg Config) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- New(cfg).Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-done:
		t.Fatalf("datastore ended while starting: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("datastore not ready after 30 s")
	}
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("stop: %v", err)
		}
	}
}

func config(t *testing.T) Config {
	t.Helper()
	dir := t.TempDir()
	cert, key, ca := certs.Write(t, dir, "127.0.0.1")
	return Config{
		Name: "one", Dir: filepath.Join(dir, "etcd"), Socket: filepath.Join(dir, "etcd.sock"),
		PeerURL: "https://" + certs.FreeAddress(t), Peer: Certificate{CertFile: cert, KeyFile: key, CAFile: ca},
		Log: slog.New(slog.DiscardHandler),
	}
}

func client(t *testing.T, cfg Config) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{New(cfg).Endpoint()}, DialTimeout: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestWhatWasWrittenIsThereAfterARestart(t *testing.T) {
	cfg := config(t)
	stop := start(t, cfg)
	if _, err := client(t, cfg).Put(t.Context(), "cargo", "salt"); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(cfg.Socket)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("socket has mode %v; want 0600", info.Mode().Perm())
	}
	stop()

	defer start(t, cfg)()
	got, err := client(t, cfg).Get(t.Context(), "cargo")
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "salt" {
		t.Errorf("read %v after the restart; want salt", got.Kvs)
	}
}

func TestADamagedFolderIsRefusedAndLeftAsItIs(t *testing.T) {
	cfg := config(t)
	start(t, cfg)()
	db := filepath.Join(cfg.Dir, "member", "snap", "db")
	garbage := []byte(strings.Repeat("not a database ", 4096))
	if err := os.WriteFile(db, garbage, 0o600); err != nil {
		t.Fatal(err)
	}
	err := New(cfg).Run(t.Context(), func() { t.Error("a damaged datastore became ready") })
	if err == nil || !strings.Contains(err.Error(), cfg.Dir) {
		t.Errorf("Run() = %v; want an error that names %s", err, cfg.Dir)
	}
	if after, err := os.ReadFile(db); err != nil || string(after) != string(garbage) {
		t.Errorf("the damaged file was changed (%v)", err)
	}
}
