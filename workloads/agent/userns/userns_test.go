package userns

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"
)

func TestFree(t *testing.T) {
	tests := map[string]struct {
		taken map[types.UID]uint32
		want  uint32
	}{
		"the first ids are the machine's":    {want: Length},
		"the next one":                       {taken: map[types.UID]uint32{"a": Length}, want: 2 * Length},
		"what was given back is given again": {taken: map[types.UID]uint32{"a": Length, "b": 3 * Length}, want: 2 * Length},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got, ok := free(tc.taken); got != tc.want || !ok {
				t.Errorf("free() = %d, %v; want %d", got, ok, tc.want)
			}
		})
	}
	full := map[types.UID]uint32{}
	for i := range uint32(1 << 16) {
		full[types.UID(strconv.Itoa(int(i)))] = i * Length
	}
	if first, ok := free(full); ok {
		t.Errorf("free() of none = %d", first)
	}
}

func TestRangesOutliveTheProcess(t *testing.T) {
	dir := t.TempDir()
	of := func(r *Ranges, pod types.UID) uint32 {
		t.Helper()
		first, err := r.Of(pod)
		if err != nil {
			t.Fatal(err)
		}
		return first
	}
	before := In(dir)
	a, b := of(before, "a"), of(before, "b")
	if a == b || of(before, "a") != a {
		t.Errorf("pods a and b have the ranges from %d and %d, and a then from %d", a, b, of(before, "a"))
	}
	after := In(dir) // killed in between
	if c := of(after, "c"); c == a || c == b {
		t.Errorf("pod c has the range from %d, which another has", c)
	}
	if of(after, "b") != b {
		t.Error("pod b has another range after the restart")
	}
	for range 2 {
		if err := after.Release("a"); err != nil {
			t.Fatal(err)
		}
	}
	if d := of(after, "d"); d != a {
		t.Errorf("pod d has the range from %d, want that from %d which was given back", d, a)
	}
	if err := os.WriteFile(filepath.Join(dir, "b", note), []byte("65537\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := In(dir).Of("e"); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("Of() beside a damaged note = %v, want an error: it may be of a pod that runs", err)
	}
}
