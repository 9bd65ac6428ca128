// Command network measures a node's network beside upstream's: the service proxy and the cluster's DNS; and the overlays.
//
// In:       an API server with Services and EndpointSlices; our proxy and resolver; kube-proxy in its modes and CoreDNS.
// Out:      tables: how fast Services become reachable, change and connect; how many names are answered, how fast;
// how fast packets cross between two machines.
// Promise:  each is a process of its own that meets the same objects by the same watch; nothing outside sees any of it.
// Not here: whether the rules and answers are right (netstack/proxy, netstack/dns).
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
	"syscall"

	"k8s.io/klog/v2"
)

// These verbs make this program what a node runs of ours, and nothing else.
const (
	proxyVerb    = "proxy"
	resolverVerb = "resolver"
	overlayVerb  = "overlay-node"
)

const usage = `usage: network services [FLAGS]   the service proxy
       network dns [FLAGS]        the cluster's DNS
       network overlay [FLAGS]    the ways between machines
Each takes -h`

func main() {
	if len(os.Args) < 2 {
		end(errors.New(usage))
	}
	verb, args := os.Args[1], os.Args[2:]
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	var err error
	switch verb {
	case proxyVerb:
		err = runProxy(ctx, args)
	case resolverVerb:
		err = runResolver(ctx, args)
	case overlayVerb:
		err = runOverlay(ctx, args)
	case "overlay":
		err = alone(ctx, args, benchOverlay)
	case "services":
		err = alone(ctx, args, benchServices)
	case "dns":
		err = alone(ctx, args, benchDNS)
	default:
		err = errors.New(usage)
	}
	stop()
	end(err)
}

func end(err error) {
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

const inNamespace = "KNARR_BENCH_IN_NAMESPACE"

// alone runs a bench in a network namespace of its own, whose loopback the API server is on, with a folder that goes.
func alone(ctx context.Context, args []string, bench func(ctx context.Context, args []string, work string) error) (err error) {
	if os.Getenv(inNamespace) == "" {
		command := exec.CommandContext(ctx, "/proc/self/exe", os.Args[1:]...)
		command.Env = append(os.Environ(), inNamespace+"=1")
		command.Stdout, command.Stderr = os.Stdout, os.Stderr
		command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
		command.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if err := command.Run(); err != nil {
			return fmt.Errorf("run in a network namespace of its own (as root): %w", err)
		}
		return nil
	}
	work, err := os.MkdirTemp("", "knarr-network-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	if err := raise("lo"); err != nil {
		return err
	}
	return bench(ctx, args, work)
}
