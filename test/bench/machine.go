package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"knarr.dev/knarr/test/images"
)

// startTimeout bounds one start; the goal is 3 s, so ten times that is broken rather than slow.
const startTimeout = 60 * time.Second

// machine is a knarr the benchmark starts, from folders of its own.
type machine struct {
	binary, dir, archive, image string
	extra                       []string // flags
	server                      *exec.Cmd
}

func newMachine(ctx context.Context, binary string) (*machine, error) {
	dir, err := os.MkdirTemp("", "knarr-bench-")
	if err != nil {
		return nil, err
	}
	binary, err = filepath.Abs(binary)
	if err != nil {
		return nil, err
	}
	archive, err := images.WriteApp(ctx, dir)
	if err != nil {
		return nil, err
	}
	return &machine{binary: binary, dir: dir, archive: archive, image: images.App}, nil
}

func (m *machine) data() string       { return filepath.Join(m.dir, "data") }
func (m *machine) kubeconfig() string { return filepath.Join(m.data(), "kubeconfig") }
func (m *machine) pid() int           { return m.server.Process.Pid }

func (m *machine) flags() []string {
	return []string{"--data-dir", m.data(), "--run-dir", filepath.Join(m.dir, "run"), "--cgroup-root", "/knarr-bench"}
}

// environment is this shell's without KNARR_... variables, which are settings and not meant for what is measured.
func environment() []string {
	return slices.DeleteFunc(os.Environ(), func(entry string) bool { return strings.HasPrefix(entry, "KNARR_") })
}

func (m *machine) start() error {
	log, err := os.OpenFile(filepath.Join(m.dir, "knarr.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	m.server = exec.Command(m.binary, slices.Concat([]string{"server"}, m.flags(), m.extra)...)
	m.server.Stderr, m.server.Env = log, environment()
	return m.server.Start()
}

func (m *machine) stop() error {
	if m.server == nil {
		return nil
	}
	err := m.server.Process.Signal(syscall.SIGTERM)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	waited := m.server.Wait()
	m.server = nil
	return errors.Join(err, waited)
}

// clear stops knarr and removes all it made.
func (m *machine) clear() error {
	err := m.stop()
	reset := exec.Command(m.binary, append([]string{"reset", "--yes"}, m.flags()...)...)
	reset.Env = environment()
	out, failed := reset.CombinedOutput()
	if failed != nil {
		err = errors.Join(err, fmt.Errorf("reset: %w\n%s", failed, out))
	}
	return err
}

func (m *machine) reset() error { return errors.Join(m.clear(), os.RemoveAll(m.dir)) }

// measureStarts leaves the machine running.
func (m *machine) measureStarts(ctx context.Context, t *table, starts int, image string) error {
	var cold, warm starting
	for i := range starts {
		if err := m.clear(); err != nil {
			return err
		}
		// The only thing in the empty data directory: the image of the first pod, imported as part of the start.
		if err := m.placeImage(); err != nil {
			return err
		}
		if err := m.timeStart(ctx, &cold, image); err != nil {
			return fmt.Errorf("cold start %d: %w (log: %s)", i+1, err, filepath.Join(m.dir, "knarr.log"))
		}
	}
	for i := range starts {
		if err := m.stop(); err != nil {
			return err
		}
		if err := m.timeStart(ctx, &warm, image); err != nil {
			return fmt.Errorf("warm start %d: %w (log: %s)", i+1, err, filepath.Join(m.dir, "knarr.log"))
		}
	}
	cold.add(t, "cold start (empty directory)")
	warm.add(t, "warm start")
	return nil
}

func (m *machine) placeImage() error {
	dir := filepath.Join(m.data(), "images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	from, err := os.Open(m.archive)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.Create(filepath.Join(dir, "app.tar"))
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}

// starting collects what several starts took.
type starting struct{ api, node, pod []time.Duration }

func (s *starting) add(t *table, name string) {
	t.add(name+" to API ready", seconds(s.api))
	t.add(name+" to node Ready", seconds(s.node))
	t.add(name+" to first pod Running", seconds(s.pod))
}

func (m *machine) timeStart(ctx context.Context, s *starting, image string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	begin := time.Now()
	if err := m.start(); err != nil {
		return err
	}
	client, err := m.awaitAPI(ctx)
	if err != nil {
		return err
	}
	s.api = append(s.api, time.Since(begin))
	node := make(chan error, 1)
	var nodeTook time.Duration
	go func() {
		err := awaitNode(ctx, client)
		nodeTook = time.Since(begin)
		node <- err
	}()
	space := &namespace{client: client, name: "default"}
	if err := space.awaitAccount(ctx); err != nil {
		return err
	}
	name := fmt.Sprintf("first-%d", begin.UnixNano())
	if _, err := space.startPods(ctx, image, []string{name}); err != nil {
		return err
	}
	s.pod = append(s.pod, time.Since(begin))
	if err := <-node; err != nil {
		return err
	}
	s.node = append(s.node, nodeTook)
	_, err = space.deletePods(ctx)
	return err
}

// awaitAPI asks every 5 ms: nothing tells when a port that does not exist yet will.
func (m *machine) awaitAPI(ctx context.Context) (*kubernetes.Clientset, error) {
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		if client, err := connect(m.kubeconfig()); err == nil {
			if err := client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error(); err == nil {
				return client, nil
			}
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("API not ready: %w", ctx.Err())
		}
	}
}

func awaitNode(ctx context.Context, client kubernetes.Interface) error {
	changes, err := client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{}) // begins with what is there
	if err != nil {
		return err
	}
	defer changes.Stop()
	for event := range changes.ResultChan() {
		node, ok := event.Object.(*corev1.Node)
		if !ok || event.Type == watch.Deleted {
			continue
		}
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
	}
	return fmt.Errorf("node not Ready: %w", ctx.Err())
}

func newDialer() func(ctx context.Context, network, address string) (net.Conn, error) {
	return (&net.Dialer{Timeout: 10 * time.Second}).DialContext
}

func ignoreExists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
