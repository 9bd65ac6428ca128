// Command scheduler measures how fast a scheduler gives pods their nodes.
//
// In:       cases (which nodes, which pods); our scheduler, and any other that starts with a kubeconfig.
// Out:      a table: pods a second, latency percentiles, processor time a pod; per case and scheduler.
// Promise:  every scheduler of a case meets a copy of the same datastore; the pods' nodes hold what was put on them.
// Not here: whether a node was the right one (workloads/scheduler).
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	cases, upstream, command string
	only, profile, work      string
	results                  string
	prepare                  bool
	scale                    float64
	arrivals                 int
	rate                     float64
	limit                    time.Duration
}

func main() {
	if len(os.Args) > 2 && os.Args[1] == serveVerb {
		end(serve(os.Args[2:]))
	}
	var o options
	flag.StringVar(&o.cases, "cases", "", "which cases, with commas; default: all ("+strings.Join(names(), ", ")+")")
	flag.StringVar(&o.upstream, "kube-scheduler", "", "a kube-scheduler to measure beside ours")
	flag.StringVar(&o.command, "command", "", "another scheduler to measure beside ours: a command line, {kubeconfig} in it is replaced")
	flag.StringVar(&o.only, "only", "", "measure this one alone: knarr, kube-scheduler, command")
	flag.Float64Var(&o.scale, "scale", 1, "share of each case's nodes and pods")
	flag.IntVar(&o.arrivals, "arrivals", 300, "pods whose latency is measured, after the backlog")
	flag.Float64Var(&o.rate, "rate", 100, "arrivals a second")
	flag.DurationVar(&o.limit, "limit", 5*time.Minute, "how long a backlog may take")
	flag.StringVar(&o.profile, "profile", "", "folder for CPU profiles of the process that holds the API server")
	flag.StringVar(&o.work, "work", "", "folder for the prepared datastores, which a later run takes up again; default: a temporary one")
	flag.BoolVar(&o.prepare, "prepare", false, "only fill the datastores in the -work folder")
	flag.StringVar(&o.results, "results", "", "file for what was measured; a later run takes it up and measures what is missing")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, o)
	stop()
	end(err)
}

func end(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context, o options) (err error) {
	if o.work == "" {
		if o.work, err = os.MkdirTemp("", "knarr-scheduler-bench-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.work)) }()
	}
	chosen, err := choose(o.cases)
	if err != nil {
		return err
	}
	t, err := readTable(o.results)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.print(os.Stdout)) }()
	for _, c := range chosen {
		c = c.scaled(o.scale)
		missing := slices.DeleteFunc(o.schedulers(), func(s contender) bool { return t.has(c, s) })
		if len(missing) == 0 {
			continue
		}
		prepared := filepath.Join(o.work, fmt.Sprintf("%s-%d", c.name, c.nodes))
		if err := prepare(ctx, c, prepared); err != nil {
			return fmt.Errorf("prepare %s: %w", c.name, err)
		}
		if o.prepare {
			continue
		}
		for _, s := range missing {
			r, err := measure(ctx, o, c, s, prepared)
			if err != nil {
				return fmt.Errorf("measure %s on %s: %w", s.name, c.name, err)
			}
			if err := t.add(c, s, r); err != nil {
				return err
			}
		}
	}
	return nil
}

// schedulers are those to measure: ours and what flags name.
func (o options) schedulers() []contender {
	all := []contender{{name: "knarr"}}
	if o.upstream != "" {
		all = append(all, kubeScheduler(o.upstream))
	}
	if o.command != "" {
		all = append(all, contender{name: "command", command: strings.Fields(o.command)})
	}
	if o.only == "" {
		return all
	}
	return slices.DeleteFunc(all, func(c contender) bool { return c.name != o.only })
}
