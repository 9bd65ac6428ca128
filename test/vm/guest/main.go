// Command guest is the first process of the machine that test/vm boots: it makes the machine ready, runs knarr on it under
// cgroup v2, looks, says on the console what it saw, and switches the machine off.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// groups is where knarr sees the root of all groups.
var groups = "/sys/fs/cgroup"

const (
	data    = "/var/lib/knarr"
	address = "192.0.2.10"
)

func main() {
	if os.Args[0] == "/contain" {
		say("failed", fmt.Sprint("begin knarr in a container: ", contain()))
		os.Exit(1)
	}
	if os.Args[0] != "/look" {
		if err := furnish(); err != nil {
			say("failed", "make the machine ready: "+err.Error())
			off()
		}
		// The root of the first file system cannot be left by what makes containers, so there is another, and this program
		// begins anew in it.
		err := syscall.Exec("/look", []string{"/look"}, os.Environ())
		say("failed", fmt.Sprint("begin anew: ", err))
		off()
	}
	if err := look(); err != nil {
		say("failed", err.Error())
	}
	say("done", "")
	off()
}

func say(what, about string) { fmt.Printf("\nVM %s: %s\n", what, about) }

func off() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// furnish does what an init does, and moves to a root in memory.
func furnish() error {
	for _, m := range []struct{ kind, at string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := mount(m.kind, m.at, ""); err != nil {
			return err
		}
	}
	order, err := os.ReadFile("/modules/order")
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(order)) {
		if err := load(filepath.Join("/modules", name)); err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	if err := mount("tmpfs", "/new", "size=90%"); err != nil {
		return err
	}
	for _, move := range []struct{ from, to string }{{"/init", "/look"}, {"/knarr", "/knarr"}, {"/app.tar", "/app.tar"}, {"/kubelet.yaml", "/kubelet.yaml"}} {
		if err := relocate(move.from, filepath.Join("/new", move.to)); err != nil {
			return err
		}
	}
	for _, at := range []string{"/dev", "/proc", "/sys"} {
		if err := os.MkdirAll("/new"+at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(at, "/new"+at, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", at, err)
		}
	}
	if err := os.Chdir("/new"); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return os.Chdir("/")
}

func mount(kind, at, options string) error {
	if err := os.MkdirAll(at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(kind, at, kind, 0, options); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("mount %s: %w", at, err)
	}
	return nil
}

func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

func relocate(from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return errors.Join(os.WriteFile(to, content, 0o755), os.Remove(from))
}

// look runs knarr and looks at what it does.
func look() error {
	if err := prepare(); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	if err := start(); err != nil {
		return err
	}
	if out, err := run("status", "--wait", "10m"); err != nil {
		return fmt.Errorf("knarr does not serve: %w: %s", err, out)
	}
	say("ok", "a node on cgroup v2 is Ready")
	for _, check := range []struct {
		what string
		look func() error
	}{
		{"groups pass their controllers on, and hold processes only in leaves", tree},
		{"bounds of a burstable pod are in force", burstable},
		{"what a pod says and runs is heard", talk},
		{"bounds of a guaranteed pod are in force", guaranteed},
		{"a best-effort pod has the least weight and no swap", bestEffort},
		{"a pod out of memory is said to be", outOfMemory},
		{"bounds follow a resize", resize},
		{"use is shown", use},
		{"pods outlive knarr, and nothing is left of one that ended", outlive},
		{"knarr ends when told to, and pods stay", end},
		{"nothing is left after a reset", reset},
		{"knarr makes room for pods in a container, whose root group holds it", contained},
	} {
		if err := check.look(); err != nil {
			say("failed", check.what+": "+err.Error())
			continue
		}
		say("ok", check.what)
	}
	return nil
}

// prepare the machine: groups as systemd has them, a network, swap.
func prepare() error {
	for _, dir := range []string{"/run", "/tmp", "/etc", "/dev/pts", "/dev/shm"} {
		if err := os.MkdirAll(dir, 0o1777); err != nil {
			return err
		}
	}
	if err := errors.Join(
		mount("cgroup2", groups, ""), mount("tmpfs", "/run", ""), mount("devpts", "/dev/pts", ""), mount("tmpfs", "/dev/shm", ""),
		unix.Sethostname([]byte("guest")), os.WriteFile("/etc/hosts", []byte("127.0.0.1 localhost\n"), 0o644), os.WriteFile("/etc/resolv.conf", nil, 0o644),
		os.WriteFile("/proc/sys/vm/nr_hugepages", []byte("4"), 0),
		unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""),
	); err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(data+"/images", 0o755), os.Link("/app.tar", data+"/images/app.tar")); err != nil {
		return err
	}
	const controllers = "+cpu +memory +pids"
	service := filepath.Join(groups, "system.slice", "knarr.service")
	if err := errors.Join(
		os.WriteFile(filepath.Join(groups, "cgroup.subtree_control"), []byte(controllers), 0), os.MkdirAll(service, 0o755),
		os.WriteFile(filepath.Join(groups, "system.slice", "cgroup.subtree_control"), []byte(controllers), 0),
	); err != nil {
		return err
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "lan"
	lan := &netlink.Dummy{LinkAttrs: attrs}
	at, err := netlink.ParseAddr(address + "/24")
	if err != nil {
		return err
	}
	return errors.Join(netlink.LinkSetUp(lo), netlink.LinkAdd(lan), netlink.AddrAdd(lan, at), netlink.LinkSetUp(lan), swap())
}

