// Package steady tells the time by which controllers start and delete things.
//
// In:       the machine's clock, the time since its boot, the kernel's word on whether a time source keeps the clock.
// Out:      the time.
// Promise:  a step of the clock that no time source vouches for moves nothing: time goes on from where it was. A clock
//
//	that a time source puts right is right at once.
//
// Not here: how long something took or may take, for which the runtime's monotonic time is right anyway.
package steady

import (
	"log/slog"
	"sync"
	"time"
)

// tolerance is the step that is taken for somebody's correction: less than what an hour's change of a clock on the wall
// is worth, more than any drift.
const tolerance = 50 * time.Minute

// Sources are what a Clock looks at.
type Sources struct {
	Wall    func() time.Time     // the clock
	Elapsed func() time.Duration // since boot, and through sleep
	Kept    func() bool          // whether a time source keeps the clock
}

// Clock is a clock.PassiveClock. It is safe for concurrent use.
type Clock struct {
	sources Sources
	log     *slog.Logger

	mu      sync.Mutex
	at      time.Time // the last time told ...
	since   time.Duration
	refused bool // ... and whether the machine's clock says something else
}

// New returns a clock that believes the machine's as it is now.
func New(log *slog.Logger) *Clock { return Of(machine(), log) }

// Of returns a clock of other sources than the machine's.
func Of(s Sources, log *slog.Logger) *Clock {
	return &Clock{sources: s, log: log, at: s.Wall().Round(0), since: s.Elapsed()}
}

// Now is the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	wall, elapsed := c.sources.Wall().Round(0), c.sources.Elapsed() // without a monotonic reading, which knows no steps
	expected := c.at.Add(elapsed - c.since)
	believed := wall.Sub(expected).Abs() < tolerance || c.sources.Kept()
	if !believed {
		if !c.refused {
			c.log.Warn("the clock was set by somebody unknown; going on with the time that passed. "+
				"If it is right now, start a time service (chrony, systemd-timesyncd) or restart knarr",
				"clock", wall.UTC().Format(time.RFC3339), "expected", expected.UTC().Format(time.RFC3339))
		}
		wall = expected
	} else if c.refused {
		c.log.Info("the clock is believed again", "clock", wall.UTC().Format(time.RFC3339))
	}
	c.at, c.since, c.refused = wall, elapsed, !believed
	return wall
}

// Since is the time since t.
func (c *Clock) Since(t time.Time) time.Duration { return c.Now().Sub(t) }
