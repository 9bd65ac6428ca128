package runtime

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"knarr.dev/knarr/workloads/agent/sandbox/ends"
)

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
