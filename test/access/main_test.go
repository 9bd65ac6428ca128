// Package access_test asks a real API server who is who and who may what.
//
// In:       nothing but a temporary folder.
// Out:      stories of machines that join, service accounts, nodes and users.
// Promise:  the API server, its datastore, the controller of certificates and every certificate are real.
// Not here: the rules one by one (beside them), nodes that run containers (test/e2e).
package access_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"knarr.dev/knarr/appliance/apiserver/servertest"
	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/bootstrap/join"
	"knarr.dev/knarr/workloads/certificates"
)

// patience is far above what anything here takes.
const patience = 30 * time.Second

var (
	server *servertest.Server
	admin  *kubernetes.Clientset
)

var settings = join.Settings{
	ClusterCIDR: "10.42.0.0/16", ServiceCIDR: "10.43.0.0/16", ClusterDNS: "10.43.0.10", ClusterDomain: "cluster.local",
	Overlay: "vxlan", PodNetwork: config.KnarrNetwork,
}

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctrl.SetLogger(logr.Discard())
	if !testing.Verbose() {
		slog.SetDefault(slog.New(slog.DiscardHandler))
	}
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	dir, err := os.MkdirTemp("", "knarr-access-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if server, err = servertest.Start(dir); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	if admin, err = kubernetes.NewForConfig(server.Admin()); err != nil {
		return 1, err
	}
	mgr, err := ctrl.NewManager(server.Admin(), ctrl.Options{
		Scheme: scheme.Scheme, Metrics: metricsserver.Options{BindAddress: "0"}, HealthProbeBindAddress: "0",
	})
	if err != nil {
		return 1, err
	}
	if err := certificates.Register(mgr, certificates.Signers{Client: server.PKI.ClientCA, Serving: server.PKI.ClusterCA}, clock.RealClock{}); err != nil {
		return 1, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	settings.ClientCA = string(server.PKI.ClientCA.CertPEM)
	if err := join.Publish(ctx, admin.CoreV1(), settings); err != nil {
		cancel()
		return 1, errors.Join(err, <-ended)
	}
	code = m.Run()
	cancel()
	return code, <-ended
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func clientOf(t *testing.T, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	must(t, err)
	return client
}

// as is the administrator speaking for somebody else.
func as(t *testing.T, user string, groups ...string) *kubernetes.Clientset {
	t.Helper()
	config := server.Admin()
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	return clientOf(t, config)
}

// eventually asks until the answer is nil: roles reach the authorizer by watch.
func eventually(t *testing.T, what string, ask func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}
