// Package faults holds one machine to its promises while the worst happens to it.
//
// In:       the knarr binary, a machine of the lab, images of our own; a seed.
// Out:      kill -9 in the middle of pods' ways up and down, judged by comparing the whole machine with the API; pods
//
//	made to hurt the node, judged by how the others fare.
//
// Promise:  what is done follows from the seed; nothing is left behind.
// Not here: what an ill-meaning client does to the API server (test/hostile).
//
//	go test ./test/faults -run TestKilled -kills 500 -machines 2 -seed 7 -v -timeout 2h
//	go test ./test/faults -run TestHostilePods -pods 1000 -seed 7 -v -timeout 2h
package faults

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"knarr.dev/knarr/test/images"
	"knarr.dev/knarr/test/lab/lab"
)

var (
	kills    = flag.Int("kills", 0, "how often knarr is killed")
	machines = flag.Int("machines", 1, "on how many machines side by side, each of which is alone; a kill is mostly waiting")
	pods     = flag.Int("pods", 0, "how many hostile pods come")
	seed     = flag.Uint64("seed", 1, "what the run follows from")
)

// patience is how long anything that takes a second may take on a loaded machine before it counts as broken.
const patience = 60 * time.Second

// node is a machine with knarr on it, and a client on the host.
type node struct {
	t       *testing.T
	machine *lab.Machine
	knarr   *lab.Knarr
	client  kubernetes.Interface
}

// start a cluster of one machine, with the test images in its store.
func start(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, machine: lab.New(t).Machine("m1")}
	dir := filepath.Join(n.machine.DataDir(), "images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := images.WriteApp(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	n.knarr = n.machine.StartKnarr("server")
	if err := n.connect(); err != nil {
		t.Fatal(err)
	}
	n.eventually("the node to be Ready", func(ctx context.Context) error {
		got, err := n.client.CoreV1().Nodes().Get(ctx, n.machine.Name(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range got.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return errors.New("it is not")
	})
	n.eventually("pods to have an account", func(ctx context.Context) error {
		_, err := n.client.CoreV1().ServiceAccounts(metav1.NamespaceDefault).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	return n
}

// connect waits until the API answers as the administrator.
func (n *node) connect() error {
	return wait(n.t.Context(), patience, func(ctx context.Context) error {
		select {
		case <-n.knarr.Ended():
			return final{fmt.Errorf("knarr ended while starting: %w", n.knarr.Err())}
		default:
		}
		config, err := clientcmd.BuildConfigFromFlags("", n.machine.Kubeconfig())
		if err != nil {
			return err
		}
		config.QPS, config.Timeout, config.WarningHandler = -1, patience, rest.NoWarnings{}
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			return err
		}
		n.client = client
		return client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
	})
}

// eventually is for what must come true; the test ends when it doesn't.
func (n *node) eventually(what string, holds func(context.Context) error) {
	n.t.Helper()
	if err := wait(n.t.Context(), patience, holds); err != nil {
		n.t.Fatalf("waiting for %s: %v", what, err)
	}
}

// final ends a wait: it will not get better.
type final struct{ error }

// wait asks again and again: much of what is asked here is a file, a process or a port, which send no event.
func wait(ctx context.Context, limit time.Duration, holds func(context.Context) error) error {
	return waitEvery(ctx, 20*time.Millisecond, limit, holds)
}

// waitEvery is for what is costly to ask.
func waitEvery(ctx context.Context, pause, limit time.Duration, holds func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	again := time.NewTicker(pause)
	defer again.Stop()
	for {
		err := holds(ctx)
		if end := (final{}); err == nil || errors.As(err, &end) {
			return err
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", limit, err)
		}
	}
}
