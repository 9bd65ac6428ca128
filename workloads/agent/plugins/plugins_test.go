package plugins

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	registerv1 "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// server is a plugin.
type server struct {
	registerv1.UnimplementedRegistrationServer
	info   *registerv1.PluginInfo
	status chan *registerv1.RegistrationStatus
}

func (s *server) GetInfo(context.Context, *registerv1.InfoRequest) (*registerv1.PluginInfo, error) {
	return s.info, nil
}

func (s *server) NotifyRegistrationStatus(_ context.Context, status *registerv1.RegistrationStatus) (*registerv1.RegistrationStatusResponse, error) {
	s.status <- status
	return &registerv1.RegistrationStatusResponse{}, nil
}

func serve(t *testing.T, socket string, info *registerv1.PluginInfo) (status chan *registerv1.RegistrationStatus, stop func()) {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{info: info, status: make(chan *registerv1.RegistrationStatus, 8)}
	g := grpc.NewServer()
	registerv1.RegisterRegistrationServer(g, s)
	go func() { _ = g.Serve(listener) }() // ends with Stop
	t.Cleanup(g.Stop)
	return s.status, g.Stop // which removes the socket
}

type handler struct {
	refuse error
	came   chan string
	went   chan string
}

func (h *handler) Register(_ context.Context, name, endpoint string, versions []string) error {
	if h.refuse != nil {
		return h.refuse
	}
	h.came <- name + " " + versions[0] + " " + filepath.Base(endpoint)
	return nil
}

func (h *handler) Deregister(name, _ string) { h.went <- name }

func within[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(time.Minute):
		t.Fatalf("%s did not happen", what)
		panic("unreachable")
	}
}

func TestPluginsComeAndGo(t *testing.T) {
	dir := t.TempDir()
	early := &registerv1.PluginInfo{Type: registerv1.CSIPlugin, Name: "early", Endpoint: "/run/early/csi.sock", SupportedVersions: []string{"1.0.0"}}
	status, _ := serve(t, filepath.Join(dir, "early.sock"), early)
	h := &handler{came: make(chan string, 8), went: make(chan string, 8)}
	no := &handler{refuse: errors.New("too old")}
	w := New(dir, map[string]Handler{registerv1.CSIPlugin: h, registerv1.DRAPlugin: no}, slog.Default())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx, func() {}) }()

	if got := within(t, h.came, "registering what was there"); got != "early 1.0.0 csi.sock" {
		t.Errorf("registered %q", got)
	}
	if s := within(t, status, "telling it"); !s.PluginRegistered || s.Error != "" {
		t.Errorf("told %v", s)
	}
	_, stop := serve(t, filepath.Join(dir, "late.sock"), &registerv1.PluginInfo{Type: registerv1.CSIPlugin, Name: "late", SupportedVersions: []string{"1.1.0"}})
	if got := within(t, h.came, "registering one that came later"); got != "late 1.1.0 late.sock" {
		t.Errorf("registered %q", got)
	}
	stop()
	if got := within(t, h.went, "noticing that it went"); got != "late" {
		t.Errorf("%q went", got)
	}
	refused, _ := serve(t, filepath.Join(dir, "refused.sock"), &registerv1.PluginInfo{Type: registerv1.DRAPlugin, Name: "refused", SupportedVersions: []string{"v1"}})
	for range 2 { // and is asked again
		if s := within(t, refused, "telling it no"); s.PluginRegistered || s.Error != "too old" {
			t.Errorf("told %v", s)
		}
	}
	cancel()
	if err := within(t, ended, "the end"); err != nil {
		t.Error(err)
	}
}

func TestPrepare(t *testing.T) {
	dir := t.TempDir()
	folder, known, taken := filepath.Join(dir, "agent"), filepath.Join(dir, "lib", "kubelet"), filepath.Join(dir, "taken")
	if err := errors.Join(os.Mkdir(folder, 0o700), os.Mkdir(taken, 0o700)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if told, err := Prepare(known, folder); told != known || err != nil {
			t.Errorf("Prepare() = %s, %v; want %s", told, err, known)
		}
	}
	if target, err := os.Readlink(known); target != folder {
		t.Errorf("%s leads to %q, %v", known, target, err)
	}
	if told, err := Prepare(taken, folder); told != folder || err == nil {
		t.Errorf("a folder of somebody else's: %s, %v", told, err)
	}
	if told, err := Prepare(folder, folder); told != folder || err != nil {
		t.Errorf("the folder itself: %s, %v", told, err)
	}
}
