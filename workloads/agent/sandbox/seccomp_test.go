package sandbox

import (
	"os"
	"path/filepath"
	"testing"

	"knarr.dev/knarr/workloads/agent/translate"
)

func TestTheRuntimesOwnProfileIsTrimmed(t *testing.T) {
	const own = `{"annotations":{"` + translate.NoteSeccomp + `":"RuntimeDefault"},"linux":{"cgroupsPath":"/c","seccomp":{"architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],"defaultAction":"SCMP_ACT_ERRNO"}},"root":{"path":"r"}}`
	const foreign = `{"linux":{"seccomp":{"architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X32"]}}}`
	tests := map[string]struct{ spec, want string }{
		"of what no kernel runs, and nothing else": {own, `{"annotations":{"` + translate.NoteSeccomp + `":"RuntimeDefault"},"linux":{"cgroupsPath":"/c","seccomp":{"architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86"],"defaultAction":"SCMP_ACT_ERRNO"}},"root":{"path":"r"}}`},
		"one that somebody wrote is left as it is": {foreign, foreign},
		"and so is a container without one":        {`{"linux": {}}`, `{"linux": {}}`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, configFile)
			if err := os.WriteFile(path, []byte(tc.spec), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := trimSeccomp(dir); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || string(got) != tc.want {
				t.Errorf("spec = %s, %v\nwant   %s", got, err, tc.want)
			}
		})
	}
}
