package runtime

import (
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"knarr.dev/knarr/bootstrap/config"
)

func TestFoldersOnTheirWayOutGo(t *testing.T) {
	dir := t.TempDir()
	paths := config.Paths{Data: filepath.Join(dir, "data"), Run: filepath.Join(dir, "run")}
	id := strings.Repeat("5a", 32)
	tasks, work := filepath.Join(paths.ContainerdState(), "tasks", Namespace), filepath.Join(paths.Containerd(), "tasks", Namespace)
	kept := []string{filepath.Join(tasks, id), filepath.Join(tasks, ".other"), filepath.Join(tasks, "."+id+"0"), filepath.Join(work, id)}
	for _, path := range append(kept, filepath.Join(tasks, "."+id, "full"), filepath.Join(work, "."+id)) {
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	r, err := New(Config{Paths: paths, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.clearFolders(); err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, root := range []string{tasks, work} {
		found, err := fs.Glob(os.DirFS(root), "*")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range found {
			left = append(left, filepath.Join(root, name))
		}
	}
	slices.Sort(kept)
	slices.Sort(left)
	if diff := cmp.Diff(kept, left); diff != "" {
		t.Errorf("folders left (-want +got):\n%s", diff)
	}
}

func TestStrayShim(t *testing.T) {
	const socket = "/run/knarr/containerd.sock"
	tests := map[string]struct {
		line string
		want bool
	}{
		"one with a bundle is known":                {"/x/containerd-shim-runc-v2 -namespace k8s.io -id known -address /run/knarr/containerd.sock", false},
		"one without a bundle is not":               {"/x/containerd-shim-runc-v2 -namespace k8s.io -id other -address /run/knarr/containerd.sock", true},
		"another machine's is none of ours":         {"/x/containerd-shim-runc-v2 -namespace k8s.io -id other -address /run/b/containerd.sock", false},
		"a start whose asker is gone":               {"/x/containerd-shim-runc-v2 -namespace k8s.io -address /run/knarr/containerd.sock -id known start", true},
		"clearing up may go on":                     {"/x/containerd-shim-runc-v2 -namespace k8s.io -address /run/knarr/containerd.sock -id other delete", false},
		"another program with a shim's arguments":   {"grep -address /run/knarr/containerd.sock -id other", false},
		"an option at the end that lacks its value": {"containerd-shim-runc-v2 -id other -address", false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := strayShim(strings.Fields(tc.line), socket, func(id string) bool { return id == "known" }); got != tc.want {
				t.Errorf("strayShim(%q) = %v; want %v", tc.line, got, tc.want)
			}
		})
	}
}
