package static

import (
	"context"
	"encoding/binary"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lookAnyway is for folders of which the kernel does not tell that they change: on a network's disk, or not there yet.
const lookAnyway = 20 * time.Second

// wait returns when there may be something to read, false when ctx has ended. Nothing is lost between two waits: what
// changes before the kernel is asked to watch is seen by the look that follows.
func (s *Source) wait(ctx context.Context) bool {
	if s.events == nil {
		s.events = watch(ctx, s.conf.Dir)
		if s.events != nil {
			return ctx.Err() == nil // what changed before
		}
	}
	timer := time.NewTimer(lookAnyway)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case _, open := <-s.events: // blocks for ever where there is none
		if !open {
			s.events = nil // the folder went away
		}
	case <-timer.C:
	}
	return ctx.Err() == nil
}

// watch has the kernel tell of files that were written, moved or removed, nil where it cannot. The channel is closed when
// the folder is not there any more, or ctx has ended.
func watch(ctx context.Context, dir string) <-chan struct{} {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil // none left: looking now and then has to do
	}
	file := os.NewFile(uintptr(fd), "inotify")
	_, err = unix.InotifyAddWatch(fd, dir, unix.IN_CLOSE_WRITE|unix.IN_MOVED_TO|unix.IN_MOVED_FROM|unix.IN_DELETE|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_ONLYDIR)
	if err != nil {
		_ = file.Close()
		return nil
	}
	stop := context.AfterFunc(ctx, func() { _ = file.Close() })
	events := make(chan struct{}, 1)
	go func() {
		defer close(events)
		defer stop()
		defer file.Close()
		buffer := make([]byte, 4096)
		for {
			n, err := file.Read(buffer)
			if err != nil {
				return
			}
			if folderGone(buffer[:n]) {
				return
			}
			select {
			case events <- struct{}{}:
			default:
			}
		}
	}()
	return events
}

// folderGone reads what the kernel told (inotify(7)): is the watched folder itself gone from its place?
func folderGone(told []byte) bool {
	for len(told) >= unix.SizeofInotifyEvent {
		mask, name := binary.NativeEndian.Uint32(told[4:]), binary.NativeEndian.Uint32(told[12:])
		if mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_IGNORED|unix.IN_UNMOUNT) != 0 {
			return true
		}
		told = told[min(len(told), unix.SizeofInotifyEvent+int(name)):]
	}
	return false
}
