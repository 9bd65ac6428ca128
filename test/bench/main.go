// Command bench measures a cluster as a user meets it and prints one table.
//
// In:       a knarr binary, which it starts from nothing; or any cluster's kubeconfig and the pids it consists of.
// Out:      a table: start times, memory and CPU at idle, pods' latency, API latency and throughput, binary size.
// Promise:  request loops are bounded; what it starts it stops, and `knarr reset` clears its folders.
// Not here: whether answers are right (test/e2e).
//
//	go run ./test/bench                                          knarr, started by the benchmark
//	go run ./test/bench -kubeconfig FILE -pids 12,34 -image REF  any other cluster, already running
//	go run ./test/bench controllers                              a thousand Deployments on nodes that are played (README.md)
//	go run ./test/bench node                                     a node of its own, and what each pod at rest adds to it
//
// The clients share the machine with what they measure, so compare figures of one run on one machine only.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// options are the flags.
type options struct {
	knarr, kubeconfig, pids, image string
	starts, pods, burst            int
	settle, idle                   time.Duration
	skip                           string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	var err error
	switch {
	case len(os.Args) > 1 && os.Args[1] == "controllers":
		err = controllersMain(ctx, os.Args[2:])
	case len(os.Args) > 1 && os.Args[1] == "node":
		err = nodeMain(ctx, os.Args[2:])
	default:
		err = run(ctx, parse())
	}
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse() options {
	var o options
	flag.StringVar(&o.knarr, "knarr", "bin/knarr", "binary to start and measure")
	flag.StringVar(&o.kubeconfig, "kubeconfig", "", "measure this running cluster instead")
	flag.StringVar(&o.pids, "pids", "", "the running cluster's processes, with commas; their children count too")
	flag.StringVar(&o.image, "image", "", "image of the measured pods, present on the node; default: the one the benchmark imports")
	flag.IntVar(&o.starts, "starts", 3, "cold and warm starts")
	flag.IntVar(&o.pods, "pods", 20, "pods started one at a time")
	flag.IntVar(&o.burst, "burst", 50, "pods started at once")
	flag.DurationVar(&o.settle, "settle", 60*time.Second, "how long a started cluster rests before its idle is measured")
	flag.DurationVar(&o.idle, "idle", 60*time.Second, "how long idle is measured")
	flag.StringVar(&o.skip, "skip", "", "what to leave out, with commas: start, idle, pods, api")
	flag.Parse()
	return o
}

func (o options) skips(part string) bool {
	return strings.Contains(","+o.skip+",", ","+part+",")
}

func run(ctx context.Context, o options) (err error) {
	t := &table{}
	defer func() { err = errors.Join(err, t.print(os.Stdout)) }()
	if o.kubeconfig != "" {
		pids, err := parsePIDs(o.pids)
		if err != nil {
			return err
		}
		return measure(ctx, o, t, o.kubeconfig, pids)
	}
	info, err := os.Stat(o.knarr)
	if err != nil {
		return fmt.Errorf("find the binary to measure: %w (make build)", err)
	}
	t.add("binary", fmt.Sprintf("%.1f MiB", float64(info.Size())/(1<<20)))
	m, err := newMachine(ctx, o.knarr)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.reset()) }()
	if o.image == "" {
		o.image = m.image
	}
	starts := o.starts
	if o.skips("start") {
		starts = 1
	}
	if err := m.measureStarts(ctx, t, starts, o.image); err != nil {
		return err
	}
	return measure(ctx, o, t, m.kubeconfig(), []int{m.pid()})
}

func measure(ctx context.Context, o options, t *table, kubeconfig string, pids []int) error {
	if !o.skips("idle") && len(pids) > 0 {
		if err := measureIdle(ctx, t, pids, o.settle, o.idle); err != nil {
			return err
		}
	}
	space, err := newNamespace(ctx, kubeconfig)
	if err != nil {
		return err
	}
	defer func() { _ = space.remove(context.WithoutCancel(ctx)) }() // a leftover namespace only costs the next run a conflict
	if !o.skips("pods") {
		if err := measurePods(ctx, t, space, o.image, o.pods, o.burst); err != nil {
			return err
		}
	}
	if !o.skips("api") {
		if err := measureAPI(ctx, t, space); err != nil {
			return err
		}
	}
	return nil
}

func parsePIDs(text string) ([]int, error) {
	if text == "" {
		return nil, nil
	}
	var pids []int
	for _, field := range strings.Split(text, ",") {
		pid, err := strconv.Atoi(strings.TrimSpace(field))
		if err != nil {
			return nil, fmt.Errorf("pids: %q is no process number", field)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// connect makes a client that speaks JSON, as kubectl and most controllers outside of Kubernetes itself do.
func connect(kubeconfig string) (*kubernetes.Clientset, error) {
	cfg, err := clientConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	cfg.ContentType = "application/json"
	return kubernetes.NewForConfig(cfg)
}

// clientConfig is for clients with connections of their own and without client-side throttling.
func clientConfig(kubeconfig string) (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, err
	}
	cfg.QPS, cfg.Burst = -1, -1
	cfg.WarningHandler = rest.NoWarnings{}
	cfg.Dial = newDialer()
	return cfg, nil
}
