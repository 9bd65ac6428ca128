package devices

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/workloads/agent/align"
	"knarr.dev/knarr/workloads/agent/devices/plugintest"
)

const gpu = "example.com/gpu"

// started is a manager that runs, in a folder.
type started struct {
	*Manager
	t       *testing.T
	dir     string
	changed chan struct{}
	stop    func()
}

func start(t *testing.T, dir string) *started {
	t.Helper()
	s := &started{t: t, dir: dir, changed: make(chan struct{}, 100)}
	m, err := New(Config{Dir: dir, State: filepath.Join(dir, "state", "devices.json"), Changed: func() { s.changed <- struct{}{} }, Log: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	s.Manager = m
	ctx, cancel := context.WithCancel(t.Context())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- m.Run(ctx, func() { close(ready) }) }()
	<-ready
	s.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	return s
}

func (s *started) plugin(devices map[string]bool, prepare ...func(*plugintest.Plugin)) *plugintest.Plugin {
	s.t.Helper()
	p, err := plugintest.Start(s.t.Context(), s.dir, gpu, devices, prepare...)
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// await waits until the node would show these numbers.
func (s *started) await(capacity, allocatable int64) {
	s.t.Helper()
	for over := time.After(time.Minute); ; {
		all, working := s.Resources()
		has, works := all[gpu], working[gpu]
		if has.Value() == capacity && works.Value() == allocatable {
			return
		}
		select {
		case <-s.changed:
		case <-over:
			s.t.Fatalf("the node shows %v and %v; want %d and %d", all, working, capacity, allocatable)
		}
	}
}

func podWith(name, count string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{Containers: []corev1.Container{container("app", count)}}}
}

func TestDevices(t *testing.T) {
	dir, err := os.MkdirTemp("", "kd") // short: sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := start(t, dir)
	p := s.plugin(map[string]bool{"a": true, "b": true, "c": false})
	s.await(3, 2)
	first, second := podWith("first", "1"), podWith("second", "2")
	if err := s.Admit(first); err != nil {
		t.Fatal(err)
	}
	if err := s.Admit(second); err == nil || !strings.Contains(err.Error(), "Requested: 2, Available: 1") {
		t.Errorf("a pod that asks for too many: %v", err)
	}
	for range 2 { // a container that restarts
		extras, err := s.Equip(t.Context(), first, &first.Spec.Containers[0])
		if err != nil || len(extras.Env) != 1 || string(extras.Env[0].Value) != "a" {
			t.Fatalf("equipped with %+v, %v", extras, err)
		}
	}
	if got := p.Allocated(); len(got) != 1 {
		t.Errorf("the plugin was asked %v", got)
	}
	p.Set(map[string]bool{"a": true, "b": true, "c": true})
	s.await(3, 3)

	p.Stop()
	s.await(3, 0)
	s.stop()
	s = start(t, dir) // a new process
	defer func() { s.stop() }()
	p = s.plugin(map[string]bool{"a": true, "b": true})
	defer p.Stop()
	s.await(2, 2)
	if err := s.Admit(second); err == nil {
		t.Error("a device was given away that a running pod has")
	}
	if extras, err := s.Equip(t.Context(), first, &first.Spec.Containers[0]); err != nil || string(extras.Env[0].Value) != "a" {
		t.Errorf("after a restart the pod has %+v, %v", extras, err)
	}
	if got := s.Pods(); len(got) != 1 || got[0] != "first" {
		t.Errorf("pods with devices: %v", got)
	}
	for range 2 {
		if err := s.Release(t.Context(), first.UID); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Admit(second); err != nil {
		t.Errorf("what was given back is not free: %v", err)
	}
}

func TestDevicesAPluginPrefers(t *testing.T) {
	dir, err := os.MkdirTemp("", "kd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := start(t, dir)
	s.wish = time.Minute // the machine may be slow
	p := s.plugin(map[string]bool{"a": true, "b": true, "c": true, "d": true}, func(p *plugintest.Plugin) {
		p.Prefer, p.Nodes = []string{"d", "b"}, map[string]int64{"a": 0, "b": 0, "c": 1, "d": 1}
	})
	defer p.Stop()
	s.await(4, 4)
	first, second := podWith("first", "1"), podWith("second", "1")
	if err := s.Admit(first); err != nil {
		t.Fatal(err)
	}
	if hints := s.Hints(second, &second.Spec.Containers[0], align.Of(0, 1))[gpu]; len(hints) != 3 || hints[0] != (align.Hint{Nodes: 1, Preferred: true}) {
		t.Errorf("hints: %v", hints)
	}
	if err := s.Allocate(second, &second.Spec.Containers[0], align.Of(0)); err != nil {
		t.Fatal(err)
	}
	if err := s.Admit(second); err != nil {
		t.Fatal(err)
	}
	got := []string{s.Given("first", "app")[gpu][0], s.Given("second", "app")[gpu][0]}
	if want := []string{"d", "b"}; !slices.Equal(got, want) {
		t.Errorf("given: %v, want %v", got, want)
	}
	s.stop()
	s = start(t, dir)
	defer s.stop()
	if given := s.Given("second", "app")[gpu]; !slices.Equal(given, []string{"b"}) {
		t.Errorf("after a restart the second pod has %v", given)
	}
}

func TestNamesOfResources(t *testing.T) {
	m, err := New(Config{State: filepath.Join(t.TempDir(), "devices.json"), Log: slog.Default()})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"gpu": "extended resource", "kubernetes.io/gpu": "extended resource", "example.com/a b": "extended resource", gpu: "not ready",
	} {
		if err := m.Register(t.Context(), name, "/x", []string{"v1beta1"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := m.Register(t.Context(), gpu, "/x", []string{"v1alpha"}); err == nil || !strings.Contains(err.Error(), "v1beta1 is needed") {
		t.Errorf("an old plugin: %v", err)
	}
}
