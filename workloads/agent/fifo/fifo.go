// Package fifo opens named pipes, for containerd: each container's output comes through two, each shim's log through one.
//
// In:       a path, and who may give up waiting for the other side.
// Out:      what came in, without loss, and its end when the last writer has gone.
// Promise:  who waits for something to read holds neither a buffer nor a thread. That is most of the time, and io.Copy
//
//	with containerd's own package would hold 32 KiB for each pipe, which is 96 KiB for a pod that says nothing.
//
// Not here: what is done with what was read (containerd: internal/cri/io, core/runtime/v2).
package fifo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// What is reported of a pipe that was closed on this side.
var (
	ErrReadClosed  = errors.New("read from a closed named pipe")
	ErrWriteClosed = errors.New("write to a closed named pipe")
	errDirection   = errors.New("named pipe was opened for the other direction")
)

// OpenFifo opens the pipe for reading (O_RDONLY, O_RDWR) or writing (O_WRONLY). With O_CREAT it is made if it is not there.
// With O_NONBLOCK, reading or writing waits for the other side instead of OpenFifo. When ctx ends, nobody waits any more
// for the other side to come; if it has come, nothing changes.
func OpenFifo(ctx context.Context, path string, flag int, perm os.FileMode) (io.ReadWriteCloser, error) {
	if flag&unix.O_CREAT != 0 {
		if err := unix.Mkfifo(path, uint32(perm.Perm())); err != nil && !errors.Is(err, unix.EEXIST) {
			return nil, fmt.Errorf("make named pipe %s: %w", path, err)
		}
	}
	if flag&unix.O_WRONLY == 0 {
		return openReader(ctx, path, flag&unix.O_RDWR)
	}
	w, err := openWriter(ctx, path)
	if err != nil || flag&unix.O_NONBLOCK != 0 {
		return w, err
	}
	<-w.opened
	if _, err := w.ready(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// OpenFifoDup2 opens the pipe for writing once somebody reads, and makes descriptor number a second name of it.
func OpenFifoDup2(_ context.Context, path string, flag int, _ os.FileMode, number int) (io.ReadWriteCloser, error) {
	fd, err := ignoringEINTR(func() (int, error) { return unix.Open(path, flag&^unix.O_CREAT|unix.O_CLOEXEC, 0) })
	if err != nil {
		return nil, fmt.Errorf("open named pipe %s: %w", path, err)
	}
	if err := unix.Dup3(fd, number, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("make descriptor %d of named pipe %s: %w", number, path, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), path), nil
}

// IsFifo says whether there is a named pipe at the path.
func IsFifo(path string) (bool, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && info.Mode()&os.ModeNamedPipe != 0, err
}

// reader is open from the beginning; whether a writer has come shows in what there is to read.
type reader struct {
	file *os.File
	stop func() bool // no more waiting for ctx
}

func openReader(ctx context.Context, path string, mode int) (*reader, error) {
	fd, err := unix.Open(path, mode|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open named pipe %s: %w", path, err)
	}
	r := &reader{file: os.NewFile(uintptr(fd), path)}
	r.stop = context.AfterFunc(ctx, r.giveUp)
	return r, nil
}

// giveUp comes and goes as a writer: if there is no other, that was the last one.
func (r *reader) giveUp() {
	raw, err := r.file.SyscallConn()
	if err != nil {
		return // closed
	}
	_ = raw.Control(func(fd uintptr) { // an error means that it is closed
		if writer, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0); err == nil {
			_ = unix.Close(writer)
		}
	})
}

// receive waits until there is something to read, asks for a buffer, and fills it. No bytes mean the end.
func (r *reader) receive(buffer func() []byte) (n int, err error) {
	raw, err := r.file.SyscallConn()
	if err != nil {
		return 0, ErrReadClosed
	}
	if closed := raw.Read(func(fd uintptr) bool {
		// Before the first writer comes it reads as if at its end, but only the end is a hang-up.
		state := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err = ignoringEINTR(func() (int, error) { return unix.Poll(state, 0) }); err != nil {
			return true
		}
		if state[0].Revents == 0 {
			return false
		}
		n, err = ignoringEINTR(func() (int, error) { return unix.Read(int(fd), buffer()) })
		return !errors.Is(err, unix.EAGAIN)
	}); closed != nil {
		return 0, ErrReadClosed
	}
	if err != nil {
		return 0, fmt.Errorf("read named pipe %s: %w", r.file.Name(), err)
	}
	return n, nil
}

func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := r.receive(func() []byte { return p })
	if err == nil && n == 0 {
		err = io.EOF
	}
	return n, err
}

// buffers are those of readers that have something to read just now. A pipe holds twice as much.
var buffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// WriteTo is how io.Copy reads: a buffer is taken when there is something to put into it.
func (r *reader) WriteTo(w io.Writer) (all int64, err error) {
	for {
		var buffer *[32 << 10]byte
		n, err := r.receive(func() []byte {
			if buffer == nil {
				buffer = buffers.Get().(*[32 << 10]byte)
			}
			return buffer[:]
		})
		if n > 0 {
			n, err = w.Write(buffer[:n])
			all += int64(n)
		}
		ended := n == 0
		if buffer != nil {
			buffers.Put(buffer)
		}
		if err != nil || ended {
			return all, err
		}
	}
}

func (r *reader) Write(p []byte) (int, error) { return 0, errDirection }

func (r *reader) Close() error {
	r.stop()
	if err := r.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// writer is open once there is a reader, which takes a thread that waits.
type writer struct {
	place  *os.File // the pipe, whatever becomes of its path, while its reader is awaited
	opened chan struct{}
	file   *os.File // once opened is closed
	err    error    // likewise

	once    sync.Once
	closing chan struct{}
	stop    func() bool
}

func openWriter(ctx context.Context, path string) (*writer, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("find named pipe %s: %w", path, err)
	}
	w := &writer{place: os.NewFile(uintptr(fd), path), opened: make(chan struct{}), closing: make(chan struct{})}
	go func() {
		defer close(w.opened)
		w.file, w.err = os.OpenFile(w.name(), os.O_WRONLY, 0)
	}()
	w.stop = context.AfterFunc(ctx, func() {
		select {
		case <-w.opened:
		default:
			_ = w.Close()
		}
	})
	return w, nil
}

func (w *writer) name() string { return fmt.Sprintf("/proc/self/fd/%d", w.place.Fd()) }

// ready is the open pipe; w.opened is closed.
func (w *writer) ready() (*os.File, error) {
	select {
	case <-w.closing:
		return nil, ErrWriteClosed
	default:
		return w.file, w.err
	}
}

func (w *writer) Write(p []byte) (int, error) {
	<-w.opened
	file, err := w.ready()
	if err != nil {
		return 0, err
	}
	return file.Write(p)
}

func (w *writer) Read([]byte) (int, error) { return 0, errDirection }

func (w *writer) Close() (err error) {
	w.once.Do(func() {
		close(w.closing)
		w.stop()
		err = errors.Join(w.release(), w.place.Close())
	})
	return err
}

// release ends the pipe; if no reader has come, it is one itself, so that nobody waits for one any more.
func (w *writer) release() error {
	select {
	case <-w.opened:
	default:
		fd, err := unix.Open(w.name(), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("release named pipe %s: %w", w.place.Name(), err)
		}
		defer unix.Close(fd)
		<-w.opened
	}
	if w.err != nil {
		return nil // Write has said so
	}
	return w.file.Close()
}

func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}
