package openapi

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestGeneratedIsCurrent generates again what is committed.
func TestGeneratedIsCurrent(t *testing.T) {
	if testing.Short() {
		t.Skip("takes ten seconds")
	}
	source, err := os.ReadFile("openapi.go")
	if err != nil {
		t.Fatal(err)
	}
	_, line, found := strings.Cut(string(source), "//go:generate ")
	if !found {
		t.Fatal("openapi.go has no go:generate line")
	}
	line, _, _ = strings.Cut(line, "\n")
	dir := t.TempDir()
	command := strings.Fields(strings.Replace(line, "--output-dir .", "--output-dir "+dir, 1))
	if output, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", line, err, output)
	}
	const name = "zz_generated.openapi.go"
	fresh, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	committed, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(fresh, committed) {
		t.Errorf("%s is not what go generate makes now: run make generate and commit it", name)
	}
}
