package tree

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRemove(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "volume")
	kept := filepath.Join(t.TempDir(), "precious")
	for _, path := range []string{filepath.Join(folder, "a", "b"), kept} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(kept, filepath.Join(folder, "a", "link")); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing left to do
		if err := Remove(folder); err != nil {
			t.Fatalf("Remove() = %v", err)
		}
	}
	if _, err := os.Stat(folder); !os.IsNotExist(err) {
		t.Errorf("Stat() = %v, want the folder gone", err)
	}
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("what a link pointed to is gone: %v", err)
	}
	if err := Remove(filepath.Join(folder, "never", "there")); err != nil {
		t.Errorf("Remove() = %v, want none", err)
	}
}

func TestRemoveStopsAtAMount(t *testing.T) {
	folder, precious := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(precious, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(folder, "bound"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(precious, filepath.Join(folder, "bound"), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Detach(folder); err != nil {
			t.Errorf("Detach() = %v", err)
		}
		if mounts, err := Mounts(folder); err != nil || len(mounts) > 0 {
			t.Errorf("Mounts() = %v, %v; want none", mounts, err)
		}
	})
	if err := Remove(folder); err == nil || !strings.Contains(err.Error(), "still mounted") {
		t.Errorf("Remove() = %v, want it to say what is mounted", err)
	}
	if _, err := os.Stat(filepath.Join(precious, "file")); err != nil {
		t.Errorf("a mounted file was deleted: %v", err)
	}
}
