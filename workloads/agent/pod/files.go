package pod

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/agent/translate"
)

// A pod's files of ours lie beside its volumes:
//
//	pods/<uid>/etc-hosts, etc-hostname, etc-resolv.conf
//	pods/<uid>/shm                              the pod's shared memory, a tmpfs
//	pods/<uid>/containers/<name>/<attempt>      termination message
//	pods/<uid>/subpaths/<container>/<mount>     bind mounts of volume sub-paths
func (m *Manager) folder(pod *corev1.Pod) string {
	return filepath.Join(m.conf.Dir, "pods", string(pod.UID))
}

// sharedPlace is where something lies that all containers of a pod have in common, by its path in them.
func (m *Manager) sharedPlace(pod *corev1.Pod, target string) string {
	return filepath.Join(m.folder(pod), map[string]string{
		translate.HostsPath: "etc-hosts", translate.HostnamePath: "etc-hostname", translate.ResolvConfPath: "etc-resolv.conf", translate.ShmPath: "shm",
	}[target])
}

func (m *Manager) messageFile(pod *corev1.Pod, container string, attempt uint32) string {
	return filepath.Join(m.folder(pod), "containers", container, strconv.Itoa(int(attempt)))
}

func (m *Manager) subpaths(pod *corev1.Pod) string { return filepath.Join(m.folder(pod), "subpaths") }

// removeFiles removes our files of a pod, and its folder if storage has left nothing in it. It never descends into
// what may still be a mount.
func (m *Manager) removeFiles(pod *corev1.Pod) error {
	if pod.UID == "" {
		return nil
	}
	if err := os.RemoveAll(filepath.Join(m.folder(pod), "containers")); err != nil {
		return err
	}
	err := os.Remove(m.folder(pod))
	if errors.Is(err, unix.ENOTEMPTY) {
		return nil
	}
	return ignoreMissing(err)
}

// shared has the files that all containers of the pod see, by their path in the containers, and the pod's shared memory.
func (m *Manager) shared(pod *corev1.Pod, ips []string) (map[string]string, error) {
	if err := os.MkdirAll(m.folder(pod), 0o750); err != nil {
		return nil, err
	}
	texts, err := m.sharedTexts(pod, ips)
	if err != nil {
		return nil, err
	}
	places := make(map[string]string, len(texts)+1)
	for target, text := range texts {
		places[target] = m.sharedPlace(pod, target)
		if err := writeInPlace(places[target], text); err != nil {
			return nil, fmt.Errorf("write the pod's %s: %w", target, err)
		}
	}
	if pod.Spec.HostIPC {
		places[translate.ShmPath] = translate.ShmPath
		return places, nil
	}
	places[translate.ShmPath] = m.sharedPlace(pod, translate.ShmPath)
	return places, mountShm(places[translate.ShmPath])
}

func (m *Manager) sharedTexts(pod *corev1.Pod, ips []string) (map[string]string, error) {
	host := ""
	if pod.Spec.HostNetwork {
		data, err := os.ReadFile(translate.HostsPath)
		if err != nil {
			return nil, fmt.Errorf("read the machine's hosts file: %w", err)
		}
		host = string(data)
	}
	machine, err := os.Hostname()
	if err != nil {
		return nil, err
	}
	name, err := translate.HostnameFile(pod, m.conf.Node, machine)
	if err != nil {
		return nil, err
	}
	resolv, err := translate.ResolvConf(pod, m.conf.Node)
	if err != nil {
		return nil, err
	}
	return map[string]string{
		translate.HostsPath:      translate.HostsFile(pod, m.conf.Node, ips, host),
		translate.HostnamePath:   name,
		translate.ResolvConfPath: resolv,
	}, nil
}

// writeInPlace changes a file that containers have bind-mounted: it cannot be replaced.
func writeInPlace(path, text string) error {
	if have, err := os.ReadFile(path); err == nil && string(have) == text {
		return nil
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return err
	}
	return os.Chmod(path, 0o644) // whatever the umask: other users in the containers read it
}

