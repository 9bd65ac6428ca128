package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	cgroup1stats "github.com/containerd/cgroups/v3/cgroup1/stats"
	cgroup2stats "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/google/go-cmp/cmp"
)

func TestBothVersionsSayTheSame(t *testing.T) {
	want := Use{
		CPU: 3 * time.Second, User: 2 * time.Second, System: time.Second, Periods: 10, Throttled: 4, ThrottledFor: 500 * time.Millisecond,
		Memory: 1000, MaxMemory: 1500, RSS: 600, Cache: 300, Mapped: 50, Swap: 200, ActiveFile: 200, InactiveFile: 100, Kernel: 30,
		Faults: 7, MajorFaults: 2, Failures: 5, Processes: 3, MaxProcesses: 100,
	}
	v1 := useV1(&cgroup1stats.Metrics{
		CPU: &cgroup1stats.CPUStat{
			Usage:      &cgroup1stats.CPUUsage{Total: 3e9, User: 2e9, Kernel: 1e9},
			Throttling: &cgroup1stats.Throttle{Periods: 10, ThrottledPeriods: 4, ThrottledTime: 5e8},
		},
		Memory: &cgroup1stats.MemoryStat{
			Usage: &cgroup1stats.MemoryEntry{Usage: 1000, Max: 1500, Failcnt: 5}, Swap: &cgroup1stats.MemoryEntry{Usage: 1200},
			TotalRSS: 600, TotalCache: 300, TotalMappedFile: 50, TotalActiveFile: 200, TotalInactiveFile: 100,
			Kernel: &cgroup1stats.MemoryEntry{Usage: 30}, TotalPgFault: 7, TotalPgMajFault: 2,
		},
		Pids: &cgroup1stats.PidsStat{Current: 3, Limit: 100},
	})
	v2 := useV2(&cgroup2stats.Metrics{
		CPU: &cgroup2stats.CPUStat{UsageUsec: 3e6, UserUsec: 2e6, SystemUsec: 1e6, NrPeriods: 10, NrThrottled: 4, ThrottledUsec: 5e5},
		Memory: &cgroup2stats.MemoryStat{
			Usage: 1000, MaxUsage: 1500, SwapUsage: 200, Anon: 600, File: 300, FileMapped: 50, ActiveFile: 200, InactiveFile: 100,
			KernelStack: 10, Slab: 20, Pgfault: 7, Pgmajfault: 2,
		},
		MemoryEvents: &cgroup2stats.MemoryEvents{Max: 5, OomKill: 1},
		Pids:         &cgroup2stats.PidsStat{Current: 3, Limit: 100},
	})
	if diff := cmp.Diff(want, v1); diff != "" {
		t.Errorf("v1 (-want +got):\n%s", diff)
	}
	want.Killed = 1 // v1 does not count them
	if diff := cmp.Diff(want, v2); diff != "" {
		t.Errorf("v2 (-want +got):\n%s", diff)
	}
	if got := want.WorkingSet(); got != 900 {
		t.Errorf("working set = %d, want all but the inactive files", got)
	}
	if got := (Use{Memory: 10, InactiveFile: 20}).WorkingSet(); got != 0 {
		t.Errorf("working set = %d, want none: both figures are read a moment apart", got)
	}
}

func TestUseOfARealGroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making control groups needs root")
	}
	root := fmt.Sprintf("/knarr-use-%d", os.Getpid())
	tree := New(root)
	if err := tree.Init(Whole{}); err != nil {
		t.Skipf("this machine's control groups cannot be changed: %v", err)
	}
	t.Cleanup(func() {
		if err := tree.remove(root); err != nil {
			t.Error(err)
		}
	})
	if _, err := tree.Use(root + "/nobody"); err == nil {
		t.Error("a group that is not there uses something")
	}
	before, err := tree.Use(tree.Pods())
	if err != nil {
		t.Fatal(err)
	}
	if err := burnIn(tree, tree.Pods()); err != nil {
		t.Fatal(err)
	}
	after, err := tree.Use(tree.Pods())
	if err != nil {
		t.Fatal(err)
	}
	if after.CPU <= before.CPU || after.MaxMemory == 0 && after.Faults == 0 {
		t.Errorf("a process ran, and use went from %+v to %+v", before, after)
	}
}

// burnIn runs a shell that enters the group and counts for a while.
func burnIn(tree *Tree, group string) error {
	enter := `for d in /sys/fs/cgroup/*` + group + `; do echo $$ > $d/cgroup.procs || exit 1; done`
	if tree.unified {
		enter = `echo $$ > /sys/fs/cgroup` + group + `/cgroup.procs || exit 1`
	}
	out, err := exec.Command("/bin/sh", "-c", enter+`; i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done`).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}
