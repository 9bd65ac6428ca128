package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// contender is a scheduler that is measured: ours without a command, any other with one.
type contender struct {
	name    string
	command []string
	config  string // a file to write beside the kubeconfig, "" for none
}

// kubeScheduler is upstream's with what its own benchmark gives it: no limit on requests, and nobody to share the
// leadership with.
func kubeScheduler(binary string) contender {
	return contender{
		name: "kube-scheduler", command: []string{binary, "--config={config}", "--secure-port=0", "--v=0"},
		config: `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection:
  kubeconfig: {kubeconfig}
  contentType: application/vnd.kubernetes.protobuf
  qps: 10000
  burst: 10000
leaderElection:
  leaderElect: false
`,
	}
}

// start lets the contender begin. Its processes are those that work for it; stop ends it.
func (c contender) start(ctx context.Context, p *process) (pids []int, stop func() error, err error) {
	if c.command == nil {
		return []int{p.command.Process.Pid}, func() error { return nil }, p.say(scheduleLine)
	}
	if err := p.say(elsewhereLine); err != nil {
		return nil, nil, err
	}
	fill := func(s string) string { return strings.ReplaceAll(s, "{kubeconfig}", p.kubeconfig) }
	if c.config != "" {
		path := filepath.Join(filepath.Dir(p.kubeconfig), "scheduler.yaml")
		if err := os.WriteFile(path, []byte(fill(c.config)), 0o600); err != nil {
			return nil, nil, err
		}
		fill = func(s string) string {
			return strings.NewReplacer("{kubeconfig}", p.kubeconfig, "{config}", path).Replace(s)
		}
	}
	args := make([]string, len(c.command))
	for i, arg := range c.command {
		args[i] = fill(arg)
	}
	command := exec.CommandContext(ctx, args[0], args[1:]...)
	command.Stderr = os.Stderr
	if err := command.Start(); err != nil {
		return nil, nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	stop = func() error {
		if err := command.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		force := time.AfterFunc(10*time.Second, func() { _ = command.Process.Kill() })
		defer force.Stop()
		var ended *exec.ExitError
		if err := command.Wait(); err != nil && !errors.As(err, &ended) {
			return err
		}
		return nil
	}
	return []int{p.command.Process.Pid, command.Process.Pid}, stop, nil
}
