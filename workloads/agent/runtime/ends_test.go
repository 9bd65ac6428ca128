package runtime

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	containerdruntime "github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/workloads/agent/sandbox/ends"
)

// asked plays the shims: what each does when it is asked for its container.
type asked func(id string) (containerdruntime.State, error)

func (a asked) Get(_ context.Context, id string) (containerdruntime.Task, error) {
	return played{id: id, answer: a}, nil
}

type played struct {
	containerdruntime.Task
	id     string
	answer asked
}

func (p played) State(context.Context) (containerdruntime.State, error) { return p.answer(p.id) }

func TestKeepEnds(t *testing.T) {
	const ran = `{"Version":"v1","StartedAt":5,"FinishedAt":0}`
	at := time.Unix(0, 1763900000123456789)
	gone := fmt.Errorf("task: %w", errdefs.ErrNotFound)
	tests := map[string]struct {
		noted bool // before the start
		shim  func(note func()) (containerdruntime.State, error)
		want  int64 // FinishedAt
		code  int32
	}{
		"one whose shim noted its end before it forgot it": {noted: true, want: at.UnixNano(), code: 3, shim: func(func()) (containerdruntime.State, error) {
			return containerdruntime.State{}, gone
		}},
		"one whose shim is about to forget it, for the process that was killed": {want: at.UnixNano(), code: 3, shim: func(note func()) (containerdruntime.State, error) {
			note()
			return containerdruntime.State{}, gone
		}},
		"one that ended and was not heard of": {want: at.UnixNano() + 1, code: 4, shim: func(func()) (containerdruntime.State, error) {
			return containerdruntime.State{Status: containerdruntime.StoppedStatus, ExitStatus: 4, ExitedAt: at.Add(1)}, nil
		}},
		"one that runs": {shim: func(func()) (containerdruntime.State, error) {
			return containerdruntime.State{Status: containerdruntime.RunningStatus}, nil
		}},
		"one that nobody knows anything of is left to CRI": {shim: func(func()) (containerdruntime.State, error) {
			return containerdruntime.State{}, gone
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r, err := New(Config{Paths: config.Paths{Data: t.TempDir(), Run: t.TempDir()}})
			if err != nil {
				t.Fatal(err)
			}
			const id = "c0"
			file := filepath.Join(r.conf.Paths.Containerd(), "io.containerd.grpc.v1.cri", "containers", id, "status")
			bundle := filepath.Join(r.conf.Paths.ContainerdState(), "io.containerd.runtime.v2.task", Namespace, "pod")
			for _, dir := range []string{filepath.Dir(file), bundle} {
				if err := os.MkdirAll(dir, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(file, []byte(ran), 0o600); err != nil {
				t.Fatal(err)
			}
			note := func() {
				if err := ends.Note(bundle, id, ends.End{Code: 3, At: at}); err != nil {
					t.Fatal(err)
				}
			}
			if tc.noted {
				note()
			}
			if err := r.keepEnds(t.Context(), asked(func(string) (containerdruntime.State, error) { return tc.shim(note) })); err != nil {
				t.Fatal(err)
			}
			var got struct {
				FinishedAt int64
				ExitCode   int32
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(data, &got); err != nil {
				t.Fatal(err)
			}
			if got.FinishedAt != tc.want || got.ExitCode != tc.code {
				t.Errorf("finished at %d with %d, want %d with %d", got.FinishedAt, got.ExitCode, tc.want, tc.code)
			}
		})
	}
}

func TestWithEnd(t *testing.T) {
	end := ends.End{Code: 3, At: time.Unix(0, 1763900000123456789)}
	tests := map[string]struct {
		status, want string // "" means: left as it is
		fails        bool
	}{
		"one that ran has ended, and keeps the rest": {
			status: `{"Version":"v1","Pid":7,"StartedAt":1763900000023456789,"FinishedAt":0,"ExitCode":0,"Reason":"OOMKilled","Resources":{"linux":{"cpu_shares":2}}}`,
			want:   `{"Version":"v1","Pid":7,"StartedAt":1763900000023456789,"FinishedAt":1763900000123456789,"ExitCode":3,"Reason":"OOMKilled","Resources":{"linux":{"cpu_shares":2}}}`,
		},
		"one whose start was not written down has ended too": {
			status: `{"Version":"v1","CreatedAt":5,"StartedAt":0,"FinishedAt":0}`,
			want:   `{"Version":"v1","CreatedAt":5,"StartedAt":1763900000123456789,"FinishedAt":1763900000123456789,"ExitCode":3}`,
		},
		"what CRI has written down stays":       {status: `{"Version":"v1","FinishedAt":9,"ExitCode":137}`},
		"a form nobody has seen is left alone":  {status: `{"Version":"v2","FinishedAt":0}`, fails: true},
		"a file that was cut off is left alone": {status: `{"Version":"v1","Fini`, fails: true},
	}
	decode := func(text []byte) any {
		var v any
		if err := json.Unmarshal(text, &v); err != nil && len(text) > 0 {
			t.Fatal(err)
		}
		return v
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := withEnd([]byte(tc.status), end)
			if (err != nil) != tc.fails {
				t.Fatalf("withEnd() = %v", err)
			}
			if diff := cmp.Diff(decode([]byte(tc.want)), decode(got)); diff != "" {
				t.Errorf("withEnd() (-want +got):\n%s", diff)
			}
		})
	}
}
