package runtime

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/test/images"
)

// up starts a real containerd and returns it with the call that stops it.
func up(t *testing.T, paths config.Paths) (*Runtime, func()) {
	t.Helper()
	helpers := os.Getenv("KNARR_HELPERS")
	if os.Getuid() != 0 {
		t.Skip("containerd needs root")
	}
	if _, err := exec.LookPath("containerd-shim-runc-v2"); helpers == "" && err != nil {
		t.Skip("the helpers are neither on PATH nor in $KNARR_HELPERS; make bundle and point KNARR_HELPERS at what it unpacks")
	}
	r, err := New(Config{Paths: paths, HelperDir: helpers, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- r.Run(ctx, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		cancel()
		t.Fatal(err)
	}
	return r, func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run() = %v, want nil after its context has ended", err)
		}
	}
}

func TestRuntime(t *testing.T) {
	dir, err := os.MkdirTemp("", "kn") // short: unix sockets lie in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	paths := config.Paths{Data: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run")}
	if err := os.MkdirAll(paths.Images(), 0o700); err != nil {
		t.Fatal(err)
	}
	// What lies in the image folder is imported at start.
	if _, err := images.WriteApp(t.Context(), paths.Images()); err != nil {
		t.Fatal(err)
	}

	r, stop := up(t, paths)
	r.WaitForImports()
	if !present(t, r, images.App) || !present(t, r, images.AppV2) {
		t.Error("CRI does not see the images of the folder")
	}
	before := names(t, r)
	if _, err := os.Stat(paths.ContainerdSocket()); err != nil {
		t.Errorf("other processes cannot reach containerd: %v", err)
	}
	stop()

	r, stop = up(t, paths)
	defer stop()
	if diff := cmp.Diff(before, names(t, r)); diff != "" {
		t.Errorf("images after a restart (-before +after):\n%s", diff)
	}
}

func present(t *testing.T, r *Runtime, ref string) bool {
	t.Helper()
	answer, err := r.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil {
		t.Fatal(err)
	}
	return answer.Image != nil
}

func names(t *testing.T, r *Runtime) []string {
	t.Helper()
	list, err := List(t.Context(), r.Client())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, i := range list {
		out = append(out, i.Name)
	}
	return out
}

func TestFullReference(t *testing.T) {
	tests := map[string]struct{ name, want string }{
		"a short docker name is completed": {"busybox:1", "docker.io/library/busybox:1"},
		"a complete one stays":             {"knarr.dev/test/app:v1", "knarr.dev/test/app:v1"},
		"a bare tag names nothing":         {"latest", ""},
		"nonsense names nothing":           {"a b/c", ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := fullReference(tc.name); got != tc.want {
				t.Errorf("fullReference(%q) = %q, want %q", tc.name, got, tc.want)
			}
		})
	}
}
