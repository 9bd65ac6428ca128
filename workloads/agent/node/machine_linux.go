package node

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/agent/topology"
)

// machine is what does not change until the next boot.
type machine struct {
	cpus      int64
	memory    uint64
	hugePages map[int64]int64 // page size -> bytes reserved
	info      corev1.NodeSystemInfo
}

func readMachine() (machine, error) {
	memory, swap, err := readMemory()
	if err != nil {
		return machine{}, err
	}
	cpus, err := topology.Online("/sys")
	if err != nil {
		return machine{}, err
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return machine{}, fmt.Errorf("read the kernel's name: %w", err)
	}
	id := firstLine("/etc/machine-id", "/var/lib/dbus/machine-id")
	uuid := firstLine("/sys/class/dmi/id/product_uuid", "/sys/hypervisor/uuid")
	if uuid == "" {
		uuid = id // boards without firmware tables
	}
	return machine{
		cpus:      int64(cpus),
		memory:    memory,
		hugePages: readHugePages("/sys/kernel/mm/hugepages"),
		info: corev1.NodeSystemInfo{
			MachineID:       id,
			SystemUUID:      uuid,
			BootID:          firstLine("/proc/sys/kernel/random/boot_id"),
			KernelVersion:   unix.ByteSliceToString(name.Release[:]),
			OSImage:         osImage("/etc/os-release", "/usr/lib/os-release"),
			OperatingSystem: goruntime.GOOS,
			Architecture:    goruntime.GOARCH,
			Swap:            &corev1.NodeSwapStatus{Capacity: new(int64(swap))},
		},
	}, nil
}

// readMemory is all the memory and all the swap there are, in bytes.
func readMemory() (memory, swap uint64, err error) {
	data, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, 0, fmt.Errorf("read the machine's memory: %w; is /proc mounted?", err)
	}
	wanted := map[string]*uint64{"MemTotal:": &memory, "SwapTotal:": &swap}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || wanted[fields[0]] == nil {
			continue
		}
		kib, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("read the machine's memory: %w", err)
		}
		*wanted[fields[0]] = kib << 10
	}
	if memory == 0 {
		return 0, 0, errors.New("read the machine's memory: /proc/meminfo has no MemTotal")
	}
	return memory, swap, nil
}

func readHugePages(folder string) map[int64]int64 {
	sizes, _ := filepath.Glob(filepath.Join(folder, "hugepages-*kB"))
	out := map[int64]int64{}
	for _, size := range sizes {
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(size), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		count, _ := strconv.ParseInt(firstLine(filepath.Join(size, "nr_hugepages")), 10, 64)
		out[kib<<10] = count * kib << 10
	}
	return out
}

// readDisk is the size of the filesystem a folder lies on, in bytes.
func readDisk(path string) uint64 {
	var at unix.Statfs_t
	if err := unix.Statfs(path, &at); err != nil {
		return 0
	}
	return at.Blocks * uint64(at.Bsize)
}

func osImage(paths ...string) string {
	for _, path := range paths {
		file, err := os.Open(path)
		if err != nil {
			continue
		}
		defer file.Close()
		for lines := bufio.NewScanner(file); lines.Scan(); {
			if value, found := strings.CutPrefix(lines.Text(), "PRETTY_NAME="); found {
				return strings.Trim(value, `"'`)
			}
		}
	}
	return "Linux"
}

// firstLine of the first of these files that has one.
func firstLine(paths ...string) string {
	for _, path := range paths {
		if data, err := os.ReadFile(path); err == nil {
			if line, _, _ := strings.Cut(strings.TrimSpace(string(data)), "\n"); line != "" {
				return line
			}
		}
	}
	return ""
}
