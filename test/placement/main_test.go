// Package placement_test runs the scheduler as a process of its own, which can be killed, on a real API server.
//
// In:       nothing but a temporary folder.
// Out:      what became of pods while nodes, pods and the scheduler came and went, judged by the history of events.
// Promise:  processes it starts end with it.
// Not here: which node is the right one (workloads/scheduler), how fast (test/bench/scheduler).
package placement_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"knarr.dev/knarr/appliance/apiserver/servertest"
	"knarr.dev/knarr/bootstrap/pki"
	"knarr.dev/knarr/workloads/scheduler"
)

// kubeconfigKey in the environment makes this binary a scheduler.
const kubeconfigKey = "KNARR_TEST_SCHEDULER_KUBECONFIG"

var (
	api        client.WithWatch
	kubeconfig string
)

func TestMain(m *testing.M) {
	ctrl.SetLogger(logr.Discard())
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	code, err := 1, error(nil)
	if path := os.Getenv(kubeconfigKey); path != "" {
		err = place(path)
	} else {
		flag.Parse()
		code, err = run(m)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	dir, err := os.MkdirTemp("", "knarr-placement-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	server, err := servertest.Start(dir)
	if err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	if api, err = client.NewWithWatch(server.Admin(), client.Options{Scheme: scheme.Scheme}); err != nil {
		return 1, err
	}
	kubeconfig = filepath.Join(dir, "kubeconfig")
	if err := pki.WriteKubeconfig(kubeconfig, server.URL, server.PKI.ClusterCA, server.PKI.Admin); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// place is the scheduler's process: it runs until it is killed.
func place(kubeconfig string) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	config.QPS = -1
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme: scheme.Scheme, Metrics: metricsserver.Options{BindAddress: "0"}, HealthProbeBindAddress: "0",
	})
	if err != nil {
		return err
	}
	placing, err := scheduler.ReadConfig("")
	if err != nil {
		return err
	}
	if err := scheduler.Register(mgr, placing, slog.New(slog.DiscardHandler)); err != nil {
		return err
	}
	return mgr.Start(context.Background())
}

// process is a running scheduler.
type process struct{ command *exec.Cmd }

func startScheduler(t *testing.T) *process {
	t.Helper()
	p := &process{exec.Command(os.Args[0])}
	p.command.Env = append(os.Environ(), kubeconfigKey+"="+kubeconfig)
	p.command.Stderr = os.Stderr
	p.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// kill is kill -9.
func (p *process) kill(t *testing.T) {
	t.Helper()
	if err := p.command.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = p.command.Wait() // it was killed, that is how it ended
}
