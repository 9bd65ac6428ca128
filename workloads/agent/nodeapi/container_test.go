package nodeapi

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	clientexec "k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/test/images"
	"knarr.dev/knarr/workloads/agent/pod"
	containers "knarr.dev/knarr/workloads/agent/runtime"
)

// real is a containerd with one container on the machine's own network.
type real struct {
	*containers.Runtime
	dir     string
	cgroup  string
	sandbox string
	id      string
}

func (e *real) Pods() []*corev1.Pod { return (&engine{}).Pods() }

func (e *real) VolumePaths(types.UID) map[string]string { return nil }

func (e *real) Find(_, _ string, _ types.UID, container string, _ bool) (pod.Place, error) {
	place := pod.Place{Pod: e.Pods()[0], SandboxID: e.sandbox}
	if container != "" {
		place.ContainerID, place.LogPath = e.id, filepath.Join(e.dir, "log", "app.log")
	}
	return place, nil
}

func (e *real) Exec(ctx context.Context, q *runtimeapi.ExecRequest) (string, error) {
	response, err := e.Runtime.Exec(ctx, q)
	return response.GetUrl(), err
}

func (e *real) Attach(ctx context.Context, q *runtimeapi.AttachRequest) (string, error) {
	response, err := e.Runtime.Attach(ctx, q)
	return response.GetUrl(), err
}

func (e *real) PortForward(ctx context.Context, q *runtimeapi.PortForwardRequest) (string, error) {
	response, err := e.Runtime.PortForward(ctx, q)
	return response.GetUrl(), err
}

// newReal starts containerd and, in it, the test application serving on a port.
func newReal(t *testing.T, port string) *real {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("containers need root")
	}
	helpers := os.Getenv("KNARR_HELPERS")
	if _, err := exec.LookPath("containerd-shim-runc-v2"); helpers == "" && err != nil {
		t.Skip("containerd-shim-runc-v2 is neither on PATH nor in $KNARR_HELPERS; make bundle and point KNARR_HELPERS at what it unpacks")
	}
	dir, err := os.MkdirTemp("", "kn") // short: unix sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	cgroup := fmt.Sprintf("/knarr-nodeapi-%d", os.Getpid())
	t.Cleanup(func() { removeGroups("/sys/fs/cgroup", cgroup) })
	inner, err := containers.New(containers.Config{HelperDir: helpers, Paths: config.Paths{Data: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run")}})
	if err != nil {
		t.Fatal(err)
	}
	e := &real{dir: dir, cgroup: cgroup, Runtime: inner}
	ctx, stop := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() { done <- e.Run(ctx, func() { close(ready) }) })
	t.Cleanup(func() {
		e.removeAll()
		stop()
		running.Wait()
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	archive, err := images.WriteApp(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.ImportFile(t.Context(), archive); err != nil {
		t.Fatal(err)
	}
	e.run(t, port)
	return e
}

func (e *real) run(t *testing.T, port string) {
	t.Helper()
	host := &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE}
	sandbox := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "shop", Uid: "u1"},
		LogDirectory: filepath.Join(e.dir, "log"),
		Linux: &runtimeapi.LinuxPodSandboxConfig{CgroupParent: e.cgroup,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: host}},
	}
	made, err := e.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: sandbox})
	if err != nil {
		t.Fatal(err)
	}
	e.sandbox = made.GetPodSandboxId()
	created, err := e.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: e.sandbox, SandboxConfig: sandbox,
		Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "app"}, Image: &runtimeapi.ImageSpec{Image: images.App}, Args: []string{"serve", port},
			LogPath: "app.log",
			Linux:   &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{NamespaceOptions: host}},
		}})
	if err != nil {
		t.Fatal(err)
	}
	e.id = created.GetContainerId()
	if _, err := e.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: e.id}); err != nil {
		t.Fatal(err)
	}
}

func (e *real) removeAll() {
	if e.sandbox != "" {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_, _ = e.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: e.sandbox})
		_, _ = e.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: e.sandbox})
	}
}

