package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// CgroupRoot is the machine's own part of every cgroup hierarchy of the host.
func (m *Machine) CgroupRoot() string { return "/knarr-lab-" + m.lab.Name() + "-" + m.Hostname }

// leaf is the cgroup below CgroupRoot in which the machine's processes start. It is not the root itself, because a v2
// cgroup has either processes or controllers for its children.
const leaf = "machine"

// hierarchies are the mount points of cgroups: one on a v2 host, one a controller on a v1 host.
func hierarchies() ([]string, error) {
	const top = "/sys/fs/cgroup"
	if isV2(top) {
		return []string{top}, nil
	}
	entries, err := os.ReadDir(top)
	if err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	var all []string
	for _, entry := range entries {
		path := filepath.Join(top, entry.Name())
		if _, err := os.Stat(filepath.Join(path, "cgroup.procs")); err == nil && entry.IsDir() {
			all = append(all, path) // not the links that v1 hosts have for joint controllers
		}
	}
	return all, nil
}

func isV2(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && s.Type == unix.CGROUP2_SUPER_MAGIC
}

func (m *Machine) makeCgroups() error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, hierarchy := range all {
		root := hierarchy + m.CgroupRoot()
		for _, dir := range []string{root, filepath.Join(root, leaf)} {
			if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
				return fmt.Errorf("make cgroup: %w", err)
			}
			// A v1 cpuset starts empty, and takes no process until it isn't.
			for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
				value, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
				if err != nil || isV2(hierarchy) {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, name), value, 0o644); err != nil {
					return fmt.Errorf("open cpuset: %w", err)
				}
			}
		}
	}
	return nil
}

// place is the cgroup by which the machine's processes are known: v2 where it is, else a v1 hierarchy that counts
// and limits nothing, so that the host's own limits go on holding for what runs in the lab.
func (m *Machine) place() (path string, v2 bool, err error) {
	all, err := hierarchies()
	if err != nil {
		return "", false, err
	}
	if len(all) == 1 && isV2(all[0]) {
		return filepath.Join(all[0]+m.CgroupRoot(), leaf), true, nil
	}
	for _, name := range []string{"systemd", "pids", "freezer"} {
		if hierarchy := filepath.Join("/sys/fs/cgroup", name); slices.Contains(all, hierarchy) {
			return filepath.Join(hierarchy+m.CgroupRoot(), leaf), false, nil
		}
	}
	return "", false, errors.New("this host has no cgroup hierarchy to know a machine's processes by: mount cgroup2")
}

// Pids are the machine's processes and those of its pods, without the one that holds the namespaces. They are known by
// their cgroup, or by their mounts if they moved to another one.
func (m *Machine) Pids() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	mounts := ""
	if m.Holder.alive() {
		if mounts, err = os.Readlink("/proc/" + strconv.Itoa(m.Holder.PID) + "/ns/mnt"); err != nil {
			return nil, fmt.Errorf("look at the machine's mount namespace: %w", err)
		}
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == m.Holder.PID {
			continue
		}
		// The first thread's cgroups: another thread of ours may just be starting a program (Cmd.Start).
		cgroups, err := os.ReadFile("/proc/" + entry.Name() + "/cgroup")
		if err != nil {
			continue // it has ended
		}
		own, err := os.Readlink("/proc/" + entry.Name() + "/ns/mnt")
		if m.within(string(cgroups)) || err == nil && own == mounts {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// within says whether a process with these cgroups, in the form of /proc/PID/cgroup, is one of the machine's.
func (m *Machine) within(cgroups string) bool {
	for line := range strings.Lines(cgroups) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3) // number, controllers, path
		if len(parts) == 3 && strings.HasPrefix(parts[2]+"/", m.CgroupRoot()+"/") {
			return true
		}
	}
	return false
}

func ignoreGone(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	return err
}

// killAll ends the machine's processes: again and again, because they may be starting others.
func (m *Machine) killAll() error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		pids, err := m.Pids()
		if err != nil {
			return err
		}
		pids = slices.DeleteFunc(pids, func(pid int) bool { _, err := startOf(pid); return err != nil })
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v don't end", pids)
		}
		if err := m.thaw(); err != nil {
			return err
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// thaw what was frozen on the machine: under v1 such a process does not die.
func (m *Machine) thaw() error {
	return filepath.WalkDir(filepath.Join("/sys/fs/cgroup/freezer", m.CgroupRoot()), func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.Name() == "freezer.state" {
			err = os.WriteFile(path, []byte("THAWED"), 0)
		}
		if ignoreGone(err) != nil {
			return fmt.Errorf("thaw cgroup: %w", err)
		}
		return nil
	})
}

// removeCgroups waits for the kernel to let go of them, which it does a moment after the last process.
func (m *Machine) removeCgroups() error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	deadline := time.Now().Add(10 * time.Second)
	for _, hierarchy := range all {
		for {
			err := removeTree(hierarchy + m.CgroupRoot())
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("remove cgroups: %w", err)
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
	return nil
}

// removeTree removes a cgroup and those below it.
func removeTree(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return ignoreGone(err)
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeTree(filepath.Join(path, entry.Name())); err != nil {
				return err
			}
		}
	}
	return ignoreGone(unix.Rmdir(path))
}
