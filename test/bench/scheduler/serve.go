package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"knarr.dev/knarr/appliance/apiserver/servertest"
	"knarr.dev/knarr/workloads/indexes"
	"knarr.dev/knarr/workloads/scheduler"
)

// serveVerb makes this program the process that is measured: datastore and API server, and in it our scheduler once
// that is asked for. It is a process of its own so that the load is not on its account.
const serveVerb = "serve"

// serve runs until its standard input ends. A line there starts the scheduler.
func serve(args []string) (err error) {
	flags := flag.NewFlagSet(serveVerb, flag.ExitOnError)
	dir := flags.String("dir", "", "data folder")
	profile := flags.String("profile", "", "file for a CPU profile, from the first line on")
	if err := flags.Parse(args); err != nil {
		return err
	}
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})))
	ctrl.SetLogger(logr.FromSlogHandler(slog.Default().Handler()))
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	server, err := servertest.Start(*dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	kubeconfig, err := writeKubeconfig(*dir, server)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(kubeconfig); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	ended <- nil
	defer func() { cancel(); err = errors.Join(err, <-ended) }()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if *profile != "" {
			file, err := os.Create(*profile)
			if err != nil {
				return err
			}
			defer file.Close()
			if err := pprof.StartCPUProfile(file); err != nil {
				return err
			}
			defer pprof.StopCPUProfile()
		}
		if lines.Text() != scheduleLine {
			continue
		}
		<-ended
		go func() {
			err := schedule(ctx, server)
			if err != nil {
				slog.Error("the scheduler ended", "err", err)
			}
			ended <- err
		}()
	}
	return nil
}

// What is said to a measured process: that our scheduler begins in it, or that another does elsewhere.
const (
	scheduleLine  = "schedule"
	elsewhereLine = "elsewhere"
)

// schedule runs our scheduler as the product does: on the API server's own connection.
func schedule(ctx context.Context, server *servertest.Server) error {
	mgr, err := ctrl.NewManager(server.LoopbackConfig(), ctrl.Options{
		Scheme:                 scheme.Scheme,
		Cache:                  cache.Options{DefaultTransform: cache.TransformStripManagedFields()},
		Metrics:                metricsserver.Options{BindAddress: "0"},
		HealthProbeBindAddress: "0",
	})
	if err != nil {
		return err
	}
	if err := indexes.Register(ctx, mgr.GetFieldIndexer()); err != nil {
		return err
	}
	config, err := scheduler.ReadConfig("")
	if err != nil {
		return err
	}
	if err := scheduler.Register(mgr, config, slog.Default()); err != nil {
		return err
	}
	return mgr.Start(ctx)
}

func writeKubeconfig(dir string, server *servertest.Server) (string, error) {
	path, admin := filepath.Join(dir, "kubeconfig"), server.Admin()
	config := clientcmdapi.NewConfig()
	config.Clusters["bench"] = &clientcmdapi.Cluster{Server: admin.Host, CertificateAuthorityData: admin.CAData}
	config.AuthInfos["bench"] = &clientcmdapi.AuthInfo{ClientCertificateData: admin.CertData, ClientKeyData: admin.KeyData}
	config.Contexts["bench"] = &clientcmdapi.Context{Cluster: "bench", AuthInfo: "bench"}
	config.CurrentContext = "bench"
	return path, clientcmd.WriteToFile(*config, path)
}

// process is a measured process, seen from the one that loads it.
type process struct {
	kubeconfig string
	command    *exec.Cmd
	in         io.WriteCloser
}

// startProcess runs the API server on a data folder.
func startProcess(ctx context.Context, dir, profile string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{command: exec.CommandContext(ctx, self, serveVerb, "-dir", dir, "-profile", profile)}
	p.command.Stderr = os.Stderr
	p.command.WaitDelay = 10 * time.Second
	if p.in, err = p.command.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	if err := json.NewDecoder(out).Decode(&p.kubeconfig); err != nil {
		return nil, errors.Join(fmt.Errorf("wait for the API server: %w", err), p.stop())
	}
	return p, nil
}

func (p *process) say(line string) error {
	_, err := fmt.Fprintln(p.in, line)
	return err
}

func (p *process) stop() error { return errors.Join(p.in.Close(), p.command.Wait()) }
