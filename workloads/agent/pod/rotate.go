package pod

import (
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/workloads/agent/observed"
)

const (
	usualLogSize  = 10 << 20
	usualLogFiles = 5

	// Logs are looked at when they grow: those that fill quickly up to ten times a second, all others once a second.
	shortestLook, longestLook = 100 * time.Millisecond, time.Second
	// lookAnyway is for logs of which the kernel does not tell that they grow.
	lookAnyway = 30 * time.Second
)

// rotateLogs bounds what containers' logs take of the disk.
func (m *Manager) rotateLogs(ctx context.Context) {
	grown := &growth{tell: m.grown}
	if err := grown.open(); err != nil {
		m.log.Warn("logs are looked at every 30 s only, and may take more than they should meanwhile", "error", err)
	}
	defer grown.close()
	sizes := map[string]int64{}
	last, pause := m.now(), longestLook
	anyway := time.NewTicker(lookAnyway)
	defer anyway.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.grown:
		case <-anyway.C:
		}
		if !sleep(ctx, pause-m.now().Sub(last)) {
			return
		}
		now, before := m.now(), sizes
		elapsed := now.Sub(last)
		sizes, last, pause = map[string]int64{}, now, longestLook
		for _, c := range m.runningContainers() {
			info, err := os.Stat(c.LogPath)
			if err != nil {
				continue
			}
			size := info.Size()
			pause = min(pause, nextLook(size, size-before[c.LogPath], m.conf.LogSize, elapsed))
			if size >= m.conf.LogSize {
				if err := m.rotate(ctx, c); err != nil && ctx.Err() == nil {
					m.log.Warn("rotate container log", "container", c.Name, "file", c.LogPath, "error", err)
				}
				size = 0
			}
			sizes[c.LogPath] = size
			grown.watch(c.LogPath)
		}
	}
}

// sleep says whether the time passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// nextLook is when a log that grew by so much will be full, within bounds. One that was rotated is smaller than before.
func nextLook(size, grown, limit int64, elapsed time.Duration) time.Duration {
	if grown < 0 {
		grown = size
	}
	if grown <= 0 || elapsed <= 0 {
		return longestLook
	}
	left := limit - size%limit
	return min(max(time.Duration(float64(left)/float64(grown)*float64(elapsed)), shortestLook), longestLook)
}

// growth hears from the kernel that a log was written to. It tells once, and no more until it is asked to watch again:
// a container that writes all the time costs no more than the looks.
type growth struct {
	tell chan<- struct{}
	file *os.File
	fd   int // of file; asking File for it would make its reads block
}

func (g *growth) open() error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return fmt.Errorf("watch logs: %w", err)
	}
	g.file, g.fd = os.NewFile(uintptr(fd), "inotify"), fd
	go g.listen()
	return nil
}

func (g *growth) close() {
	if g.file != nil {
		_ = g.file.Close() // ends listen
	}
}

// watch for the next write. A log that went meanwhile needs no watching, and where there are too many, the ticker looks.
func (g *growth) watch(path string) {
	if g.file != nil {
		_, _ = unix.InotifyAddWatch(g.fd, path, unix.IN_MODIFY|unix.IN_ONESHOT)
	}
}

func (g *growth) listen() {
	buffer := make([]byte, 4<<10)
	for {
		n, err := g.file.Read(buffer)
		if err != nil {
			return
		}
		for rest := buffer[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			if binary.NativeEndian.Uint32(rest[4:])&unix.IN_MODIFY != 0 {
				poke(g.tell)
			}
			rest = rest[min(unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(rest[12:])), len(rest)):]
		}
	}
}

// poke leaves one signal.
func poke(signal chan<- struct{}) {
	select {
	case signal <- struct{}{}:
	default:
	}
}

func (m *Manager) runningContainers() []observed.Container {
	var out []observed.Container
	for _, a := range m.all() {
		a.mu.Lock()
		out = append(out, a.runtime.Running()...)
		a.mu.Unlock()
	}
	return out
}

// rotate sets the log aside, lets the runtime begin a new one, and compresses what was set aside the time before:
// followers may still read the newest. What is aside for a moment only will soon be gone, and is not worth the work.
func (m *Manager) rotate(ctx context.Context, c observed.Container) error {
	old, err := filepath.Glob(c.LogPath + ".*")
	if err != nil {
		return err
	}
	slices.Sort(old)
	// The oldest goes first: on a full disk compressing fails, and the space it needs must not depend on it.
	for len(old) > m.conf.LogFiles-2 {
		if err := errors.Join(ignoreMissing(os.Remove(old[0])), ignoreMissing(os.Remove(old[0]+".gz"))); err != nil {
			return err
		}
		old = old[1:]
	}
	for _, path := range old {
		if info, err := os.Stat(path); err != nil || filepath.Ext(path) == ".gz" || m.now().Sub(info.ModTime()) < lookAnyway {
			continue
		}
		if err := compress(path); err != nil {
			return err
		}
	}
	aside := c.LogPath + "." + m.now().UTC().Format("20060102-150405.000")
	if err := os.Rename(c.LogPath, aside); err != nil {
		return err
	}
	if _, err := m.conf.Runtime.ReopenContainerLog(ctx, &runtimeapi.ReopenContainerLogRequest{ContainerId: c.ID}); err != nil {
		return errors.Join(fmt.Errorf("begin a new log: %w", err), os.Rename(aside, c.LogPath))
	}
	return nil
}

func compress(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	tmp := path + ".tmp"
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	zip := gzip.NewWriter(out)
	_, err = io.Copy(zip, in)
	if err = errors.Join(err, zip.Close(), out.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if err := os.Rename(tmp, path+".gz"); err != nil {
		return err
	}
	return os.Remove(path)
}