// swap is a part of the memory, compressed.
func swap() error {
	const size = 256 << 20
	if err := os.WriteFile("/sys/block/zram0/disksize", []byte(strconv.Itoa(size)), 0); err != nil {
		return err
	}
	page := make([]byte, 4096) // the header mkswap writes
	binary.LittleEndian.PutUint32(page[1024:], 1)
	binary.LittleEndian.PutUint32(page[1028:], size/4096-1)
	copy(page[4096-10:], "SWAPSPACE2")
	disk, err := os.OpenFile("/dev/zram0", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = disk.Write(page)
	if err := errors.Join(err, disk.Close()); err != nil {
		return err
	}
	name, err := unix.BytePtrFromString("/dev/zram0")
	if err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_SWAPON, uintptr(unsafe.Pointer(name)), 0, 0); errno != 0 {
		return fmt.Errorf("swapon: %w", errno)
	}
	return nil
}

var knarr *exec.Cmd

var arguments = []string{"server", "--node-ip", address, "--kubelet-config", "/kubelet.yaml"}

// start knarr in the group a service has.
func start() error {
	return startIn(filepath.Join(groups, "system.slice", "knarr.service"), "/knarr", "/knarr")
}

func startIn(group, program, name string) error {
	dir, err := os.Open(group)
	if err != nil {
		return err
	}
	defer dir.Close()
	log, err := os.OpenFile("/knarr.log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	knarr = exec.Command(program, arguments...)
	knarr.Args[0] = name
	knarr.Stdout, knarr.Stderr = log, log
	knarr.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if err := knarr.Start(); err != nil {
		return fmt.Errorf("start knarr: %w", err)
	}
	return nil
}

func run(args ...string) (string, error) {
	out, err := exec.Command("/knarr", args...).CombinedOutput()
	if err != nil {
		log, _ := os.ReadFile("/knarr.log")
		lines := strings.Split(strings.TrimSpace(string(log)), "\n")
		return string(out), fmt.Errorf("knarr %s: %w: %s\nits log ends with:\n%s", strings.Join(args, " "), err, out, strings.Join(lines[max(0, len(lines)-15):], "\n"))
	}
	return string(out), nil
}

// within asks again, a pause apart, until the answer is good or the time is over; then the last answer stands. It is for what
// tells nobody that it changed: the kernel shows no change of a group's files to inotify, and an API that refuses a pod has
// nothing of it to watch.
func within(limit, pause time.Duration, ask func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	again := time.NewTicker(pause)
	defer again.Stop()
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return err
		}
	}
}

