package stats

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// ticks a second in /proc/stat: Linux fixes it at 100 for user space.
const ticks = 100

// readNode reads what the whole machine uses. /proc says the same under cgroup v1 and v2.
func readNode(now time.Time) (*statsapi.NodeStats, error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return nil, fmt.Errorf("read the machine's CPU time: %w; is /proc mounted?", err)
	}
	memory, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil, fmt.Errorf("read the machine's memory: %w; is /proc mounted?", err)
	}
	faults, _ := os.ReadFile("/proc/vmstat") // without it the figures are left out
	return nodeStats(string(stat), string(memory), string(faults), now), nil
}

// nodeStats computes a node's figures from the texts of /proc.
func nodeStats(stat, meminfo, vmstat string, now time.Time) *statsapi.NodeStats {
	at := metav1.NewTime(now)
	out := &statsapi.NodeStats{CPU: &statsapi.CPUStats{Time: at}, Memory: &statsapi.MemoryStats{Time: at}}
	for line := range strings.Lines(stat) {
		fields := strings.Fields(line)
		switch {
		case len(fields) > 8 && fields[0] == "cpu": // user nice system idle iowait irq softirq steal
			var busy uint64
			for _, i := range []int{1, 2, 3, 6, 7, 8} {
				busy += number(fields[i])
			}
			busy *= uint64(time.Second / ticks)
			out.CPU.UsageCoreNanoSeconds = &busy
		case len(fields) == 2 && fields[0] == "btime":
			out.StartTime = metav1.Unix(int64(number(fields[1])), 0)
		}
	}
	kib := table(meminfo)
	total, free, available := kib["MemTotal:"]<<10, kib["MemFree:"]<<10, kib["MemAvailable:"]<<10
	usage, working, rss := total-free, total-available, kib["AnonPages:"]<<10
	out.Memory.AvailableBytes, out.Memory.UsageBytes, out.Memory.WorkingSetBytes, out.Memory.RSSBytes = &available, &usage, &working, &rss
	swapTotal, swapFree := kib["SwapTotal:"]<<10, kib["SwapFree:"]<<10
	swapUsed := swapTotal - swapFree
	out.Swap = &statsapi.SwapStats{Time: at, SwapAvailableBytes: &swapFree, SwapUsageBytes: &swapUsed}
	if counts := table(vmstat); len(counts) > 0 {
		minor, major := counts["pgfault"], counts["pgmajfault"]
		out.Memory.PageFaults, out.Memory.MajorPageFaults = &minor, &major
	}
	return out
}

// table reads lines of a name and a number.
func table(text string) map[string]uint64 {
	out := map[string]uint64{}
	for line := range strings.Lines(text) {
		if fields := strings.Fields(line); len(fields) > 1 {
			out[fields[0]] = number(fields[1])
		}
	}
	return out
}

func number(text string) uint64 {
	n, _ := strconv.ParseUint(text, 10, 64) // the kernel writes numbers there
	return n
}

// readDisk measures the filesystem a path lies on, nil when it cannot be.
func readDisk(path string, now time.Time) *statsapi.FsStats {
	var at unix.Statfs_t
	if err := unix.Statfs(path, &at); err != nil {
		return nil
	}
	size := uint64(at.Bsize)
	capacity, available, used := at.Blocks*size, at.Bavail*size, (at.Blocks-at.Bfree)*size
	inodes, free, taken := at.Files, at.Ffree, at.Files-at.Ffree
	return &statsapi.FsStats{
		Time: metav1.NewTime(now), CapacityBytes: &capacity, AvailableBytes: &available, UsedBytes: &used,
		Inodes: &inodes, InodesFree: &free, InodesUsed: &taken,
	}
}

// readNetwork counts the bytes of the machine's interfaces; the one with the default route comes first.
func readNetwork(now time.Time) *statsapi.NetworkStats {
	devices, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		return nil
	}
	routes, _ := os.ReadFile("/proc/net/route") // without it no interface is the first
	return networkStats(string(devices), string(routes), now)
}

func networkStats(devices, routes string, now time.Time) *statsapi.NetworkStats {
	outward := ""
	for line := range strings.Lines(routes) {
		if fields := strings.Fields(line); len(fields) > 7 && fields[1] == "00000000" && fields[7] == "00000000" {
			outward = fields[0]
			break
		}
	}
	out := &statsapi.NetworkStats{Time: metav1.NewTime(now)}
	for line := range strings.Lines(devices) {
		name, counts, found := strings.Cut(line, ":")
		fields := strings.Fields(counts)
		name = strings.TrimSpace(name)
		if !found || len(fields) < 11 || name == "lo" || strings.HasPrefix(name, "veth") {
			continue // pods' own ends are counted with the pods
		}
		rx, rxErrors, tx, txErrors := number(fields[0]), number(fields[2]), number(fields[8]), number(fields[10])
		card := statsapi.InterfaceStats{Name: name, RxBytes: &rx, RxErrors: &rxErrors, TxBytes: &tx, TxErrors: &txErrors}
		out.Interfaces = append(out.Interfaces, card)
		if name == outward {
			out.InterfaceStats = card
		}
	}
	return out
}

// readProcesses says how many processes there are, and may be; nil when the kernel does not.
func readProcesses(now time.Time) *statsapi.RlimitStats {
	most, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err != nil {
		return nil
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return nil
	}
	return processes(string(most), string(load), now)
}

func processes(most, load string, now time.Time) *statsapi.RlimitStats {
	out := &statsapi.RlimitStats{Time: metav1.NewTime(now)}
	if limit := int64(number(strings.TrimSpace(most))); limit > 0 {
		out.MaxPID = &limit
	}
	if fields := strings.Fields(load); len(fields) > 3 { // the fourth is running/all
		if _, all, found := strings.Cut(fields[3], "/"); found {
			there := int64(number(all))
			out.NumOfRunningProcesses = &there
		}
	}
	return out
}
