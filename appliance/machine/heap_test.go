package machine

import (
	"context"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"
)

func TestGarbage(t *testing.T) {
	tests := map[string]struct {
		live, available uint64
		want            int
	}{
		"with memory to spare, as much as helps":      {64 << 20, 8 << 30, 300},
		"a quarter of what a small machine has left":  {64 << 20, 400 << 20, 156},
		"the runtime's rule where hardly any is left": {64 << 20, 40 << 20, 100},
		"twice what is alive of a heap that is large": {4 << 30, 64 << 30, 200},
		"the runtime's rule where it fills a machine": {4 << 30, 8 << 30, 100},
		"nothing is known of the machine":             {64 << 20, 0, 100},
		"nothing is known of the heap":                {0, 8 << 30, 100},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := garbage(tc.live, tc.available); got != tc.want {
				t.Errorf("garbage() = %d %%; want %d", got, tc.want)
			}
		})
	}
}

func TestPace(t *testing.T) {
	tests := map[string]struct {
		before pace
		since  time.Duration
		want   pace
	}{
		"one collection in minutes is rest":                 {atRest, 2 * time.Minute, atRest},
		"somebody begins to work":                           {atRest, 3 * time.Second, usual},
		"a load begins":                                     {atRest, 100 * time.Millisecond, piling},
		"work becomes a load":                               {usual, 400 * time.Millisecond, piling},
		"less of it is no rest yet":                         {usual, 20 * time.Second, usual},
		"a load that lets itself be collected seldom stays": {piling, 2 * time.Second, piling},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := tc.before.follow(tc.since); got != tc.want {
				t.Errorf("%d.follow(%v) = %d; want %d", tc.before, tc.since, got, tc.want)
			}
		})
	}
}

func TestMemAvailable(t *testing.T) {
	for text, want := range map[string]uint64{
		"MemTotal:       24000000 kB\nMemAvailable:    1024 kB\n": 1 << 20,
		"MemTotal:       24000000 kB\n":                           0,
		"MemAvailable:    much kB\n":                              0,
	} {
		if got := memAvailable([]byte(text)); got != want {
			t.Errorf("memAvailable(%q) = %d; want %d", text, got, want)
		}
	}
	if availableBytes() == 0 || liveBytes() == 0 {
		t.Errorf("of this machine: %d bytes available, %d alive", availableBytes(), liveBytes())
	}
}

// TestTheHeapIsLetGrowUnderLoad collects in a hurry and looks at what the runtime was told.
func TestTheHeapIsLetGrowUnderLoad(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	ready := make(chan struct{})
	go func() { ended <- heap{}.Run(ctx, func() { close(ready) }) }()
	<-ready
	percent := func() int {
		sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
		metrics.Read(sample)
		return int(sample[0].Value.Uint64())
	}
	for deadline := time.Now().Add(time.Minute); percent() == usualGarbage; runtime.GC() {
		if time.Now().After(deadline) {
			t.Fatal("a minute of collections, one after another, and the heap may not grow")
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if got := percent(); got != usualGarbage {
		t.Errorf("afterwards %d %% of garbage are allowed; want %d", got, usualGarbage)
	}
}