// pod makes a pod of the test application, waits for a condition of it and returns its group.
func pod(name, resources, condition string, args ...string) (group string, err error) {
	words, err := json.Marshal(args)
	if err != nil {
		return "", err
	}
	manifest := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q}, "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1,
		"containers": [{"name": "app", "image": "knarr.dev/test/app:v1", "args": %s, "resources": %s}]}}`, name, words, resources)
	err = within(2*time.Minute, time.Second, func() error { // the namespace's account comes a moment later
		cmd := exec.Command("/knarr", "kubectl", "apply", "-f", "-")
		cmd.Stdin = strings.NewReader(manifest)
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("make pod %s: %w: %s", name, err, out)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	if _, err := run("kubectl", "wait", "pod/"+name, "--for="+condition, "--timeout=5m"); err != nil {
		described, _ := run("kubectl", "describe", "pod", name)
		return "", fmt.Errorf("%w\n%s", err, described)
	}
	uid, err := run("kubectl", "get", "pod", name, "-o", "jsonpath={.metadata.uid}")
	if err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(groups, "kubepods", "*", "pod"+uid))
	whole, _ := filepath.Glob(filepath.Join(groups, "kubepods", "pod"+uid)) // of a guaranteed one
	found = append(found, whole...)
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("pod %s has groups %v", uid, found)
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}

const ready = "condition=Ready"

// files compares the kernel's words with what they should be.
func files(dir string, want map[string]string) error {
	var errs []error
	for name, value := range want {
		got, err := os.ReadFile(filepath.Join(dir, name))
		text := strings.TrimSpace(string(got))
		say("seen", strings.TrimPrefix(filepath.Join(dir, name), groups)+" = "+text)
		if err == nil && text != value {
			err = fmt.Errorf("%s is %q, want %q", filepath.Join(dir, name), text, value)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// container is the group of a pod's only container.
func container(group string) (string, error) {
	found, err := filepath.Glob(filepath.Join(group, strings.Repeat("[0-9a-f]", 64)))
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%s holds %d containers", group, len(found))
	}
	if err != nil {
		return "", err
	}
	return found[0], nil
}

var bounded string // group of the burstable pod

func burstable() error {
	group, err := pod("bounded", `{"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "500m", "memory": "64Mi", "hugepages-2Mi": "4Mi"}}`, ready, "serve")
	if err != nil {
		return err
	}
	bounded = group
	inner, err := container(group)
	if err != nil {
		return err
	}
	bounds := map[string]string{"memory.max": "67108864", "cpu.max": "50000 100000", "hugetlb.2MB.max": "4194304"}
	if err := errors.Join(files(group, bounds), files(group, map[string]string{"pids.max": "300"}), files(inner, bounds), files(inner, map[string]string{"memory.oom.group": "1"})); err != nil {
		return err
	}
	swap, err := os.ReadFile(filepath.Join(inner, "memory.swap.max"))
	if err != nil {
		return err
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(swap))); err != nil || n <= 0 || n >= 64<<20 {
		return fmt.Errorf("it may swap %q: want its part of the machine's", swap)
	}
	_, err = run("kubectl", "exec", "bounded", "--", "/app", "id")
	return err
}

