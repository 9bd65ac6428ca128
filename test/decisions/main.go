// Decisions holds a kube-scheduler against the corpus of stated decisions (workloads/scheduler/corpus).
//
// In:       a kube-scheduler; an API server of its own, or one given by -against that nobody else uses.
// Out:      the cases it decides otherwise than stated, and exit code 1 if there are any.
// Promise:  a case is decided by the scheduler itself: an extender is shown which nodes it would compare, and a binding (or the nomination before one)
// says which one it prefers.
// Not here: our own scheduler, which the tests beside it hold against the same cases.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/appliance/apiserver/servertest"
	"knarr.dev/knarr/workloads/scheduler/corpus"
)

func main() {
	scheduler := flag.String("scheduler", "", "the kube-scheduler to hold against the corpus")
	against := flag.String("against", "", "kubeconfig of an API server nobody else uses; without it one is started")
	only := flag.String("run", "", "a regular expression the names of cases have to match")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	if err := run(ctx, *scheduler, *against, *only); err != nil {
		fmt.Fprintln(os.Stderr, err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, scheduler, against, only string) (err error) {
	if scheduler == "" {
		return errors.New("say which scheduler to ask: -scheduler PATH of a kube-scheduler")
	}
	wanted, err := regexp.Compile(only)
	if err != nil {
		return fmt.Errorf("read -run: %w", err)
	}
	dir, err := os.MkdirTemp("", "knarr-decisions-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if against == "" {
		server, err := servertest.Start(filepath.Join(dir, "api"))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, server.Stop()) }()
		against = filepath.Join(dir, "kubeconfig")
		if err := writeKubeconfig(against, server.Admin()); err != nil {
			return err
		}
	}
	config, err := clientcmd.BuildConfigFromFlags("", against)
	if err != nil {
		return err
	}
	config.QPS = -1
	api, err := client.NewWithWatch(config, client.Options{Scheme: scheme.Scheme})
	if err != nil {
		return err
	}
	listener, err := listen()
	if err != nil {
		return err
	}
	defer listener.close()
	end, err := start(ctx, scheduler, against, dir, listener.url())
	if err != nil {
		return err
	}
	defer end()
	stage := &stage{api: api, asked: listener}
	if err := stage.build(ctx); err != nil {
		return err
	}
	return compare(ctx, stage, wanted)
}

// compare decides every case, a second time where the answer is not the stated one: the scheduler may not have seen all
// of the case yet.
func compare(ctx context.Context, s *stage, wanted *regexp.Regexp) error {
	var asked, different int
	began := time.Now()
	for _, c := range corpus.Cases() {
		if !wanted.MatchString(c.Name) {
			continue
		}
		asked++
		complaint, err := s.decide(ctx, c)
		if err == nil && complaint != "" {
			complaint, err = s.decide(ctx, c)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
		if complaint != "" {
			different++
			fmt.Printf("DIFFERS  %s: %s\n", c.Name, complaint)
		}
	}
	fmt.Printf("%d cases in %s, %d decided otherwise than stated\n", asked, time.Since(began).Round(time.Second), different)
	if different > 0 {
		return fmt.Errorf("%d of %d cases differ", different, asked)
	}
	return nil
}

// verdict compares what was seen with what is stated; "" when they agree.
func verdict(c corpus.Case, fits []string, placed string) string {
	slices.Sort(fits)
	stated := slices.Clone(c.Fits)
	slices.Sort(stated)
	switch {
	case !slices.Equal(fits, stated):
		return fmt.Sprintf("stated are [%s], it would compare [%s]", strings.Join(stated, " "), strings.Join(fits, " "))
	case c.Best != nil && !slices.Contains(c.Best, placed):
		return fmt.Sprintf("stated as best are [%s], it chose %s", strings.Join(c.Best, " "), placed)
	}
	return ""
}

// configuration has the scheduler look at all nodes and show which ones it would compare.
const configuration = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection: {kubeconfig: %q, qps: 1000, burst: 1000}
leaderElection: {leaderElect: false}
percentageOfNodesToScore: 100
extenders:
- {urlPrefix: %q, filterVerb: filter, nodeCacheCapable: true, httpTimeout: 10s}
`

// start runs the scheduler until end is called.
func start(ctx context.Context, path, kubeconfig, dir, extender string) (end func(), err error) {
	file := filepath.Join(dir, "scheduler.yaml")
	if err := os.WriteFile(file, fmt.Appendf(nil, configuration, kubeconfig, extender), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "scheduler.log"))
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, "--config", file, "--secure-port", "0")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	return func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		_ = cmd.Wait()                          // by our signal
		_ = log.Close()
	}, nil
}

func writeKubeconfig(path string, c *rest.Config) error {
	config := clientcmdapi.NewConfig()
	config.Clusters["own"] = &clientcmdapi.Cluster{Server: c.Host, CertificateAuthority: c.CAFile, CertificateAuthorityData: c.CAData}
	config.AuthInfos["admin"] = &clientcmdapi.AuthInfo{
		ClientCertificate: c.CertFile, ClientKey: c.KeyFile, ClientCertificateData: c.CertData, ClientKeyData: c.KeyData, Token: c.BearerToken,
	}
	config.Contexts["own"] = &clientcmdapi.Context{Cluster: "own", AuthInfo: "admin"}
	config.CurrentContext = "own"
	return clientcmd.WriteToFile(*config, path)
}