// removeGroups deletes a test's control groups in every hierarchy.
func removeGroups(root, name string) {
	places, _ := filepath.Glob(filepath.Join(root, "*", name))
	for _, place := range append(places, filepath.Join(root, name)) {
		var folders []string
		_ = filepath.WalkDir(place, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				folders = append(folders, path)
			}
			return nil
		})
		for i := len(folders) - 1; i >= 0; i-- {
			_ = os.Remove(folders[i])
		}
	}
}

// One containerd for all: starting it is most of the time a test takes.
func TestRealContainer(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(free.Addr().String())
	free.Close()
	container := newReal(t, port)
	r := newRig(t)
	r.server.config.Agent, r.server.config.Runtime, r.server.stats.Runtime = container, container, container
	admin := r.as("admin")

	t.Run("exec", func(t *testing.T) {
		for protocol, executor := range r.executors("/exec/shop/web/app?input=1&output=1&error=1&command=/app&command=cat") {
			var out, errs bytes.Buffer
			err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader("hello"), Stdout: &out, Stderr: &errs})
			if err != nil || out.String() != "hello" {
				t.Errorf("%s: exec = %q, %q, %v", protocol, out.String(), errs.String(), err)
			}
		}
		for protocol, executor := range r.executors("/exec/shop/web/app?output=1&command=/app&command=exit&command=7") {
			var out bytes.Buffer
			err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: &out})
			if code, ok := err.(clientexec.CodeExitError); !ok || code.Code != 7 {
				t.Errorf("%s: exec = %v, want exit code 7", protocol, err)
			}
		}
		executor := r.executors("/exec/shop/web/app?input=1&output=1&tty=1&command=/app&command=echo&command=hi")["WebSocket"]
		var out bytes.Buffer
		typing, _ := io.Pipe() // a terminal whose input ends is one that was closed
		if err := executor.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: typing, Stdout: &out, Tty: true}); err != nil || out.String() != "hi\r\n" {
			t.Errorf("exec in a terminal = %q, %v", out.String(), err)
		}
	})

	t.Run("port-forward", func(t *testing.T) {
		address, err := url.Parse(r.base + "/portForward/shop/web")
		if err != nil {
			t.Fatal(err)
		}
		roundTripper, upgrader, err := spdy.RoundTripperFor(admin)
		if err != nil {
			t.Fatal(err)
		}
		dialer := spdy.NewDialer(upgrader, &http.Client{Transport: roundTripper}, http.MethodPost, address)
		stop, ready, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		forwarder, err := portforward.New(dialer, []string{"0:" + port}, stop, ready, io.Discard, io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		go func() { done <- forwarder.ForwardPorts() }()
		select {
		case <-ready:
		case err := <-done:
			t.Fatal(err)
		}
		defer func() { close(stop); <-done }()
		ports, err := forwarder.GetPorts()
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", ports[0].Local))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if body, err := io.ReadAll(response.Body); err != nil || len(body) == 0 {
			t.Errorf("answer through the forward = %q, %v", body, err)
		}
	})

	t.Run("statistics", func(t *testing.T) {
		if code, body := r.get(admin, "/stats/summary"); code != 200 || !strings.Contains(body, `"name":"app"`) || !strings.Contains(body, "workingSetBytes") {
			t.Errorf("summary = %d %s", code, body)
		}
		if code, body := r.get(admin, "/metrics/resource"); code != 200 || !strings.Contains(body, `container_memory_working_set_bytes{container="app",namespace="shop",pod="web"}`) {
			t.Errorf("metrics = %d %s", code, body)
		}
	})

	t.Run("logs are followed to the end of the container", func(t *testing.T) {
		client, err := rest.HTTPClientFor(admin)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.base+"/containerLogs/shop/web/app?follow=true", nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		log := bufio.NewReader(response.Body)
		if line, err := log.ReadString('\n'); err != nil || !strings.HasPrefix(line, "serving on ") {
			t.Fatalf("first line = %q, %v", line, err)
		}
		if _, err := container.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: container.id, Timeout: 1}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(log); err != nil {
			t.Errorf("following did not end with the container: %v", err)
		}
	})
}
