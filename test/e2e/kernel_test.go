package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// memoryLimit is what the kernel holds a pod to, in either version of the cgroup hierarchy.
func memoryLimit(root, uid string) (string, error) {
	for _, pattern := range []string{
		filepath.Join("/sys/fs/cgroup/memory", root, "kubepods/*/pod"+uid, "memory.limit_in_bytes"),
		filepath.Join("/sys/fs/cgroup", root, "kubepods/*/pod"+uid, "memory.max"),
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		if len(found) == 1 {
			content, err := os.ReadFile(found[0])
			return strings.TrimSpace(string(content)), err
		}
	}
	return "", fmt.Errorf("no memory cgroup of pod %s below %s", uid, root)
}

// processesOf lists the processes whose program or arguments name a path below dir.
func processesOf(dir string) (map[string]string, error) {
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	for _, proc := range all {
		arguments, err := os.ReadFile(filepath.Join(proc, "cmdline"))
		if err != nil {
			continue // ended meanwhile
		}
		if text := strings.ReplaceAll(string(arguments), "\x00", " "); strings.Contains(text, dir+"/") {
			found[filepath.Base(proc)] = text
		}
	}
	return found, nil
}

// pidsBelow lists the processes of a cgroup and all below it, in order.
func pidsBelow(cgroup string) ([]int, error) {
	seen := map[int]bool{}
	for _, hierarchy := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		err := filepath.WalkDir(filepath.Join(hierarchy, cgroup), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || d.Name() != "cgroup.procs" {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return nil //nolint:nilerr // the cgroup went away
			}
			for _, field := range strings.Fields(string(content)) {
				if pid, err := strconv.Atoi(field); err == nil {
					seen[pid] = true
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

func portNumber(n int32) intstr.IntOrString { return intstr.FromInt32(n) }

// leftInTheKernel names what of knarr's is left in the network and mount namespace it runs in.
func leftInTheKernel(dir string) error {
	var left []string
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		if name := l.Attrs().Name; name != "lo" && name != "eth0" {
			left = append(left, "link "+name)
		}
	}
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	tables, err := conn.ListTables()
	if err != nil {
		return err
	}
	for _, t := range tables {
		left = append(left, "table "+t.Name)
	}
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && (strings.HasPrefix(f[4], dir+"/data") || strings.HasPrefix(f[4], dir+"/run")) {
			left = append(left, "mount "+f[4])
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("left after the reset: %s", strings.Join(left, ", "))
	}
	return nil
}
