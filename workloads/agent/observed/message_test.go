package observed

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/agent/translate"
)

func TestLastWords(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	said, silent := write("said", "goodbye"), write("silent", "")
	log := write("log", "2026-01-02T03:04:05Z stdout F one\n2026-01-02T03:04:05Z stderr P tw\n2026-01-02T03:04:05Z stderr F o\n")
	fallback := map[string]string{translate.NoteMessagePolicy: string(corev1.TerminationMessageFallbackToLogsOnError)}
	tests := map[string]struct {
		container Container
		notes     map[string]string
		want      string
	}{
		"what it wrote": {Container{MessageFile: said, LogPath: log, ExitCode: 1}, fallback, "goodbye"},
		"what the runtime says of a failed start wins": {Container{Message: "no such file", MessageFile: said}, nil, "no such file"},
		"the end of the log if it failed silently":     {Container{MessageFile: silent, LogPath: log, ExitCode: 1}, fallback, "one\ntwo\n"},
		"nothing if it ended well":                     {Container{MessageFile: silent, LogPath: log}, fallback, ""},
		"nothing if the log was not asked for":         {Container{MessageFile: silent, LogPath: log, ExitCode: 1}, nil, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := lastWords(tc.container, tc.notes); got != tc.want {
				t.Errorf("last words = %q, want %q", got, tc.want)
			}
		})
	}
}
