package machine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/netstack/firewall"
	"knarr.dev/knarr/netstack/overlay"
	"knarr.dev/knarr/netstack/podnet"
	"knarr.dev/knarr/netstack/policy"
	"knarr.dev/knarr/netstack/proxy"
	"knarr.dev/knarr/workloads/agent/remote"
	"knarr.dev/knarr/workloads/agent/settings"
)

const (
	// resetStop is how long a running knarr may take to stop: its stages' grace and a little more.
	resetStop = 90 * time.Second
	// resetKill is how long the kernel may take to end what was killed.
	resetKill = 20 * time.Second
)

// Reset stops knarr on this machine and removes what it made: processes, mounts, links, rules, cgroups, files.
// Each step goes on where an earlier reset was interrupted.
func Reset(ctx context.Context, cfg *config.Config, log *slog.Logger) error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed to remove what root made")
	}
	paths := cfg.Paths()
	pods := filepath.Join(cfg.CgroupRoot, "kubepods")
	endpoint := cfg.RuntimeEndpoint
	if tuned, err := settings.Read(cfg.KubeletConfig); err == nil { // a file with a mistake must not keep a machine from being cleared
		endpoint = cmp.Or(endpoint, tuned.Runtime)
	}
	networks, programs := cfg.CNIDirs(endpoint)
	steps := []struct {
		name string
		do   func() error
		must bool // going on without it would pull the ground from under what still runs, or delete through a mount
	}{
		{"look at the folders", func() error {
			return errors.Join(ours(cfg.DataDir, lockFile), ours(cfg.RunDir, stateName))
		}, true},
		{"stop knarr", func() error { return stopKnarr(ctx, cfg.DataDir) }, true},
		{"remove pods from the container runtime", func() error { return removePods(ctx, endpoint, paths, log) }, true},
		{"stop containers", func() error { return killAll(ctx, paths, pods) }, true},
		{"unmount", func() error { return unmountBelow(cfg.DataDir, cfg.RunDir) }, true},
		{"remove service rules", proxy.Remove, false},
		{"remove network policies", policy.Remove, false},
		{"remove rules from other firewalls", firewall.Remove, false},
		{"remove overlay", overlay.Remove, false},
		{"remove pod network", func() error { return podnet.Remove(paths, networks, programs) }, false},
		{"remove cgroups", func() error { return removeCgroups(cfg.CgroupRoot, pods) }, false},
		{"remove files", func() error {
			return errors.Join(removeTree(cfg.RunDir, stateName), removeTree(cfg.DataDir, lockFile), removeFile(cfg.WriteKubeconfig), removeLink(cfg.KubeletDir, paths.Agent()))
		}, false},
	}
	var errs []error
	for _, step := range steps {
		if err := step.do(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", step.name, err))
			if step.must {
				break
			}
			continue
		}
		log.Info("reset", "done", step.name)
	}
	return errors.Join(errs...)
}

// removeLink removes a link that leads to a folder of ours.
func removeLink(path, target string) error {
	if to, err := os.Readlink(path); err != nil || to != target {
		return nil // somebody else's
	}
	return removeFile(path)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// ours refuses a folder without the file that every knarr makes in it first: a mistyped --data-dir must not cost somebody
// else's files.
func ours(dir, mark string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	if info, err := os.Lstat(filepath.Join(dir, mark)); err != nil || !info.Mode().IsRegular() {
		return fmt.Errorf("%s was not made by knarr (it has no file %s); nothing was changed: give the --data-dir and --run-dir knarr was started with", dir, mark)
	}
	return nil
}

// removeTree empties a folder and removes it, unless it is a disk of its own. What shows that it is ours goes last, so
// that a reset that was interrupted can be repeated.
func removeTree(dir, mark string) error {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if e.Name() == mark {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(dir); err != nil && !errors.Is(err, unix.EBUSY) {
		return err
	}
	return nil
}

func stopKnarr(ctx context.Context, dataDir string) error {
	pid, err := Holder(dataDir)
	if err != nil || pid == 0 {
		return err
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal pid %d: %w", pid, err)
	}
	if err := gone(ctx, []int{pid}, resetStop); err == nil {
		return nil
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill pid %d: %w", pid, err)
	}
	return gone(ctx, []int{pid}, resetKill)
}

// removePods has a container runtime of the operator's own give up the pods it runs for knarr. All that it has are knarr's:
// a runtime has one node agent.
func removePods(ctx context.Context, endpoint string, paths config.Paths, log *slog.Logger) (err error) {
	if endpoint == "" {
		return nil
	}
	socket, err := config.Socket(endpoint)
	if err != nil {
		return err
	}
	runtime, err := remote.New(socket, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, runtime.Close()) }()
	ctx, cancel := context.WithCancel(ctx)
	answered, err := podnet.Retire(ctx, paths) // it asks for each pod's network to be taken away, and knarr has stopped
	if err != nil {
		cancel()
		return err
	}
	defer func() {
		cancel()
		err = errors.Join(err, <-answered)
	}()
	list, err := runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list its pods: %w (does it run? start it, or clear --container-runtime-endpoint if it is gone for good)", err)
	}
	for _, sandbox := range list.GetItems() {
		if _, err := runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: sandbox.Id}); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("stop pod %s/%s: %w", sandbox.Metadata.GetNamespace(), sandbox.Metadata.GetName(), err)
		}
		if _, err := runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: sandbox.Id}); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("remove pod %s/%s: %w", sandbox.Metadata.GetNamespace(), sandbox.Metadata.GetName(), err)
		}
	}
	return nil
}

