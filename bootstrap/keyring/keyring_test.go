package keyring

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "encryption.yaml")
	if made, err := Ensure(path); err != nil || !made {
		t.Fatalf("Ensure() = %v, %v", made, err)
	}
	steps := []struct {
		does   string
		change func(Ring) (Ring, error)
		keys   []string
		phase  Phase
	}{
		{"begins with one key", func(r Ring) (Ring, error) { return r, nil }, []string{"knarr-1"}, Settled},
		{"announces a second that does not write", Ring.Announce, []string{"knarr-1", "knarr-2"}, Announced},
		{"lets it write", func(r Ring) (Ring, error) { return r.Promote(), nil }, []string{"knarr-2", "knarr-1"}, Rewriting},
		{"does so once", func(r Ring) (Ring, error) { return r.Promote(), nil }, []string{"knarr-2", "knarr-1"}, Rewriting},
		{"drops the first", func(r Ring) (Ring, error) { return r.Drop(), nil }, []string{"knarr-2"}, Settled},
		{"never gives a name twice", Ring.Announce, []string{"knarr-2", "knarr-3"}, Announced},
	}
	for _, step := range steps {
		changed, err := Update(path, step.change)
		if err != nil {
			t.Fatalf("%s: %v", step.does, err)
		}
		// What a process that starts here finds is what the last one left.
		found, err := Load(path)
		if err != nil {
			t.Fatalf("%s: %v", step.does, err)
		}
		if diff := cmp.Diff(step.keys, found.Names()); diff != "" || found.Phase() != step.phase {
			t.Errorf("%s: phase %v, want %v; keys (-want +got):\n%s", step.does, found.Phase(), step.phase, diff)
		}
		if diff := cmp.Diff(changed.keys, found.keys); diff != "" {
			t.Errorf("%s: what is returned differs from what is stored", step.does)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v; want 0600", step.does, info.Mode(), err)
		}
	}
	if _, err := Update(path, Ring.Announce); err == nil || !strings.Contains(err.Error(), "under way") {
		t.Errorf("a second rotation beside the first: %v", err)
	}
	if made, err := Ensure(path); err != nil || made {
		t.Errorf("Ensure() on keys that are there = %v, %v", made, err)
	}
}

func TestOneOfManyAnnounces(t *testing.T) {
	path := filepath.Join(t.TempDir(), "encryption.yaml")
	if _, err := Ensure(path); err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		done.Go(func() { _, errs[i] = Update(path, Ring.Announce) })
	}
	done.Wait()
	announced := 0
	for _, err := range errs {
		if err == nil {
			announced++
		}
	}
	if announced != 1 {
		t.Errorf("%d of %d announced a key; want one: %v", announced, len(errs), errors.Join(errs...))
	}
}

func TestDamagedFile(t *testing.T) {
	tests := map[string]string{
		"half a file":                 "kind: EncryptionConfiguration\nresources:\n- providers:\n  - secretbox: {keys: [{name: knarr-1, secret: c2VjcmV0",
		"a file without keys":         "kind: EncryptionConfiguration\nresources: []\n",
		"a field nobody knows":        "kind: EncryptionConfiguration\nc2VjcmV0: 1\n",
		"an empty file":               "",
		"a provider that has no keys": "resources:\n- providers:\n  - secretbox: {keys: []}\n",
	}
	for name, content := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "encryption.yaml")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			made, err := Ensure(path)
			if err == nil || made {
				t.Fatalf("Ensure() = %v, %v; a damaged file must not be replaced", made, err)
			}
			if text := err.Error(); strings.Contains(text, "c2VjcmV0") || !strings.Contains(text, "backup") {
				t.Errorf("error %q shows a key or does not say what to do", text)
			}
		})
	}
}
