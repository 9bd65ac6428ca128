package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of /proc/PID/stat, proc_pid_stat(5); the same on every Linux there is Go for.
const tick = 10 * time.Millisecond

// processorTime is what processes spent so far, on their own account and the kernel's.
func processorTime(pids ...int) (sum time.Duration, err error) {
	for _, pid := range pids {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		_, rest, _ := strings.Cut(string(stat), ") ") // names may hold anything else
		fields := strings.Fields(rest)
		user, err1 := strconv.Atoi(fields[11])
		system, err2 := strconv.Atoi(fields[12])
		if err := errors.Join(err1, err2); err != nil {
			return 0, fmt.Errorf("read the times of process %d: %w", pid, err)
		}
		sum += time.Duration(user+system) * tick
	}
	return sum, nil
}
