package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/test/lab/lab"
	containers "knarr.dev/knarr/workloads/agent/runtime"
)

// containerdVariable makes this test's program a containerd that keeps its files in the folder it names.
const containerdVariable = "KNARR_E2E_CONTAINERD"

// containerd serves CRI to others until it is told to end.
func containerd(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	r, err := containers.New(containers.Config{
		Paths: containerdPaths(dir), HelperDir: os.Getenv("KNARR_HELPERS"), CNIBinDir: filepath.Join(dir, "bin"),
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err == nil {
		err = r.Run(ctx, func() {})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func containerdPaths(dir string) config.Paths {
	return config.Paths{Data: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run")}
}

// operatorsContainerd is one on a machine that has nothing to do with knarr.
type operatorsContainerd struct {
	t     *testing.T
	on    *lab.Machine
	dir   string
	log   *os.File
	cmd   *lab.Cmd
	ended chan error
}

func (o *operatorsContainerd) start() {
	o.t.Helper()
	o.cmd = o.on.Command(context.Background(), os.Args[0])
	o.cmd.Env = append(lab.WithoutSettings(os.Environ()), containerdVariable+"="+o.dir, "KNARR_HELPERS="+os.Getenv("KNARR_HELPERS"))
	o.cmd.Stdout, o.cmd.Stderr = o.log, o.log
	if err := o.cmd.Start(); err != nil {
		o.t.Fatal(err)
	}
	ended := make(chan error, 1)
	o.ended = ended
	go func() { ended <- o.cmd.Wait() }()
}

func (o *operatorsContainerd) kill() {
	o.t.Helper()
	if err := o.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		o.t.Fatal(err)
	}
	<-o.ended
}

// TestContainersOfAnotherRuntime: a node on a containerd of the operator's own, which it speaks CRI with. Its pods outlive
// knarr and that containerd, and both find them again.
func TestContainersOfAnotherRuntime(t *testing.T) {
	if os.Getenv("KNARR_HELPERS") == "" {
		t.Skip("the operator's containerd needs the helpers; make bundle and point KNARR_HELPERS at what it unpacks")
	}
	l := lab.New(t)
	c := &cluster{t: t, lab: l, server: l.Machine("m1")}
	other := &operatorsContainerd{t: t, on: c.server, dir: filepath.Join(c.server.Dir(), "other")}
	paths := containerdPaths(other.dir)
	for _, dir := range []string{paths.Images(), paths.Run} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	from, err := archive()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(paths.Images(), "app.tar"), content, 0o644); err != nil {
		t.Fatal(err)
	}
	if other.log, err = os.Create(filepath.Join(other.dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		other.kill()
		if t.Failed() {
			said, _ := os.ReadFile(other.log.Name())
			t.Logf("the containerd of this test said:\n%s", said)
		}
		_ = other.log.Close() // its writer has ended
	})

	endpoint := "unix://" + paths.ContainerdSocket()
	// knarr comes first, and waits.
	args := []string{"--container-runtime-endpoint", endpoint, "--cni-conf-dir", paths.CNIConfig(), "--cni-bin-dir", filepath.Join(other.dir, "bin")}
	c.knarr = c.server.StartKnarr("server", args...)
	c.connect()
	other.start()
	c.awaitNode(c.server.Name(), corev1.ConditionTrue)

	c.create(pod("survivor", app("serve")))
	before := c.awaitPod("survivor", "to be ready", podReady)
	if got := c.exec("survivor", "get", "http://127.0.0.1:8080/"); !strings.Contains(got, "hello from survivor") {
		t.Errorf("the pod answers %q", got)
	}
	c.kubectl("logs", "survivor")
	c.create(pod("brief", app("exit", "3")))
	c.awaitPod("brief", "to be started again", func(p *corev1.Pod) bool {
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].RestartCount > 0
	})
	if _, err := os.Stat(filepath.Join(c.server.RunDir(), "containerd.sock")); !os.IsNotExist(err) {
		t.Errorf("knarr's own containerd runs beside it (%v)", err)
	}
	for _, args := range [][]string{{"image", "import", from}, {"image", "list"}, {"ctr", "version"}} {
		if out, err := c.onMachine(c.server, args...); err == nil || !strings.Contains(out, endpoint) {
			t.Errorf("knarr %s = %v, %q; want an error that names the runtime", strings.Join(args, " "), err, out)
		}
	}
	if err := c.client.CoreV1().Pods("default").Delete(t.Context(), "brief", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}

	if err := c.knarr.Kill9(); err != nil {
		t.Fatal(err)
	}
	if err := c.knarr.Start(); err != nil {
		t.Fatal(err)
	}
	c.connect()
	c.awaitNode(c.server.Name(), corev1.ConditionTrue)
	other.kill()
	other.start()
	c.create(pod("newcomer", app("serve")))
	c.awaitPod("newcomer", "to be ready", podReady)
	after := c.awaitPod("survivor", "to be ready", podReady)
	if b, a := before.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]; a.ContainerID != b.ContainerID || a.RestartCount != b.RestartCount {
		t.Errorf("container %s with %d restarts became %s with %d", b.ContainerID, b.RestartCount, a.ContainerID, a.RestartCount)
	}
	if got := c.exec("survivor", "get", "http://127.0.0.1:8080/"); !strings.Contains(got, "hello from survivor") {
		t.Errorf("after the restarts the pod answers %q", got)
	}

	out, err := c.onMachine(c.server, append(append([]string{"reset", "--yes"}, c.server.KnarrArgs("")[1:]...), args...)...)
	if err != nil {
		t.Fatalf("reset: %v\n%s", err, out)
	}
	<-c.knarr.Ended()
	if pids := c.containerPids(); len(pids) > 0 {
		t.Errorf("processes left in pods' cgroups: %v", pids)
	}
	for _, dir := range []string{paths.CNIConfig(), filepath.Join(other.dir, "bin")} {
		if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
			t.Errorf("%v is left in %s", entries, dir)
		}
	}
}
