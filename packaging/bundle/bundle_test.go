package bundle

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

// pack makes a bundle of programs, name to content.
func pack(t *testing.T, programs map[string]string) []byte {
	t.Helper()
	var packed bytes.Buffer
	zip, err := zstd.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	files := tar.NewWriter(zip)
	for name, content := range programs {
		if err := files.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
			t.Fatal(err)
		}
		if _, err := files.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := files.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zip.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

func entries(t *testing.T, dir string) []string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names
}

func TestUnpack(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "helpers")
	first := pack(t, map[string]string{"runc": "runc 1"})
	bin, err := unpack(dir, first)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(bin, "runc"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm()&0o111 == 0 {
		t.Errorf("runc has mode %v; want it executable", info.Mode())
	}
	if _, err := unpack(dir, first); err != nil {
		t.Fatalf("second unpack of the same content: %v", err)
	}
	again, err := os.Stat(filepath.Join(bin, "runc"))
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(info, again) {
		t.Error("the second unpack wrote runc anew; want it left alone")
	}

	// A crash while unpacking leaves a folder nobody points at.
	if err := os.Mkdir(filepath.Join(dir, ".unpack-crashed"), 0o700); err != nil {
		t.Fatal(err)
	}
	upgraded, err := unpack(dir, pack(t, map[string]string{"runc": "runc 2"}))
	if err != nil {
		t.Fatal(err)
	}
	if upgraded != bin {
		t.Errorf("unpack() = %s after an upgrade; want %s, the name running shims know", upgraded, bin)
	}
	content, err := os.ReadFile(filepath.Join(bin, "runc"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("runc 2", string(content)); diff != "" {
		t.Errorf("runc after an upgrade (-want +got):\n%s", diff)
	}
	if names := entries(t, dir); len(names) != 2 {
		t.Errorf("helpers folder holds %q; want one version and the link to it", names)
	}
}

func TestUnpackOfADamagedBundleLeavesNothingBehind(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "helpers")
	packed := pack(t, map[string]string{"runc": "a program"})
	if _, err := unpack(dir, packed[:len(packed)/2]); err == nil {
		t.Fatal("unpack() of half a bundle succeeded")
	}
	if names := entries(t, dir); len(names) != 0 {
		t.Errorf("helpers folder holds %q; want nothing", names)
	}
}