// tree looks at the groups above the pods.
func tree() error {
	offered, err := os.ReadFile(filepath.Join(groups, "cgroup.controllers"))
	if err != nil {
		return err
	}
	var errs []error
	for _, group := range []string{"", "kubepods"} {
		text, err := os.ReadFile(filepath.Join(groups, group, "cgroup.subtree_control"))
		for _, controller := range []string{"cpu", "cpuset", "io", "memory", "pids"} {
			if err == nil && slices.Contains(strings.Fields(string(offered)), controller) && !slices.Contains(strings.Fields(string(text)), controller) {
				err = fmt.Errorf("/%s passes on %q, without %s", group, text, controller)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// processes says which programs run in the groups below one, and what each passes on.
func processes(below string) error {
	return filepath.WalkDir(filepath.Join(groups, below), func(dir string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			return err
		}
		passes, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
		if err != nil {
			return err
		}
		programs := map[string]int{}
		for pid := range strings.FieldsSeq(string(procs)) {
			name, err := os.ReadFile(filepath.Join("/proc", pid, "comm"))
			if err == nil && dir != "/sys/fs/cgroup" {
				programs[strings.TrimSpace(string(name))]++
			}
		}
		say("seen", fmt.Sprintf("/%s holds %v, passes on %q", strings.TrimPrefix(strings.TrimPrefix(dir, groups), "/"), programs, strings.TrimSpace(string(passes))))
		if len(programs) > 0 && len(passes) > 1 {
			return fmt.Errorf("%s has processes and groups below it", dir)
		}
		return nil
	})
}

func talk() error {
	if err := processes("kubepods"); err != nil {
		return err
	}
	if err := processes("system.slice"); err != nil {
		return err
	}
	said, err := run("kubectl", "logs", "bounded")
	if err == nil && said == "" {
		err = errors.New("its log is empty")
	}
	if err != nil {
		return err
	}
	id, err := run("kubectl", "exec", "bounded", "--", "/app", "id")
	say("seen", fmt.Sprintf("log %q, exec %q", said, id))
	return err
}

func guaranteed() error {
	group, err := pod("sure", `{"limits": {"cpu": "250m", "memory": "64Mi"}}`, ready, "serve")
	if err != nil {
		return err
	}
	if filepath.Dir(group) != filepath.Join(groups, "kubepods") {
		return fmt.Errorf("its group is %s", group)
	}
	inner, err := container(group)
	if err != nil {
		return err
	}
	want := map[string]string{"memory.max": "67108864", "cpu.max": "25000 100000"}
	return errors.Join(files(group, want), files(inner, want), files(inner, map[string]string{"memory.swap.max": "0"}))
}

// end stops knarr as a service manager does.
func end() error {
	began := time.Now()
	if err := knarr.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := knarr.Wait(); err != nil {
		return fmt.Errorf("knarr ended with: %w", err)
	}
	say("seen", "knarr ended after "+time.Since(began).String())
	left, err := filepath.Glob(filepath.Join(groups, "kubepods", "*", "pod*", "pause"))
	if err == nil && len(left) == 0 {
		err = errors.New("its pods ended with it")
	}
	return err
}

func reset() error { return resetBelow("/") }

// resetBelow resets knarr whose root of groups is where the machine has another.
func resetBelow(root string) error {
	out, err := run("reset", "--yes", "--cgroup-root", root)
	if err != nil {
		return err
	}
	say("seen", "reset: "+strings.ReplaceAll(strings.TrimSpace(out), "\n", " | "))
	if _, err := os.Stat(filepath.Join(groups, "kubepods")); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(errors.New("the pods' groups are left"), processes("kubepods"))
	}
	return nil
}

// contained runs knarr as a container does that has its own view of groups and devices to all of it.
func contained() error {
	groups = filepath.Join(groups, "box")
	if err := os.Mkdir(groups, 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(data+"/images", 0o755); err != nil {
		return err
	}
	if err := os.Link("/app.tar", data+"/images/app.tar"); err != nil {
		return err
	}
	if err := startIn(groups, "/look", "/contain"); err != nil {
		return err
	}
	if _, err := run("status", "--wait", "10m"); err != nil {
		return err
	}
	if err := burstable(); err != nil {
		return err
	}
	if err := errors.Join(tree(), processes("")); err != nil {
		return err
	}
	if _, err := run("kubectl", "exec", "bounded", "--", "/app", "id"); err != nil {
		return err
	}
	if err := end(); err != nil {
		return err
	}
	return resetBelow("/box")
}

// contain makes the views a container has, and becomes knarr.
func contain() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := unix.Unmount(groups, unix.MNT_DETACH); err != nil {
		return err
	}
	if err := unix.Mount("cgroup2", groups, "cgroup2", 0, ""); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_SHARED|unix.MS_REC, ""); err != nil {
		return err
	}
	return syscall.Exec("/knarr", append([]string{"/knarr"}, arguments...), os.Environ())
}

func bestEffort() error {
	group, err := pod("modest", `{}`, ready, "serve")
	if err != nil {
		return err
	}
	inner, err := container(group)
	if err != nil {
		return err
	}
	return errors.Join(files(group, map[string]string{"cpu.weight": "1", "memory.max": "max", "hugetlb.2MB.max": "0"}), files(inner, map[string]string{"memory.swap.max": "0", "hugetlb.2MB.max": "0"}))
}

func outOfMemory() error {
	if _, err := pod("hungry", `{"limits": {"memory": "48Mi"}}`, "jsonpath={.status.phase}=Failed", "eat"); err != nil && !strings.Contains(err.Error(), "has groups []") {
		return err
	}
	got, err := run("kubectl", "get", "pod", "hungry", "-o", "jsonpath={.status.containerStatuses[0].state.terminated.reason} {.status.containerStatuses[0].state.terminated.exitCode}")
	if err == nil && got != "OOMKilled 137" {
		err = fmt.Errorf("it is said to have ended as %q", got)
	}
	return err
}

func resize() error {
	patch := `{"spec": {"containers": [{"name": "app", "resources": {"requests": {"cpu": "100m", "memory": "32Mi"}, "limits": {"cpu": "250m", "memory": "96Mi"}}}]}}`
	if _, err := run("kubectl", "patch", "pod", "bounded", "--subresource", "resize", "-p", patch); err != nil {
		return err
	}
	inner, err := container(bounded)
	if err != nil {
		return err
	}
	want := map[string]string{"memory.max": "100663296", "cpu.max": "25000 100000"}
	return within(time.Minute, 200*time.Millisecond, func() error { return errors.Join(files(inner, want), files(bounded, want)) })
}

func use() error {
	summary, err := run("kubectl", "get", "--raw", "/api/v1/nodes/guest/proxy/stats/summary")
	if err != nil {
		return err
	}
	var stats struct {
		Pods []struct {
			PodRef struct{ Name string }
			CPU    struct{ UsageNanoCores, UsageCoreNanoSeconds uint64 }
			Memory struct{ WorkingSetBytes, UsageBytes, RssBytes, AvailableBytes uint64 }
		}
	}
	if err := json.Unmarshal([]byte(summary), &stats); err != nil {
		return err
	}
	for _, p := range stats.Pods {
		say("seen", fmt.Sprintf("stats of %s: cpu %+v memory %+v", p.PodRef.Name, p.CPU, p.Memory))
	}
	for path, words := range map[string][]string{
		"stats/summary":    {`"swapUsageBytes"`, `"name": "bounded"`, `"workingSetBytes"`},
		"metrics/resource": {`pod_memory_working_set_bytes{namespace="default",pod="bounded"}`, "container_swap_usage_bytes"},
		"metrics/cadvisor": {`container_memory_working_set_bytes{`, `pod="bounded"`, "container_cpu_cfs_periods_total"},
		"metrics":          {"kubelet_running_pods "},
		"configz":          {`"swapBehavior":"LimitedSwap"`},
	} {
		got, err := run("kubectl", "get", "--raw", "/api/v1/nodes/guest/proxy/"+path)
		if err != nil {
			return err
		}
		plain := strings.ReplaceAll(got, `": `, `":`)
		for _, word := range words {
			if !strings.Contains(plain, strings.ReplaceAll(word, `": `, `":`)) {
				return fmt.Errorf("%s does not say %s", path, word)
			}
		}
	}
	return nil
}

func outlive() error {
	inner, err := container(bounded)
	if err != nil {
		return err
	}
	before, err := os.ReadFile(filepath.Join(inner, "cgroup.procs"))
	if err != nil {
		return err
	}
	if err := knarr.Process.Kill(); err != nil {
		return err
	}
	_ = knarr.Wait() // it was killed
	if err := start(); err != nil {
		return err
	}
	if _, err := run("status", "--wait", "10m"); err != nil {
		return err
	}
	if after, err := os.ReadFile(filepath.Join(inner, "cgroup.procs")); err != nil || !bytes.Equal(before, after) {
		return fmt.Errorf("its processes are %q, were %q (%v)", after, before, err)
	}
	if _, err := run("kubectl", "delete", "pod", "bounded", "--timeout=2m"); err != nil {
		return err
	}
	return within(time.Minute, 100*time.Millisecond, func() error {
		if _, err := os.Stat(bounded); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s is left (%v)", bounded, err)
		}
		return nil
	})
}
