package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"knarr.dev/knarr/test/images"
	"knarr.dev/knarr/test/lab/lab"
)

// nodeMain is the command `bench node`: what a node costs, and what each pod that does nothing adds to it. The node is a machine
// of its own, so that what the API server keeps of a pod is not taken for the agent's.
func nodeMain(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("node", flag.ExitOnError)
	knarr := flags.String("knarr", "bin/knarr", "binary to start and measure")
	pods := flags.Int("pods", 60, "pods at rest")
	settle := flags.Duration("settle", time.Minute, "how long the node rests before it is measured")
	idle := flags.Duration("idle", time.Minute, "how long it is measured")
	if err := flags.Parse(args); err != nil {
		return err
	}
	t := &table{}
	defer func() { err = errors.Join(err, t.print(os.Stdout)) }()
	binary, err := filepath.Abs(*knarr)
	if err != nil {
		return err
	}
	if err := os.Setenv("KNARR_BIN", binary); err != nil { // where the lab looks
		return err
	}
	l, err := lab.Create(fmt.Sprintf("bench-%d", os.Getpid()))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	kubeconfig, server, node, err := raisePair(ctx, l, binary)
	if err != nil {
		return err
	}
	space, err := newNamespace(ctx, kubeconfig)
	if err != nil {
		return err
	}
	pids := map[string]int{"agent": node.Pid(), "server": server.Pid()}
	bare, err := atRest(ctx, pids, *settle, *idle)
	if err != nil {
		return err
	}
	names := make([]string, *pods)
	for i := range names {
		names[i] = fmt.Sprintf("idle-%d", i)
	}
	if _, err := space.startPods(ctx, images.App, names); err != nil {
		return err
	}
	full, err := atRest(ctx, pids, *settle, *idle)
	if err != nil {
		return err
	}
	if _, err := space.deletePods(ctx); err != nil {
		return err
	}
	again, err := atRest(ctx, pids, *settle, *idle)
	if err != nil {
		return err
	}
	for _, who := range []string{"agent", "server"} {
		for _, stage := range []struct {
			name string
			cost restCost
		}{{"no pod yet", bare[who]}, {fmt.Sprintf("%d pods", *pods), full[who]}, {"none any more", again[who]}} {
			t.add(who+" with "+stage.name, stage.cost.String())
		}
		// What a machine that has seen pods keeps of them is not for each of them.
		t.add(who+", each pod", fmt.Sprintf("PSS %.3f MiB, anonymous %.3f MiB, %.4f %% of one core",
			(full[who].pss-again[who].pss)/float64(*pods), (full[who].anonymous-again[who].anonymous)/float64(*pods), (full[who].cpu-again[who].cpu)/float64(*pods)))
	}
	return nil
}

// raisePair starts a server without a node, and a node, which has the image.
func raisePair(ctx context.Context, l *lab.Lab, binary string) (kubeconfig string, server, node *lab.Knarr, err error) {
	var machines []*lab.Machine
	for _, name := range []string{"m1", "m2"} {
		m, err := l.Add(name)
		if err != nil {
			return "", nil, nil, err
		}
		machines = append(machines, m)
	}
	dir := filepath.Join(machines[1].DataDir(), "images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, nil, err
	}
	if _, err := images.WriteApp(ctx, dir); err != nil {
		return "", nil, nil, err
	}
	on := func(args ...string) (string, error) {
		var out, complaint bytes.Buffer
		cmd := machines[0].Command(ctx, binary, args...)
		cmd.Env = append(environment(), "KNARR_DATA_DIR="+machines[0].DataDir(), "KNARR_RUN_DIR="+machines[0].RunDir())
		cmd.Stdout, cmd.Stderr = &out, &complaint
		if err := cmd.Run(); err != nil {
			return "", fmt.Errorf("knarr %s: %w: %s", args[0], err, complaint.String())
		}
		return strings.TrimSpace(out.String()), nil
	}
	kubeconfig = machines[0].Kubeconfig()
	if server, err = machines[0].Knarr("server", "--disable-node"); err != nil {
		return "", nil, nil, err
	}
	if err := awaitReady(ctx, kubeconfig); err != nil {
		return "", nil, nil, err
	}
	token, err := on("token", "create")
	if err != nil {
		return "", nil, nil, err
	}
	if node, err = machines[1].Knarr("agent", "--join", fmt.Sprintf("https://%s:6443", machines[0].IP()), "--token", token); err != nil {
		return "", nil, nil, err
	}
	client, err := connect(kubeconfig)
	if err != nil {
		return "", nil, nil, err
	}
	ready, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return kubeconfig, server, node, awaitNode(ready, client)
}

// restCost is what a process costs while nothing is asked of it.
type restCost struct{ pss, anonymous, cpu float64 } // MiB, MiB, percent of a core

func (r restCost) String() string {
	return fmt.Sprintf("PSS %.1f MiB, anonymous %.1f MiB, %.2f %% of one core", r.pss, r.anonymous, r.cpu)
}

// looks are how often memory is read, because it rises and falls with the garbage.
const looks = 10

func atRest(ctx context.Context, pids map[string]int, settle, idle time.Duration) (map[string]restCost, error) {
	if err := wait(ctx, settle); err != nil {
		return nil, err
	}
	costs, first, began := map[string]restCost{}, map[string]int64{}, time.Now()
	for i := range looks + 1 {
		for who, pid := range pids {
			u, err := usageOf([]int{pid})
			if err != nil {
				return nil, err
			}
			if i == 0 {
				first[who] = u.ticks
				continue
			}
			cost := costs[who]
			cost.pss += float64(u.pss) / 1024 / looks
			cost.anonymous += float64(u.anonymous) / 1024 / looks
			cost.cpu = float64(u.ticks-first[who]) / ticksPerSecond / time.Since(began).Seconds() * 100
			costs[who] = cost
		}
		if i < looks {
			if err := wait(ctx, idle/looks); err != nil {
				return nil, err
			}
		}
	}
	return costs, nil
}
