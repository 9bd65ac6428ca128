package machine

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// dropFilePages unmaps the pages of this binary that are only read. They stay in the page cache, and the ones still used come
// back by a minor fault each. Those of other mapped files stay: a datastore that grows maps its file anew, and what lies at the
// old place by then may be anybody's.
func dropFilePages() error {
	binary, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("find own binary: %w", err)
	}
	content, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return fmt.Errorf("read own memory map: %w", err)
	}
	for _, area := range readOnly(string(content), strings.TrimSuffix(binary, " (deleted)")) {
		// EINVAL is for areas that are locked or special; they stay as they are.
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, area.start, area.length, unix.MADV_DONTNEED); errno != 0 && errno != unix.EINVAL {
			return fmt.Errorf("drop pages of the binary: %w", errno)
		}
	}
	return nil
}

type area struct{ start, length uintptr }

// readOnly finds the areas of /proc/self/maps that show the file and can't be written: dropping their pages loses nothing. A
// private area that was writable once could hold the only copy of a page; ours never were.
func readOnly(maps, file string) []area {
	var list []area
	for line := range strings.Lines(maps) {
		f := strings.Fields(line)
		if len(f) < 6 || f[5] != file || !strings.HasPrefix(f[1], "r-") {
			continue
		}
		var from, to uintptr
		if _, err := fmt.Sscanf(f[0], "%x-%x", &from, &to); err != nil || to <= from {
			continue
		}
		list = append(list, area{from, to - from})
	}
	return list
}
