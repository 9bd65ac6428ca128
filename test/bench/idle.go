package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is USER_HZ, 100 on every Linux platform Go runs on.
const ticksPerSecond = 100

// usage is what processes hold and have used.
type usage struct {
	pss, anonymous int64 // KiB
	ticks          int64
}

func measureIdle(ctx context.Context, t *table, pids []int, settle, idle time.Duration) error {
	if err := wait(ctx, settle); err != nil {
		return err
	}
	all := family(pids)
	before, err := usageOf(all)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := wait(ctx, idle); err != nil {
		return err
	}
	after, err := usageOf(all)
	if err != nil {
		return err
	}
	cpu := float64(after.ticks-before.ticks) / ticksPerSecond / time.Since(begin).Seconds() * 100
	t.add(fmt.Sprintf("idle memory, %d processes", len(all)), fmt.Sprintf("PSS %.1f MiB, anonymous %.1f MiB", float64(after.pss)/1024, float64(after.anonymous)/1024))
	t.add(fmt.Sprintf("idle CPU over %s", idle), fmt.Sprintf("%.2f %% of one core", cpu))
	return nil
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// family is the processes and all their descendants. Shims are nobody's children; name them if they are to count.
func family(pids []int) []int {
	seen := map[int]bool{}
	var all []int
	for queue := pids; len(queue) > 0; queue = queue[1:] {
		if seen[queue[0]] {
			continue
		}
		seen[queue[0]] = true
		all = append(all, queue[0])
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", queue[0]))
		for _, file := range tasks {
			content, err := os.ReadFile(file)
			if err != nil {
				continue
			}
			for _, field := range strings.Fields(string(content)) {
				if pid, err := strconv.Atoi(field); err == nil {
					queue = append(queue, pid)
				}
			}
		}
	}
	return all
}

func usageOf(pids []int) (usage, error) {
	var sum usage
	for _, pid := range pids {
		rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if os.IsNotExist(err) {
			continue // ended meanwhile
		}
		if err != nil {
			return sum, fmt.Errorf("memory of process %d: %w", pid, err)
		}
		sum.pss += field(rollup, "Pss:")
		sum.anonymous += field(rollup, "Anonymous:")
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return sum, fmt.Errorf("CPU of process %d: %w", pid, err)
		}
		sum.ticks += ticks(stat)
	}
	return sum, nil
}

func field(rollup []byte, name string) int64 {
	for lines := bufio.NewScanner(bytes.NewReader(rollup)); lines.Scan(); {
		if f := strings.Fields(lines.Text()); len(f) > 1 && f[0] == name {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n
		}
	}
	return 0
}

// ticks is user and system time; the process name before them may hold blanks, but no further closing bracket.
func ticks(stat []byte) int64 {
	_, after, _ := strings.Cut(string(stat[bytes.LastIndexByte(stat, ')'):]), " ")
	f := strings.Fields(after)
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.ParseInt(f[11], 10, 64)
	system, _ := strconv.ParseInt(f[12], 10, 64)
	return user + system
}
