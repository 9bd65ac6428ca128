package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// contender is a program that is measured.
type contender struct {
	name    string
	command []string // {kubeconfig} and {config} in it are replaced
	config  string   // a file of its own, "" for none
}

// running is a contender at work.
type running struct {
	context.Context // ends with it
	pid             int
	stop            func() // how it ends is its own affair
}

// start runs the contender at a place.
func (c contender) start(ctx context.Context, at place, kubeconfig, dir string) (*running, error) {
	path := filepath.Join(dir, c.name+".conf")
	fill := strings.NewReplacer("{kubeconfig}", kubeconfig, "{config}", path).Replace
	if err := os.WriteFile(path, []byte(fill(c.config)), 0o600); err != nil {
		return nil, err
	}
	args := make([]string, len(c.command))
	for i, arg := range c.command {
		args[i] = fill(arg)
	}
	log, err := os.Create(c.log(dir))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	ctx, cancel := context.WithCancel(ctx)
	alive, ended := context.WithCancelCause(ctx)
	command := exec.CommandContext(ctx, args[0], args[1:]...)
	command.Stdout, command.Stderr = log, log
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.WaitDelay = 10 * time.Second
	if err := at.do(command.Start); err != nil {
		ended(err)
		cancel()
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		ended(fmt.Errorf("it ended: %v", command.Wait()))
	}()
	return &running{alive, command.Process.Pid, func() { cancel(); <-gone }}, nil
}

func (c contender) log(dir string) string { return filepath.Join(dir, c.name+".log") }

// processorTime is what a process and the programs it ran spent so far, proc_pid_stat(5); 0 when it is gone.
func processorTime(pid int) (sum time.Duration) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	_, fields, _ := strings.Cut(string(stat), ") ") // names may hold anything else
	const tick = 10 * time.Millisecond              // the same on every Linux there is Go for
	for _, field := range strings.Fields(fields)[11:15] {
		n, err := strconv.Atoi(field)
		if err != nil {
			return 0
		}
		sum += time.Duration(n) * tick
	}
	return sum
}

// resident is the memory of a process in KiB.
func resident(pid int) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if text, found := strings.CutPrefix(line, "VmRSS:"); found {
			n, _ := strconv.Atoi(strings.Fields(text)[0])
			return n
		}
	}
	return 0
}

// tail is the end of a log, for an error.
func tail(path string) string {
	text, err := os.ReadFile(path)
	if err != nil || len(text) == 0 {
		return ""
	}
	return "; its log ends:\n" + string(text[max(0, len(text)-2000):])
}

// at is what that share of the times stayed below.
func at[T any](sorted []T, share float64) (one T) {
	if len(sorted) == 0 {
		return one
	}
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
