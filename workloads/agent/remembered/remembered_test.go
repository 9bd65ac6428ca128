package remembered

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRemembered(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder", "state.json")
	got := map[string]int{"kept": 1}
	if err := Read(path, &got); err != nil || got["kept"] != 1 {
		t.Fatalf("without a file: %v, %v", got, err)
	}
	if err := Write(path, map[string]int{"a": 2}); err != nil {
		t.Fatal(err)
	}
	if err := Read(path, &got); err != nil || got["a"] != 2 {
		t.Errorf("Read() = %v, %v", got, err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		content []byte
		err     string
	}{
		"a value that was changed":        {content: bytes.Replace(content, []byte("2"), []byte("3"), 1), err: "is damaged"},
		"half a file":                     {content: content[:len(content)-2], err: "is damaged"},
		"nothing":                         {err: "is damaged"},
		"a file of before there was hash": {content: []byte(`{"a":4}`)},
		"and one that is none":            {content: []byte(`{"a":`), err: "read "},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(path, tc.content, 0o600); err != nil {
				t.Fatal(err)
			}
			err := Read(path, &got)
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("Read() = %v, want %q", err, tc.err)
			}
		})
	}
}