// killAll ends shims first, so that none of them reports or restarts anything, then whatever is in pods' cgroups.
func killAll(ctx context.Context, paths config.Paths, podsCgroup string) error {
	shims, err := processesFrom(paths.Helpers())
	if err != nil {
		return err
	}
	contained, err := processesIn(podsCgroup)
	if err != nil {
		return err
	}
	pids := append(shims, contained...)
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill pid %d: %w", pid, err)
		}
	}
	return gone(ctx, pids, resetKill)
}

// processesFrom lists the processes whose program lies below dir.
func processesFrom(dir string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		program, err := os.Readlink(filepath.Join("/proc", e.Name(), "exe"))
		if err == nil && strings.HasPrefix(program, dir+"/") {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// processesIn lists the processes in a cgroup and all below it, in every hierarchy.
func processesIn(cgroup string) ([]int, error) {
	seen := map[int]bool{}
	err := walkCgroup(cgroup, func(dir string) error {
		content, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, field := range strings.Fields(string(content)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				seen[pid] = true
			}
		}
		return nil
	})
	pids := make([]int, 0, len(seen))
	for pid := range seen {
		pids = append(pids, pid)
	}
	return pids, err
}

// walkCgroup visits the folders of a cgroup in every mounted hierarchy, children before their parent.
func walkCgroup(cgroup string, visit func(dir string) error) error {
	mounts, err := mountPoints(isCgroup)
	if err != nil {
		return err
	}
	for _, mount := range mounts {
		var dirs []string
		err := filepath.WalkDir(filepath.Join(mount, cgroup), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		if err != nil {
			return err
		}
		for _, dir := range slices.Backward(dirs) {
			if err := visit(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeCgroups removes the pods' cgroups and, when it was made for them alone, the root they were in.
func removeCgroups(root, pods string) error {
	err := walkCgroup(pods, func(dir string) error {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove %s: %w", dir, err)
		}
		return nil
	})
	if err != nil || filepath.Clean(root) == "/" {
		return err
	}
	mounts, err := mountPoints(isCgroup)
	if err != nil {
		return err
	}
	for _, mount := range mounts {
		dir := filepath.Join(mount, root)
		err := unix.Rmdir(dir)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			return fmt.Errorf("remove %s: %w", dir, err)
		}
	}
	return nil
}

func isCgroup(fsType string) bool { return fsType == "cgroup" || fsType == "cgroup2" }

// mountPoints lists where file systems of a type are mounted, the latest first.
func mountPoints(want func(fsType string) bool) ([]string, error) {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var points []string
	for line := range strings.Lines(string(content)) {
		before, after, ok := strings.Cut(line, " - ")
		fields, kinds := strings.Fields(before), strings.Fields(after)
		if ok && len(fields) > 4 && len(kinds) > 0 && want(kinds[0]) {
			points = append(points, unescape(fields[4]))
		}
	}
	slices.Reverse(points)
	return points, nil
}

// unescape turns mountinfo's octal notation of blanks back.
func unescape(path string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(path)
}

func unmountBelow(dirs ...string) error {
	points, err := mountPoints(func(string) bool { return true })
	if err != nil {
		return err
	}
	var errs []error
	for _, point := range points {
		for _, dir := range dirs {
			if !strings.HasPrefix(point, filepath.Clean(dir)+"/") {
				continue
			}
			// Detached: a process elsewhere that still looks at it must not stop the reset.
			if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
				errs = append(errs, fmt.Errorf("unmount %s: %w", point, err))
			}
		}
	}
	return errors.Join(errs...)
}

// gone waits until none of the processes is left.
func gone(ctx context.Context, pids []int, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for _, pid := range pids {
		if err := waitFor(ctx, pid); err != nil {
			return err
		}
	}
	return nil
}

func waitFor(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch pid %d: %w", pid, err)
	}
	defer unix.Close(fd)
	for ctx.Err() == nil {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 100) // ms, to notice ctx
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for pid %d: %w", pid, err)
		}
	}
	return fmt.Errorf("pid %d still runs: %w", pid, ctx.Err())
}
