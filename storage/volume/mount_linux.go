package volume

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// mountMemory puts a tmpfs on the folder unless something is mounted there already.
func mountMemory(folder string, size int64) error {
	mounted, err := isMountPoint(folder)
	if err != nil || mounted {
		return err
	}
	options := []string{"mode=0777"}
	if size > 0 {
		options = append(options, "size="+strconv.FormatInt(size, 10))
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV)
	// Since Linux 6.4 a tmpfs can refuse to be swapped out, which keeps secrets off disks; older kernels say EINVAL.
	err = unix.Mount("tmpfs", folder, "tmpfs", flags, strings.Join(append(options, "noswap"), ","))
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("tmpfs", folder, "tmpfs", flags, strings.Join(options, ","))
	}
	if err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", folder, err)
	}
	return nil
}

// mountHugePages puts a hugetlbfs of one page size on the folder.
func mountHugePages(folder string, pageSize int64) error {
	mounted, err := isMountPoint(folder)
	if err != nil || mounted {
		return err
	}
	if err := unix.Mount("nodev", folder, "hugetlbfs", 0, "pagesize="+strconv.FormatInt(pageSize, 10)); err != nil {
		return fmt.Errorf("mount hugetlbfs with pages of %d bytes on %s: %w; reserve such pages on the node", pageSize, folder, err)
	}
	return nil
}

// isMountPoint asks for the mount's root attribute where the kernel has it (5.8), else compares devices.
func isMountPoint(folder string) (bool, error) {
	var stat unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, folder, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &stat)
	if err != nil {
		return false, fmt.Errorf("stat %s: %w", folder, err)
	}
	if stat.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
	}
	mounts, err := mountsBelow(folder)
	return len(mounts) > 0 && mounts[0] == filepath.Clean(folder), err
}

// mountsBelow lists the mount points at and below a folder, in the order they were mounted.
func mountsBelow(folder string) ([]string, error) {
	table, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	defer table.Close()
	folder = filepath.Clean(folder)
	if resolved, err := filepath.EvalSymlinks(folder); err == nil {
		folder = resolved // the table holds real paths; the data directory may be a link
	}
	var found []string
	lines := bufio.NewScanner(table)
	lines.Buffer(make([]byte, 0, 64<<10), 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		point := unescape(fields[4])
		if point == folder || strings.HasPrefix(point, folder+"/") {
			found = append(found, point)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	return found, nil
}

// unescape undoes the octal escapes of the mount table.
func unescape(point string) string {
	if !strings.Contains(point, `\`) {
		return point
	}
	var out strings.Builder
	for i := 0; i < len(point); i++ {
		if point[i] == '\\' && i+4 <= len(point) {
			if code, err := strconv.ParseUint(point[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(code))
				i += 3
				continue
			}
		}
		out.WriteByte(point[i])
	}
	return out.String()
}

// removeTree detaches every mount below the folder and deletes what is left. Detaching does not wait for users of
// the mount, so a hung server cannot hold up the end of a pod. Deleting goes by descriptors that refuse to cross
// into another mount: should a mount have been missed, its content survives and the error says so.
func removeTree(folder string) error {
	if _, err := os.Lstat(folder); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	mounts, err := mountsBelow(folder)
	if err != nil {
		return err
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		err := unix.Unmount(mounts[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // both: no longer mounted
			return fmt.Errorf("unmount %s: %w", mounts[i], err)
		}
	}
	parent, err := unix.Open(filepath.Dir(folder), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", filepath.Dir(folder), err)
	}
	defer unix.Close(parent)
	return removeAt(parent, filepath.Base(folder), folder)
}

// removeAt deletes one name of an open folder, with all below it.
func removeAt(parent int, name, shown string) error {
	err := unix.Unlinkat(parent, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("delete %s: %w", shown, err)
	}
	fd, err := openBeneath(parent, name, unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_NO_XDEV|unix.RESOLVE_NO_SYMLINKS)
	if errors.Is(err, unix.EXDEV) {
		return fmt.Errorf("delete %s: something is still mounted there; unmount it and the rest follows", shown)
	}
	if err != nil {
		return fmt.Errorf("open %s to delete it: %w", shown, err)
	}
	dir := os.NewFile(uintptr(fd), shown)
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return fmt.Errorf("list %s to delete it: %w", shown, err)
	}
	for _, child := range names {
		if err := removeAt(fd, child, filepath.Join(shown, child)); err != nil {
			return err
		}
	}
	if err := unix.Unlinkat(parent, name, unix.AT_REMOVEDIR); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete folder %s: %w", shown, err)
	}
	return nil
}

// openBeneath opens a path relative to an open folder under openat2's rules.
func openBeneath(dir int, path string, flags int, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: resolve}
	for range 16 { // EAGAIN: a rename elsewhere raced with the walk
		fd, err := unix.Openat2(dir, path, &how)
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
	return -1, unix.EAGAIN
}

func notEmpty(err error) bool { return errors.Is(err, unix.ENOTEMPTY) }

func ownedAs(info fs.FileInfo, want file) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == max(want.uid, 0) && int(stat.Gid) == max(want.gid, 0)
}
