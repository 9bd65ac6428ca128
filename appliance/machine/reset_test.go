package machine

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"knarr.dev/knarr/bootstrap/config"
)

func TestResetLeavesTheFoldersOfOthersAlone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("resets are root's")
	}
	dir := t.TempDir()
	theirs := filepath.Join(dir, "letters", "to-keep")
	if err := os.MkdirAll(filepath.Dir(theirs), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(theirs, []byte("dear"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]*config.Config{
		"as a data directory": {DataDir: dir, RunDir: filepath.Join(dir, "none"), CgroupRoot: "/no-such-machine"},
		"as a run directory":  {DataDir: filepath.Join(dir, "none"), RunDir: dir, CgroupRoot: "/no-such-machine"},
	} {
		t.Run(name, func(t *testing.T) {
			err := Reset(t.Context(), cfg, slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), "was not made by knarr") {
				t.Errorf("Reset() = %v; want it to refuse %s", err, dir)
			}
			if _, err := os.Stat(theirs); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOurs(t *testing.T) {
	tests := map[string]struct {
		missing bool
		files   []string
		folders []string
		refused bool
	}{
		"a folder that is gone needs nothing":            {missing: true},
		"an empty one is left by an interrupted start":   {},
		"one with the mark is ours":                      {files: []string{"lock", "other"}},
		"one without the mark is somebody's":             {files: []string{"other"}, refused: true},
		"a folder of the mark's name does not make ours": {folders: []string{"lock"}, refused: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, f := range tc.files {
				if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for _, f := range tc.folders {
				if err := os.Mkdir(filepath.Join(dir, f), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if tc.missing {
				dir = filepath.Join(dir, "gone")
			}
			if err := ours(dir, "lock"); (err != nil) != tc.refused {
				t.Errorf("ours() = %v; refused should be %t", err, tc.refused)
			}
		})
	}
}

func TestRemoveTreeTakesAll(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if err := os.MkdirAll(filepath.Join(dir, "deep", "down"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second finds nothing
		if err := removeTree(dir, "lock"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is left (%v)", dir, err)
		}
	}
}
