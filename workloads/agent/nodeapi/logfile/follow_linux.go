package logfile

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	slowPoll = time.Second      // when the kernel has no inotify left for us
	safety   = 10 * time.Second // beside notices, in case one is lost
	// afterClose is how soon a container is looked at again whose log was closed: the runtime closes the log a little
	// before it says that the container ended.
	afterClose = 50 * time.Millisecond
)

// One inotify instance serves every follower of this process, because a machine has few of them; it exists only while
// somebody follows.
var notices struct {
	mu    sync.Mutex
	file  *os.File
	fd    int // of file; asking File for it would make its reads block
	byDir map[string]int32
	byWD  map[int32]map[*changes]struct{}
}

// changes tells one follower that its log may have changed.
type changes struct {
	dir    string
	signal chan bool // true: the log was closed
	every  time.Duration
	soon   time.Duration
}

// subscribe begins to watch the folder of a log: the file itself may be replaced. The result is usable even with an
// error, then without notices.
func subscribe(path string) (*changes, error) {
	c := &changes{dir: filepath.Dir(path), signal: make(chan bool, 1), every: safety}
	notices.mu.Lock()
	defer notices.mu.Unlock()
	if notices.file == nil {
		fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
		if err != nil {
			return c, fmt.Errorf("watch logs: %w", err)
		}
		notices.file, notices.fd = os.NewFile(uintptr(fd), "inotify"), fd
		notices.byDir, notices.byWD = map[string]int32{}, map[int32]map[*changes]struct{}{}
		go listen(notices.file)
	}
	wd, watched := notices.byDir[c.dir]
	if !watched {
		const mask = unix.IN_MODIFY | unix.IN_CLOSE_WRITE | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE_SELF
		added, err := unix.InotifyAddWatch(notices.fd, c.dir, mask)
		if err != nil {
			closeWhenUnused()
			return c, fmt.Errorf("watch %s: %w", c.dir, err)
		}
		wd = int32(added)
		notices.byDir[c.dir], notices.byWD[wd] = wd, map[*changes]struct{}{}
	}
	notices.byWD[wd][c] = struct{}{}
	return c, nil
}

// cancel ends a subscription, the last one also the watching.
func (c *changes) cancel() {
	notices.mu.Lock()
	defer notices.mu.Unlock()
	wd, watched := notices.byDir[c.dir]
	if !watched {
		return
	}
	delete(notices.byWD[wd], c)
	if len(notices.byWD[wd]) == 0 {
		_, _ = unix.InotifyRmWatch(notices.fd, uint32(wd)) // fails when the folder is gone, and the watch with it
		delete(notices.byWD, wd)
		delete(notices.byDir, c.dir)
	}
	closeWhenUnused()
}

// closeWhenUnused needs the lock.
func closeWhenUnused() {
	if notices.file != nil && len(notices.byWD) == 0 {
		_ = notices.file.Close() // ends listen
		notices.file = nil
	}
}

// wait returns when the log may have changed or it is time to look anyway, and false when ctx ended.
func (c *changes) wait(ctx context.Context) bool {
	pause := c.every
	if c.soon > 0 {
		pause = min(c.soon, c.every)
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case closed := <-c.signal:
		c.soon = 0
		if closed {
			c.soon = afterClose
		}
	case <-timer.C:
		if c.soon *= 2; c.soon > c.every {
			c.soon = 0
		}
	}
	return true
}

// listen passes notices on until the file is closed.
func listen(file *os.File) {
	buffer := make([]byte, 4<<10)
	for {
		n, err := file.Read(buffer)
		if err != nil {
			return
		}
		notices.mu.Lock()
		for rest := buffer[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			wd := int32(binary.NativeEndian.Uint32(rest))
			mask := binary.NativeEndian.Uint32(rest[4:])
			length := int(binary.NativeEndian.Uint32(rest[12:]))
			for c := range notices.byWD[wd] {
				c.notify(mask&(unix.IN_CLOSE_WRITE|unix.IN_DELETE_SELF|unix.IN_IGNORED) != 0)
			}
			rest = rest[min(unix.SizeofInotifyEvent+length, len(rest)):]
		}
		notices.mu.Unlock()
	}
}

// notify leaves one signal; that the log was closed must not be lost behind one that it grew.
func (c *changes) notify(closed bool) {
	for {
		select {
		case c.signal <- closed:
			return
		default:
		}
		select {
		case earlier := <-c.signal:
			closed = closed || earlier
		default:
		}
	}
}
