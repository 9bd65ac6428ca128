package csi

import (
	"errors"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"knarr.dev/knarr/storage/tree"
)

// mounted says whether something is mounted at a path; a path that is not there has nothing.
func mounted(path string) (bool, error) {
	var stat unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &stat)
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if stat.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0, nil
	}
	mounts, err := tree.Mounts(filepath.Dir(path))
	return slices.Contains(mounts, filepath.Clean(path)), err
}
