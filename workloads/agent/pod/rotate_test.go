package pod

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestNextLook(t *testing.T) {
	tests := map[string]struct {
		size, grown int64
		elapsed     time.Duration
		want        time.Duration
	}{
		"a log that rests is looked at in a second":            {size: 100, elapsed: time.Second, want: longestLook},
		"one that grows slowly too":                            {size: 1 << 20, grown: 1 << 10, elapsed: time.Second, want: longestLook},
		"one that will be full before, when it will be":        {size: 6 << 20, grown: 8 << 20, elapsed: time.Second, want: 500 * time.Millisecond},
		"but not more often than ten times a second":           {size: 9 << 20, grown: 100 << 20, elapsed: time.Second, want: shortestLook},
		"one that was rotated has grown by what it has":        {size: 5 << 20, grown: -5 << 20, elapsed: time.Second, want: longestLook},
		"one above its limit counts towards the next":          {size: 11 << 20, grown: 18 << 20, elapsed: time.Second, want: 500 * time.Millisecond},
		"a first look at a log, no time after the one before":  {size: 5 << 20, grown: 5 << 20, want: longestLook},
		"an empty log that was emptied is like one that rests": {grown: -5, elapsed: time.Second, want: longestLook},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := nextLook(tc.size, tc.grown, usualLogSize, tc.elapsed); got != tc.want {
				t.Errorf("nextLook(%d, %d, %s) = %s; want %s", tc.size, tc.grown, tc.elapsed, got, tc.want)
			}
		})
	}
}

func TestGrowthIsTold(t *testing.T) {
	log, err := os.Create(filepath.Join(t.TempDir(), "0.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	told := make(chan struct{}, 1)
	g := &growth{tell: told}
	if err := g.open(); err != nil {
		t.Skip(err) // no instance left on this machine
	}
	defer g.close()
	for range 3 {
		g.watch(log.Name())
		if _, err := log.WriteString("a line\n"); err != nil {
			t.Fatal(err)
		}
		select {
		case <-told:
		case <-time.After(time.Minute):
			t.Fatal("a log grew, and nobody was told")
		}
	}
}
