package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/sandbox"
	"golang.org/x/sys/unix"
)

// clearStrays takes away what a process that was killed left between making something and noting it: containerd finds
// again only what it noted. It runs before anything new is made, so that whatever nobody knows is nobody's.
func (r *Runtime) clearStrays(ctx context.Context) error {
	ctx = in(ctx)
	stored, err := r.handle.client.SandboxStore().List(ctx)
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	return errors.Join(r.clearShims(), r.clearFolders(), r.clearNamespaces(stored), r.clearLeases(ctx, stored))
}

// shimName is the program's, as containerd derives it from the runtime's type.
const shimName = "containerd-shim-runc-v2"

// clearShims ends shims without a bundle, in which containerd would have noted how to speak to them. Several of its plugins
// keep bundles, each in a folder of its own.
func (r *Runtime) clearShims() error {
	known := func(id string) bool {
		bundles, err := filepath.Glob(filepath.Join(r.conf.Paths.ContainerdState(), "*", Namespace, id))
		return err != nil || len(bundles) > 0
	}
	const passes = 10 // one that is just starting may be two processes a moment later
	for range passes {
		all, err := processes()
		if err != nil {
			return err
		}
		found := false
		for _, p := range all {
			if !strayShim(p.args, r.conf.Paths.ContainerdSocket(), known) {
				continue
			}
			found = true
			r.log.Info("shim ended that an interrupted start left", "pid", p.pid)
			for _, child := range all {
				if child.parent == p.pid {
					kill(child.pid)
				}
			}
			kill(p.pid)
		}
		if !found {
			return nil
		}
	}
	return errors.New("end shims an interrupted start left: they are still there")
}

// kill does not wait, and an error means that the process has ended.
func kill(pid int) { _ = syscall.Kill(pid, syscall.SIGKILL) }

// strayShim says whether a process with these arguments is a shim of this machine's containerd that nobody knows.
func strayShim(args []string, socket string, known func(id string) bool) bool {
	if len(args) == 0 || filepath.Base(args[0]) != shimName || option(args, "-address") != socket {
		return false
	}
	switch args[len(args)-1] {
	case "delete": // clears up and ends
		return false
	case "start": // of a shim that nobody waits for any more
		return true
	}
	return !known(option(args, "-id"))
}

func option(args []string, name string) string {
	if i := slices.Index(args, name); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

// process is one of this machine's.
type process struct {
	pid, parent int
	args        []string
}

// processes without those that have ended and wait for their parent to notice.
func processes() ([]process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var all []process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat"))
		if err != nil {
			continue // ended meanwhile
		}
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || len(line) == 0 {
			continue
		}
		// After the name, in brackets, come the state and the parent.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 2 {
			continue
		}
		parent, err := strconv.Atoi(fields[1])
		if err != nil {
			continue
		}
		all = append(all, process{pid, parent, strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")})
	}
	return all, nil
}

// clearFolders removes bundles and their work folders that were on their way out: containerd hides them, then takes away
// what is in them, and passes by what it finds hidden.
func (r *Runtime) clearFolders() error {
	for _, root := range []string{r.conf.Paths.ContainerdState(), r.conf.Paths.Containerd()} {
		found, err := filepath.Glob(filepath.Join(root, "*", Namespace, ".*"))
		if err != nil {
			return err
		}
		for _, path := range found {
			if !criID.MatchString(filepath.Base(path)[1:]) {
				continue
			}
			if err := os.RemoveAll(path); err != nil {
				return fmt.Errorf("remove what is left of a bundle: %w", err)
			}
			r.log.Info("bundle removed whose removal was interrupted", "path", path)
		}
	}
	return nil
}

// clearNamespaces removes network namespaces that no sandbox has.
func (r *Runtime) clearNamespaces(stored []sandbox.Sandbox) error {
	found, err := filepath.Glob(filepath.Join(r.conf.Paths.ContainerdState(), "io.containerd.grpc.v1.cri", "netns", "*"))
	if err != nil {
		return err
	}
	for _, path := range found {
		if mentioned(stored, path) {
			continue
		}
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount network namespace %s: %w", path, err)
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove network namespace: %w", err)
		}
		r.log.Info("network namespace removed that an interrupted start left", "path", path)
	}
	return nil
}

// mentioned looks for a path in what CRI notes with each sandbox. Its type is containerd's own; the path is unlike
// anything else in it.
func mentioned(stored []sandbox.Sandbox, path string) bool {
	return slices.ContainsFunc(stored, func(s sandbox.Sandbox) bool {
		for _, e := range s.Extensions {
			if bytes.Contains(e.GetValue(), []byte(path)) {
				return true
			}
		}
		return false
	})
}

// criID is what CRI names sandboxes, their leases and containers.
var criID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// clearLeases drops the leases of sandboxes that were never noted.
func (r *Runtime) clearLeases(ctx context.Context, stored []sandbox.Sandbox) error {
	service := r.handle.client.LeasesService()
	all, err := service.List(ctx)
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	for _, lease := range all {
		if !criID.MatchString(lease.ID) || slices.ContainsFunc(stored, func(s sandbox.Sandbox) bool { return s.ID == lease.ID }) {
			continue
		}
		if err := service.Delete(ctx, lease); err != nil {
			return fmt.Errorf("delete lease %s: %w", lease.ID, err)
		}
	}
	return nil
}
