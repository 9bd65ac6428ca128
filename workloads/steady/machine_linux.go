package steady

import (
	"time"

	"golang.org/x/sys/unix"
)

// machine are the sources of this machine.
func machine() Sources {
	return Sources{Wall: time.Now, Elapsed: sinceBoot, Kept: synchronised}
}

// sinceBoot counts the time a machine sleeps, which the runtime's monotonic time does not.
func sinceBoot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0 // not on a kernel since 2.6.39
	}
	return time.Duration(ts.Nano())
}

// synchronised asks the kernel. Setting the clock by hand ends it, until a time source says again how good the clock is
// (adjtimex(2), STA_UNSYNC).
func synchronised() bool {
	var state unix.Timex
	answer, err := unix.Adjtimex(&state)
	return err == nil && answer != unix.TIME_ERROR && state.Status&unix.STA_UNSYNC == 0
}
