package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

// SubPath makes one path inside a volume available for a container and returns where. The container that shares the
// volume may swap parts of the path for links at any moment; so the path is opened once, with the kernel refusing to
// step outside the volume, and the opened file itself, not its name, is bound to a place of the pod's own. A missing
// path is made a folder, as the API promises.
func (m *Manager) SubPath(uid types.UID, container, volume string, index int, root, subPath string) (string, error) {
	clean := filepath.Clean(subPath)
	if filepath.IsAbs(clean) || clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("subPath %q of volume %q leaves the volume: use a relative path without \"..\"", subPath, volume)
	}
	fd, err := openInside(root, clean)
	if err != nil {
		return "", fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: open %q inside the volume: %w", volume, container, subPath, err)
	}
	defer unix.Close(fd)
	target := filepath.Join(m.folder(uid), "volume-subpaths", volume, container, strconv.Itoa(index))
	if err := bind(fd, target); err != nil {
		return "", fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", volume, container, err)
	}
	return target, nil
}

// openInside opens a path below root without ever leaving it, making folders that are missing.
func openInside(root, path string) (int, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open volume %s: %w", root, err)
	}
	defer unix.Close(dir)
	const inside = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS
	fd, err := openBeneath(dir, path, unix.O_PATH, inside)
	if !errors.Is(err, unix.ENOENT) {
		return fd, explain(err)
	}
	var volume unix.Stat_t
	if err := unix.Fstat(dir, &volume); err != nil {
		return -1, fmt.Errorf("stat volume %s: %w", root, err)
	}
	parts := strings.Split(path, "/")
	for i := range parts {
		here := filepath.Join(parts[:i+1]...)
		fd, err := openBeneath(dir, here, unix.O_PATH, inside)
		if err == nil {
			unix.Close(fd)
			continue
		}
		if !errors.Is(err, unix.ENOENT) {
			return -1, explain(err)
		}
		if err := makeFolder(dir, filepath.Dir(here), parts[i], &volume, inside); err != nil {
			return -1, err
		}
	}
	fd, err = openBeneath(dir, path, unix.O_PATH, inside)
	return fd, explain(err)
}

// makeFolder creates one missing folder with the volume's own mode and owner, so that whoever may write to the volume
// may write to it as well.
func makeFolder(root int, parent, name string, like *unix.Stat_t, inside uint64) error {
	dir, err := openBeneath(root, parent, unix.O_RDONLY|unix.O_DIRECTORY, inside)
	if err != nil {
		return explain(err)
	}
	defer unix.Close(dir)
	if err := unix.Mkdirat(dir, name, 0o750); err != nil {
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		return fmt.Errorf("make folder %q: %w", name, err)
	}
	fd, err := openBeneath(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, inside)
	if err != nil {
		return explain(err)
	}
	defer unix.Close(fd)
	if err := unix.Fchown(fd, int(like.Uid), int(like.Gid)); err != nil {
		return fmt.Errorf("change the owner of folder %q: %w", name, err)
	}
	if err := unix.Fchmod(fd, like.Mode&0o7777); err != nil {
		return fmt.Errorf("set the mode of folder %q: %w", name, err)
	}
	return nil
}

// bind mounts an opened file or folder at target, replacing what an earlier start of the container left there.
func bind(fd int, target string) error {
	if err := removeTree(target); err != nil {
		return err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return fmt.Errorf("stat the opened path: %w", err)
	}
	place := filepath.Dir(target)
	if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		place = target
	}
	if err := os.MkdirAll(place, 0o750); err != nil {
		return fmt.Errorf("make %s: %w", place, err)
	}
	if place != target {
		if err := os.WriteFile(target, nil, 0o640); err != nil {
			return fmt.Errorf("make %s: %w", target, err)
		}
	}
	if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind to %s: %w", target, err)
	}
	return nil
}

func explain(err error) error {
	switch {
	case errors.Is(err, unix.EXDEV):
		return errors.New("a symbolic link in it leads out of the volume")
	case errors.Is(err, unix.ELOOP):
		return errors.New("its symbolic links lead in a circle")
	}
	return err
}
