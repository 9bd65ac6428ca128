package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"knarr.dev/knarr/storage/tree"
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
	mounts, err := tree.Mounts(folder)
	return len(mounts) > 0 && mounts[0] == filepath.Clean(folder), err
}

func notEmpty(err error) bool { return errors.Is(err, unix.ENOTEMPTY) }

func ownedAs(info fs.FileInfo, want file) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == max(want.uid, 0) && int(stat.Gid) == max(want.gid, 0)
}
