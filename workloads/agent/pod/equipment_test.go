package pod

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	pluginv1 "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"knarr.dev/knarr/workloads/agent/devices"
	"knarr.dev/knarr/workloads/agent/devices/plugintest"
)

// TestAContainerGetsItsDevice has a real container open the device that a plugin gave it, and refuses the next pod.
func TestAContainerGetsItsDevice(t *testing.T) {
	const gpu = "example.com/gpu"
	helpers := helpers(t)
	dir, err := os.MkdirTemp("", "kn")
	if err != nil {
		t.Fatal(err)
	}
	m := machineIn(t, dir, fmt.Sprintf("/knarr-test-%d", os.Getpid()))
	t.Cleanup(m.remove)
	changed := make(chan struct{}, 100)
	manager, err := devices.New(devices.Config{
		Dir: filepath.Join(dir, "p"), State: filepath.Join(dir, "devices.json"), Changed: func() { changed <- struct{}{} }, Log: slog.Default(),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- manager.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	<-ready
	plugin, err := plugintest.Start(t.Context(), filepath.Join(dir, "p"), gpu, map[string]bool{"one": true})
	if err != nil {
		t.Fatal(err)
	}
	defer plugin.Stop()
	plugin.Answer.Devices = []*pluginv1.DeviceSpec{{HostPath: "/dev/full", ContainerPath: "/dev/gpu0", Permissions: "rw"}}
	<-changed
	m.devices = []Equipment{manager}
	m.start(helpers)
	m.importApp()

	asking := func(name string) *corev1.Pod {
		pod := named(name, app("serve"))
		pod.Spec.Containers[0].Resources.Limits = corev1.ResourceList{gpu: resource.MustParse("1")}
		pod.Spec.Containers[0].Resources.Requests = pod.Spec.Containers[0].Resources.Limits
		return m.create(pod)
	}
	asking("first")
	running := m.await("first", "running", func(p *corev1.Pod) bool { return p != nil && p.Status.Phase == corev1.PodRunning })
	said, err := m.runtime.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{
		ContainerId: strings.TrimPrefix(running.Status.ContainerStatuses[0].ContainerID, "containerd://"),
		Cmd:         []string{"/app", "write", "/dev/gpu0", "x"}, Timeout: 60,
	})
	if err != nil || !strings.Contains(string(said.Stderr)+string(said.Stdout), "no space left") {
		t.Errorf("writing to the device says %q %q, %v; want what /dev/full says", said.GetStdout(), said.GetStderr(), err)
	}
	asking("second")
	m.await("second", "refused", func(p *corev1.Pod) bool {
		return p != nil && p.Status.Phase == corev1.PodFailed && p.Status.Reason == "UnexpectedAdmissionError"
	})
	m.deletePod("first", 0)
	m.await("first", "gone", isGone)
	asking("third")
	m.await("third", "running with what the first gave back", func(p *corev1.Pod) bool { return p != nil && p.Status.Phase == corev1.PodRunning })
	for _, name := range []string{"second", "third"} {
		m.deletePod(name, 0)
		m.await(name, "gone", isGone)
	}
}
