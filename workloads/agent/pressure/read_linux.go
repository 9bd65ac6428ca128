package pressure

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Read looks at the machine. What cannot be read is left at zero, which is never short.
func (g *Gauge) Read() Reading {
	images := g.imagesDir()
	return Reading{
		Memory: readMemory(), Processes: readProcesses(),
		Node: readDisk(g.nodeDir), Images: readDisk(images), Shared: device(g.nodeDir) == device(images),
	}
}

func readMemory() (out Room) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return Room{}
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kib, _ := strconv.ParseUint(fields[1], 10, 64)
		switch fields[0] {
		case "MemTotal:":
			out.Total = kib << 10
		case "MemAvailable:":
			out.Available = kib << 10
			return out
		}
	}
	return Room{}
}

func readProcesses() Room {
	limit := number("/proc/sys/kernel/pid_max")
	if threads := number("/proc/sys/kernel/threads-max"); threads > 0 {
		limit = min(limit, threads)
	}
	load, _ := os.ReadFile("/proc/loadavg") // 0.00 0.00 0.00 1/120 4711
	fields := strings.Fields(string(load))
	if limit == 0 || len(fields) < 4 {
		return Room{}
	}
	_, tasks, _ := strings.Cut(fields[3], "/")
	used, err := strconv.ParseUint(tasks, 10, 64)
	if err != nil {
		return Room{}
	}
	return Room{Total: limit, Available: limit - min(used, limit)}
}

func number(path string) uint64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	return n
}

// readDisk counts as df does: what a filesystem or its host holds back for others is not part of this machine's room.
func readDisk(path string) Disk {
	var at unix.Statfs_t
	if err := unix.Statfs(path, &at); err != nil {
		return Disk{}
	}
	size := uint64(at.Bsize)
	return Disk{
		Bytes:  Room{Total: (at.Blocks - at.Bfree + at.Bavail) * size, Available: at.Bavail * size},
		Inodes: Room{Total: at.Files, Available: at.Ffree},
	}
}

func device(path string) uint64 {
	var at unix.Stat_t
	if err := unix.Stat(path, &at); err != nil {
		return 0
	}
	return uint64(at.Dev)
}
