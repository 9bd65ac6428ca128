// Package tree ends folders whose content is no longer wanted.
//
// In:       folders that may be large, have mounts below them, and were written to by strangers.
// Out:      nothing of them left.
// Promise:  deleting goes by descriptors that refuse to follow links and to cross into another mount: what is on a mount
// that was missed survives, and the error says so.
// Not here: deciding that nobody wants them (storage/volume, storage/localpath).
package tree

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Detach takes away every mount at and below a folder. It does not wait for users of a mount, so a hung server cannot
// hold it up.
func Detach(folder string) error {
	mounts, err := Mounts(folder)
	if err != nil {
		return err
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		err := unix.Unmount(mounts[i], unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // both: no longer mounted
			return fmt.Errorf("unmount %s: %w", mounts[i], err)
		}
	}
	return nil
}

// Remove deletes a folder and all below it; one that is not there is fine. It stops at mounts.
func Remove(folder string) error {
	parent, err := unix.Open(filepath.Dir(folder), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
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

// Mounts lists the mount points at and below a folder, in the order they were mounted.
func Mounts(folder string) ([]string, error) {
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
