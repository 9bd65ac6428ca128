// Package e2e tells what a user does with knarr, on real clusters in the lab.
//
// In:       the knarr binary, machines made of namespaces, images of our own.
// Out:      stories: a file each.
// Promise:  nothing is left behind; waiting is a watch with a deadline.
// Not here: rules and parts, which are tested where they live.
package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	watchtools "k8s.io/client-go/tools/watch"

	"knarr.dev/knarr/test/images"
	"knarr.dev/knarr/test/lab/lab"
)

// patience is how long anything that takes a second may take on a loaded machine before it counts as broken.
const patience = 60 * time.Second

// cluster is one or more machines, and a client on the host.
type cluster struct {
	t      *testing.T
	lab    *lab.Lab
	server *lab.Machine
	knarr  *lab.Knarr
	client kubernetes.Interface
}

var archive = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "knarr-e2e-images-")
	if err != nil {
		return "", err
	}
	cleanups = append(cleanups, func() error { return os.RemoveAll(dir) })
	return images.WriteApp(context.Background(), dir)
})

// cleanups run when every test has ended.
var cleanups []func() error

func TestMain(m *testing.M) {
	if dir := os.Getenv(containerdVariable); dir != "" {
		os.Exit(containerd(dir))
	}
	code := m.Run()
	for _, f := range cleanups {
		if err := f(); err != nil {
			fmt.Fprintln(os.Stderr, "clean up:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// start a cluster of one machine, with the test images in its store.
func start(t *testing.T, args ...string) *cluster {
	t.Helper()
	l := lab.New(t)
	return startOn(t, l, l.Machine("m1"), args...)
}

// startOn starts the cluster on a machine of the lab.
func startOn(t *testing.T, l *lab.Lab, m *lab.Machine, args ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, lab: l, server: m}
	giveImages(t, c.server)
	c.knarr = c.server.StartKnarr("server", args...)
	c.connect()
	c.awaitNode(c.server.Name(), corev1.ConditionTrue)
	return c
}

// giveImages places the test images where knarr imports from when it starts.
func giveImages(t *testing.T, m *lab.Machine) {
	t.Helper()
	from, err := archive()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(m.DataDir(), "images")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "app.tar"), content, 0o644); err != nil {
		t.Fatal(err)
	}
}

// connect waits until the API answers as the administrator.
func (c *cluster) connect() {
	c.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	again := time.NewTicker(20 * time.Millisecond) // a port that is not there yet sends no event
	defer again.Stop()
	for {
		client, err := c.tryConnect()
		if err == nil {
			c.client = client
			return
		}
		select {
		case <-again.C:
		case <-c.knarr.Ended():
			c.t.Fatalf("knarr ended while starting: %v", c.knarr.Err())
		case <-deadline.C:
			c.t.Fatalf("API not ready within %s: %v", patience, err)
		}
	}
}

func (c *cluster) restConfig() (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", c.server.Kubeconfig())
	if err != nil {
		return nil, err
	}
	cfg.QPS, cfg.Burst = -1, -1
	cfg.Timeout = patience
	return cfg, nil
}

func (c *cluster) tryConnect() (kubernetes.Interface, error) {
	cfg, err := c.restConfig()
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	return client, client.RESTClient().Get().AbsPath("/readyz").Do(c.t.Context()).Error()
}

// until waits for a condition of the objects a list-watch yields; what says what is waited for.
func until[T runtime.Object](t *testing.T, what string, source cache.ListerWatcher, example T, holds func(watch.EventType, T) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var last T
	_, err := watchtools.UntilWithSync(ctx, source, example, nil, func(e watch.Event) (bool, error) {
		object, ok := e.Object.(T)
		if !ok {
			return false, fmt.Errorf("watch sent %T", e.Object)
		}
		last = object
		return holds(e.Type, object), nil
	})
	if err != nil {
		t.Fatalf("waiting for %s: %v; last seen: %v", what, err, last)
	}
}

// named lists and watches one object.
func (c *cluster) named(resource, namespace, name string) cache.ListerWatcher {
	client := c.client.CoreV1().RESTClient()
	switch resource {
	case "deployments", "daemonsets":
		client = c.client.AppsV1().RESTClient()
	}
	return cache.NewListWatchFromClient(client, resource, namespace, fields.OneTermEqualSelector("metadata.name", name))
}

func (c *cluster) awaitNode(name string, ready corev1.ConditionStatus) {
	c.t.Helper()
	until(c.t, fmt.Sprintf("node %s to be Ready=%s", name, ready), c.named("nodes", "", name), &corev1.Node{},
		func(_ watch.EventType, n *corev1.Node) bool {
			for _, condition := range n.Status.Conditions {
				if condition.Type == corev1.NodeReady {
					return condition.Status == ready
				}
			}
			return false
		})
}

func (c *cluster) awaitPod(name, what string, holds func(*corev1.Pod) bool) *corev1.Pod {
	c.t.Helper()
	var found *corev1.Pod
	until(c.t, fmt.Sprintf("pod %s %s", name, what), c.named("pods", "default", name), &corev1.Pod{},
		func(e watch.EventType, p *corev1.Pod) bool {
			found = p
			return e != watch.Deleted && holds(p)
		})
	return found
}

func podReady(p *corev1.Pod) bool {
	for _, condition := range p.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

func podEnded(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// app is a container of the test image.
func app(args ...string) corev1.Container {
	return corev1.Container{Name: "app", Image: images.App, Args: args, ImagePullPolicy: corev1.PullIfNotPresent}
}

// pod is one with these containers, ended quickly when deleted.
func pod(name string, containers ...corev1.Container) *corev1.Pod {
	grace := int64(1)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec:       corev1.PodSpec{Containers: containers, TerminationGracePeriodSeconds: &grace},
	}
}

func (c *cluster) create(p *corev1.Pod) {
	c.t.Helper()
	if _, err := c.client.CoreV1().Pods("default").Create(c.t.Context(), p, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// kubectl runs the binary's own, from the host.
func (c *cluster) kubectl(args ...string) string {
	c.t.Helper()
	out, err := c.tryKubectl(args...)
	if err != nil {
		c.t.Fatalf("kubectl %s: %v", strings.Join(args, " "), err)
	}
	return out
}

func (c *cluster) tryKubectl(args ...string) (string, error) {
	cmd, err := c.kubectlCommand(args...)
	if err != nil {
		return "", err
	}
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, complaint.String())
	}
	return out.String(), nil
}

func (c *cluster) kubectlCommand(args ...string) (*exec.Cmd, error) {
	binary, err := lab.Binary()
	if err != nil {
		return nil, err
	}
	return exec.CommandContext(c.t.Context(), binary, append([]string{"kubectl", "--kubeconfig", c.server.Kubeconfig()}, args...)...), nil
}

// exec runs the test application's command in a running pod and returns what it printed.
func (c *cluster) exec(pod string, args ...string) string {
	c.t.Helper()
	return c.kubectl(append([]string{"exec", pod, "--", "/app"}, args...)...)
}

// eventually repeats a question from inside a pod until the answer satisfies; packets and names send no events.
func (c *cluster) eventually(what string, holds func() error) {
	c.t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		err := holds()
		if err == nil {
			return
		}
		select {
		case <-again.C:
		case <-deadline.C:
			c.t.Fatalf("%s: not within %s: %v", what, patience, err)
		}
	}
}