// mountShm makes a pod's shared memory, with the size runtimes give it, unless it is there.
func mountShm(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err == nil && fs.Type == unix.TMPFS_MAGIC {
		if up := (unix.Statfs_t{}); unix.Statfs(filepath.Dir(dir), &up) == nil && up.Fsid != fs.Fsid {
			return nil
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("shm", dir, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, "mode=1777,size=64m"); err != nil {
		return fmt.Errorf("make the pod's shared memory: %w", err)
	}
	return nil
}

// removeShm forgets the pod's shared memory: it lives no longer than the sandbox it belongs to.
func (m *Manager) removeShm(pod *corev1.Pod) error {
	dir := m.sharedPlace(pod, translate.ShmPath)
	if err := unmountAll(dir); err != nil {
		return err
	}
	return ignoreMissing(os.Remove(dir))
}

// removeShared removes what the containers of the pod had in common.
func (m *Manager) removeShared(pod *corev1.Pod) error {
	for _, target := range []string{translate.HostsPath, translate.HostnamePath, translate.ResolvConfPath} {
		if err := ignoreMissing(os.Remove(m.sharedPlace(pod, target))); err != nil {
			return err
		}
	}
	return m.removeShm(pod)
}

// makeMessageFile makes the file a container writes its last words to, whoever it runs as.
func (m *Manager) makeMessageFile(pod *corev1.Pod, container string, attempt uint32) (string, error) {
	path := m.messageFile(pod, container, attempt)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return "", err
	}
	if err := os.WriteFile(path, nil, 0o666); err != nil {
		return "", fmt.Errorf("make termination message file: %w", err)
	}
	return path, os.Chmod(path, 0o666)
}

// bindSubpath binds a part of a volume to a place of its own. The container's processes may turn any part of the path
// into a symbolic link while we look, so the kernel resolves it beneath the volume and what was opened is what is bound.
func (m *Manager) bindSubpath(pod *corev1.Pod, container string, index int, volume, sub string) (string, error) {
	if !filepath.IsLocal(sub) {
		return "", translate.ConfigError{Message: fmt.Sprintf("subPath %q must not leave its volume", sub)}
	}
	if err := makeBeneath(volume, sub); err != nil {
		return "", fmt.Errorf("make subPath %q: %w", sub, err)
	}
	root, err := unix.Open(volume, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open volume: %w", err)
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, sub, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return "", fmt.Errorf("open subPath %q: %w", sub, err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", fmt.Errorf("look at subPath %q: %w", sub, err)
	}
	target := filepath.Join(m.subpaths(pod), container, strconv.Itoa(index))
	if err := unmountAll(target); err != nil {
		return "", err
	}
	if err := mountpoint(target, st.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return "", err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("bind subPath %q: %w", sub, err)
	}
	return target, nil
}

// makeBeneath makes the missing folders of a sub-path, without leaving the volume through a link.
func makeBeneath(volume, sub string) error {
	root, err := os.OpenRoot(volume)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := root.Stat(sub); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := root.MkdirAll(sub, 0o750); err != nil {
		return err
	}
	// Like the volume it lies in, a new folder belongs to who may use the volume.
	info, err := os.Stat(volume)
	if err != nil {
		return err
	}
	return root.Chmod(sub, info.Mode().Perm())
}

func mountpoint(target string, dir bool) error {
	if dir {
		return os.MkdirAll(target, 0o750)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}

// unmountAll removes every mount stacked on target; a place that is no mount is no error.
func unmountAll(target string) error {
	for {
		err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
		switch {
		case err == nil:
			continue
		case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
			return nil
		}
		return fmt.Errorf("unmount %s: %w", target, err)
	}
}

func (m *Manager) unmountSubpaths(pod *corev1.Pod) error {
	places, err := filepath.Glob(filepath.Join(m.subpaths(pod), "*", "*"))
	if err != nil {
		return err
	}
	for _, place := range places {
		if err := unmountAll(place); err != nil {
			return err
		}
		if err := ignoreMissing(os.Remove(place)); err != nil {
			return fmt.Errorf("remove mount point: %w", err)
		}
	}
	parents, err := filepath.Glob(filepath.Join(m.subpaths(pod), "*"))
	if err != nil {
		return err
	}
	for _, dir := range append(parents, m.subpaths(pod)) {
		if err := ignoreMissing(os.Remove(dir)); err != nil {
			return err
		}
	}
	return nil
}
