// Package steadytest makes clocks jump.
//
// In:       a time, and a jump.
// Out:      a clock that somebody set wrong just now.
// Promise:  no time source vouches for it.
// Not here: what a clock makes of that (workloads/steady).
package steadytest

import (
	"log/slog"
	"time"

	"knarr.dev/knarr/workloads/steady"
)

// Jumps are what clocks do, by name.
var Jumps = map[string]time.Duration{"a year ahead": 365 * 24 * time.Hour, "a year back": -365 * 24 * time.Hour}

// Jumped is a clock that showed the right time until it was set off by that much.
func Jumped(right time.Time, by time.Duration) *steady.Clock {
	shown := right
	c := steady.Of(steady.Sources{
		Wall: func() time.Time { return shown }, Elapsed: func() time.Duration { return 0 }, Kept: func() bool { return false },
	}, slog.New(slog.DiscardHandler))
	shown = right.Add(by)
	return c
}
