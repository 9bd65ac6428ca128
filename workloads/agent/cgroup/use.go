package cgroup

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3/cgroup1"
	cgroup1stats "github.com/containerd/cgroups/v3/cgroup1/stats"
	"github.com/containerd/cgroups/v3/cgroup2"
	cgroup2stats "github.com/containerd/cgroups/v3/cgroup2/stats"
	corev1 "k8s.io/api/core/v1"
)

// Use is what the processes of a control group, and of those below it, use and have used.
type Use struct {
	CPU, User, System  time.Duration
	Periods, Throttled uint64 // of the CPU quota: all, and those at whose end processes had to wait
	ThrottledFor       time.Duration

	Memory, MaxMemory        uint64 // bytes
	RSS, Cache, Mapped, Swap uint64
	ActiveFile, InactiveFile uint64
	Kernel                   uint64
	Faults, MajorFaults      uint64
	Failures                 uint64 // to get memory within the limit
	Killed                   uint64 // for want of memory; v2 only
	Processes, MaxProcesses  uint64
}

// WorkingSet is the memory that could not be had back without pain: all but the file cache nobody has used twice.
func (u Use) WorkingSet() uint64 { return u.Memory - min(u.Memory, u.InactiveFile) }

// Swap is how much of a group's memory is swapped out, and how much more may be, if that is bounded. It is not ok where the
// kernel does not say: v1 counts memory and swap together.
func (t *Tree) Swap(group string) (used uint64, left *uint64, ok bool) {
	read := func(name string) (uint64, bool) {
		text, err := os.ReadFile(filepath.Join(t.mount, group, name))
		if err != nil {
			return 0, false
		}
		n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		return n, err == nil // no bound is "max"
	}
	if !t.unified {
		return 0, nil, false
	}
	if used, ok = read("memory.swap.current"); !ok {
		return 0, nil, false
	}
	if most, bounded := read("memory.swap.max"); bounded {
		left = new(most - min(most, used))
	}
	return used, left, true
}

// Container is the group of a pod's container, by the runtime's id.
func (t *Tree) Container(pod *corev1.Pod, id string) string {
	return path.Join(t.Pod(QOS(pod), pod.UID), id)
}

// Use reads what a group uses.
func (t *Tree) Use(group string) (Use, error) {
	if t.unified {
		g, err := cgroup2.Load(group)
		if err != nil {
			return Use{}, fmt.Errorf("look at cgroup %s: %w", group, err)
		}
		m, err := g.Stat()
		if err != nil {
			return Use{}, fmt.Errorf("read what cgroup %s uses: %w", group, err)
		}
		return useV2(m), nil
	}
	g, err := cgroup1.Load(cgroup1.StaticPath(group))
	if err != nil {
		return Use{}, fmt.Errorf("look at cgroup %s: %w", group, err)
	}
	m, err := g.Stat(cgroup1.IgnoreNotExist)
	if err != nil {
		return Use{}, fmt.Errorf("read what cgroup %s uses: %w", group, err)
	}
	return useV1(m), nil
}

func useV2(m *cgroup2stats.Metrics) Use {
	cpu, memory := m.GetCPU(), m.GetMemory()
	us := func(n uint64) time.Duration { return time.Duration(n) * time.Microsecond }
	return Use{
		CPU: us(cpu.GetUsageUsec()), User: us(cpu.GetUserUsec()), System: us(cpu.GetSystemUsec()),
		Periods: cpu.GetNrPeriods(), Throttled: cpu.GetNrThrottled(), ThrottledFor: us(cpu.GetThrottledUsec()),
		Memory: memory.GetUsage(), MaxMemory: memory.GetMaxUsage(),
		RSS: memory.GetAnon(), Cache: memory.GetFile(), Mapped: memory.GetFileMapped(), Swap: memory.GetSwapUsage(),
		ActiveFile: memory.GetActiveFile(), InactiveFile: memory.GetInactiveFile(), Kernel: memory.GetKernelStack() + memory.GetSlab(),
		Faults: memory.GetPgfault(), MajorFaults: memory.GetPgmajfault(),
		Failures: m.GetMemoryEvents().GetMax(), Killed: m.GetMemoryEvents().GetOomKill(),
		Processes: m.GetPids().GetCurrent(), MaxProcesses: m.GetPids().GetLimit(),
	}
}

// useV1 counts cached files and faults of the groups below as v2 does.
func useV1(m *cgroup1stats.Metrics) Use {
	cpu, throttle, memory := m.GetCPU().GetUsage(), m.GetCPU().GetThrottling(), m.GetMemory()
	u := Use{
		CPU: time.Duration(cpu.GetTotal()), User: time.Duration(cpu.GetUser()), System: time.Duration(cpu.GetKernel()),
		Periods: throttle.GetPeriods(), Throttled: throttle.GetThrottledPeriods(), ThrottledFor: time.Duration(throttle.GetThrottledTime()),
		Memory: memory.GetUsage().GetUsage(), MaxMemory: memory.GetUsage().GetMax(), Failures: memory.GetUsage().GetFailcnt(),
		RSS: memory.GetTotalRSS(), Cache: memory.GetTotalCache(), Mapped: memory.GetTotalMappedFile(),
		ActiveFile: memory.GetTotalActiveFile(), InactiveFile: memory.GetTotalInactiveFile(), Kernel: memory.GetKernel().GetUsage(),
		Faults: memory.GetTotalPgFault(), MajorFaults: memory.GetTotalPgMajFault(),
		Processes: m.GetPids().GetCurrent(), MaxProcesses: m.GetPids().GetLimit(),
	}
	if both := memory.GetSwap().GetUsage(); both > u.Memory { // v1 counts memory and swap together there
		u.Swap = both - u.Memory
	}
	return u
}
