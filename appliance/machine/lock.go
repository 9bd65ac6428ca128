package machine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockFile is the first thing in a data directory.
const lockFile = "lock"

// lock keeps a second knarr off a data directory. The kernel lets go of it however this process ends.
type lock struct{ file *os.File }

func takeLock(dataDir string) (*lock, error) {
	if err := os.MkdirAll(dataDir, 0o755); err != nil {
		return nil, fmt.Errorf("make data directory: %w", err)
	}
	path := filepath.Join(dataDir, lockFile)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of data directory: %w", err)
	}
	err = flock(file)
	for deadline := time.Now().Add(dying); errors.Is(err, unix.EWOULDBLOCK) && time.Now().Before(deadline) && !runs(holder(path)); err = flock(file) {
		time.Sleep(20 * time.Millisecond) // the kernel tells nobody when it has taken a killed process apart
	}
	if err != nil {
		pid := holder(path)
		_ = file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("data directory %s is in use by another knarr (pid %d); stop it, or give this one a --data-dir of its own", dataDir, pid)
		}
		return nil, fmt.Errorf("lock data directory %s: %w", dataDir, err)
	}
	if err := errors.Join(file.Truncate(0), writeAt(file, fmt.Sprintln(os.Getpid()))); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("write lock of data directory %s: %w (is the disk full?)", dataDir, err)
	}
	return &lock{file}, nil
}

// dying is how long a killed knarr may keep its lock: the kernel lets go of it only after all of its memory.
const dying = 5 * time.Second

func flock(file *os.File) error { return unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

// holder is the pid in a lock file, 0 when it has none.
func holder(path string) (pid int) {
	content, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	_, _ = fmt.Sscan(string(content), &pid)
	return pid
}

// runs tells a process that goes on from one that has been killed: the latter has let go of its program already.
func runs(pid int) bool {
	_, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil
}

func writeAt(file *os.File, text string) error {
	_, err := file.WriteAt([]byte(text), 0)
	return err
}

func (l *lock) release() { _ = l.file.Close() }

// Holder is the pid of the knarr that uses a data directory, 0 when none does.
func Holder(dataDir string) (int, error) {
	path := filepath.Join(dataDir, lockFile)
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("open lock of data directory: %w", err)
	}
	defer file.Close()
	switch err := unix.Flock(int(file.Fd()), unix.LOCK_SH|unix.LOCK_NB); {
	case err == nil:
		return 0, nil
	case !errors.Is(err, unix.EWOULDBLOCK):
		return 0, fmt.Errorf("look at lock of data directory %s: %w", dataDir, err)
	}
	var pid int
	if _, err := fmt.Fscan(file, &pid); err != nil {
		return 0, fmt.Errorf("read pid in %s: %w", path, err)
	}
	return pid, nil
}
