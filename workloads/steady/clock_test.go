package steady

import (
	"log/slog"
	"testing"
	"time"
)

func TestNow(t *testing.T) {
	const year = 365 * 24 * time.Hour
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	type moment struct {
		wall, elapsed time.Duration // since the start
		kept          bool
		want          time.Duration
	}
	tests := map[string][]moment{
		"time passes": {{wall: time.Minute, elapsed: time.Minute, want: time.Minute}},
		"a clock that runs a little fast is followed":   {{wall: 61 * time.Minute, elapsed: time.Hour, want: 61 * time.Minute}, {wall: 122 * time.Minute, elapsed: 2 * time.Hour, want: 122 * time.Minute}},
		"a step forward by a year moves nothing":        {{wall: year, elapsed: time.Minute, want: time.Minute}, {wall: year + time.Hour, elapsed: time.Minute + time.Hour, want: time.Minute + time.Hour}},
		"a step back by a year moves nothing":           {{wall: -year, elapsed: time.Minute, want: time.Minute}},
		"a step that is taken back is forgotten":        {{wall: year, elapsed: time.Minute, want: time.Minute}, {wall: 2 * time.Minute, elapsed: 2 * time.Minute, want: 2 * time.Minute}},
		"a time source may step":                        {{wall: year, elapsed: time.Minute, kept: true, want: year}, {wall: year + time.Minute, elapsed: 2 * time.Minute, want: year + time.Minute}},
		"a time source that comes later puts it right":  {{wall: year, elapsed: time.Minute, want: time.Minute}, {wall: year, elapsed: 2 * time.Minute, kept: true, want: year}},
		"a small correction by hand is believed":        {{wall: 10 * time.Minute, elapsed: time.Minute, want: 10 * time.Minute}},
		"a machine that slept a night wakes up in time": {{wall: 8 * time.Hour, elapsed: 8 * time.Hour, want: 8 * time.Hour}},
	}
	for name, moments := range tests {
		t.Run(name, func(t *testing.T) {
			var m moment
			c := Of(Sources{
				Wall:    func() time.Time { return start.Add(m.wall) },
				Elapsed: func() time.Duration { return m.elapsed },
				Kept:    func() bool { return m.kept },
			}, slog.New(slog.DiscardHandler))
			for _, m = range moments {
				if got := c.Now().Sub(start); got != m.want {
					t.Errorf("%v after the start, with the clock at %v: Now() is %v after it, want %v", m.elapsed, m.wall, got, m.want)
				}
			}
		})
	}
}

func TestTheMachineHasAClock(t *testing.T) {
	c := New(slog.New(slog.DiscardHandler))
	if off := time.Since(c.Now()).Abs(); off > time.Second {
		t.Errorf("Now() is off by %v", off)
	}
	if sinceBoot() <= 0 {
		t.Error("no time since boot")
	}
}
