package fifo

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// pipe is a path with nothing there yet.
func pipe(t *testing.T) string { return filepath.Join(t.TempDir(), "pipe") }

func open(t *testing.T, ctx context.Context, path string, flag int) io.ReadWriteCloser {
	t.Helper()
	f, err := OpenFifo(ctx, path, flag|unix.O_CREAT|unix.O_NONBLOCK, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// copied is what io.Copy reads from f until it ends.
func copied(f io.Reader) <-chan string {
	result := make(chan string, 1)
	go func() {
		var all bytes.Buffer
		if _, err := io.Copy(&all, f); err != nil {
			all.WriteString(err.Error())
		}
		result <- all.String()
	}()
	return result
}

func write(t *testing.T, f io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(f, text); err != nil {
		t.Fatal(err)
	}
}

func closed(t *testing.T, f io.Closer) {
	t.Helper()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestCopyEndsWithTheLastWriter(t *testing.T) {
	path := pipe(t)
	got := copied(open(t, t.Context(), path, unix.O_RDONLY))
	first := open(t, t.Context(), path, unix.O_WRONLY)
	write(t, first, "one ")
	second := open(t, t.Context(), path, unix.O_WRONLY)
	write(t, second, "two ")
	closed(t, first)
	write(t, second, "three")
	closed(t, second)
	if text := <-got; text != "one two three" {
		t.Errorf("io.Copy() gave %q", text)
	}
}

func TestMoreThanABuffer(t *testing.T) {
	path := pipe(t)
	got := copied(open(t, t.Context(), path, unix.O_RDONLY))
	w := open(t, t.Context(), path, unix.O_WRONLY)
	text := string(bytes.Repeat([]byte("0123456789abcdef"), 64<<10))
	write(t, w, text)
	closed(t, w)
	if all := <-got; all != text {
		t.Errorf("io.Copy() gave %d bytes, want the %d that were written", len(all), len(text))
	}
}

func TestReadWaitsForAWriter(t *testing.T) {
	path := pipe(t)
	r, buffer := open(t, t.Context(), path, unix.O_RDONLY), make([]byte, 10)
	w := open(t, t.Context(), path, unix.O_WRONLY)
	go w.Write([]byte("hello"))
	if n, err := r.Read(buffer); string(buffer[:n]) != "hello" || err != nil {
		t.Errorf("Read() = %q, %v", buffer[:n], err)
	}
	closed(t, w)
	if n, err := r.Read(buffer); n != 0 || err != io.EOF {
		t.Errorf("Read() = %d, %v after the writer has gone, want the end", n, err)
	}
}

func TestEndOfContextGivesUpWaiting(t *testing.T) {
	t.Run("for a writer", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		got := copied(open(t, ctx, pipe(t), unix.O_RDONLY))
		cancel()
		if text := <-got; text != "" {
			t.Errorf("io.Copy() gave %q", text)
		}
	})
	t.Run("but not for one that has come", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		path := pipe(t)
		got := copied(open(t, ctx, path, unix.O_RDONLY))
		w := open(t, t.Context(), path, unix.O_WRONLY)
		write(t, w, "one ")
		cancel()
		write(t, w, "two")
		closed(t, w)
		if text := <-got; text != "one two" {
			t.Errorf("io.Copy() gave %q", text)
		}
	})
	t.Run("for a reader", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		w := open(t, ctx, pipe(t), unix.O_WRONLY)
		cancel()
		if _, err := w.Write([]byte("x")); !errors.Is(err, ErrWriteClosed) {
			t.Errorf("Write() = %v, want %v", err, ErrWriteClosed)
		}
	})
}

func TestCloseEndsWaiting(t *testing.T) {
	t.Run("to read", func(t *testing.T) {
		r := open(t, t.Context(), pipe(t), unix.O_RDWR) // as containerd opens shims' logs: the end never comes
		got := copied(r)
		closed(t, r)
		if text := <-got; text != ErrReadClosed.Error() {
			t.Errorf("io.Copy() gave %q, want %q", text, ErrReadClosed)
		}
	})
	t.Run("to write, whatever became of the path", func(t *testing.T) {
		path := pipe(t)
		w := open(t, t.Context(), path, unix.O_WRONLY)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		failed := make(chan error, 1)
		go func() {
			_, err := w.Write([]byte("x"))
			failed <- err
		}()
		closed(t, w)
		if err := <-failed; !errors.Is(err, ErrWriteClosed) {
			t.Errorf("Write() = %v, want %v", err, ErrWriteClosed)
		}
	})
}

func TestBlockingOpen(t *testing.T) {
	path := pipe(t)
	r := open(t, t.Context(), path, unix.O_RDONLY)
	w, err := OpenFifo(t.Context(), path, unix.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	closed(t, w)
	closed(t, r)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := OpenFifo(ctx, path, unix.O_WRONLY, 0); !errors.Is(err, ErrWriteClosed) {
		t.Errorf("OpenFifo() = %v with nobody who reads and no time to wait, want %v", err, ErrWriteClosed)
	}
}

func TestSecondName(t *testing.T) {
	path := pipe(t)
	got := copied(open(t, t.Context(), path, unix.O_RDONLY))
	place, err := os.Create(filepath.Join(t.TempDir(), "place"))
	if err != nil {
		t.Fatal(err)
	}
	w, err := OpenFifoDup2(t.Context(), path, unix.O_WRONLY, 0, int(place.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	write(t, w, "by the first, ")
	closed(t, w)
	write(t, place, "by the second")
	closed(t, place)
	if text := <-got; text != "by the first, by the second" {
		t.Errorf("io.Copy() gave %q", text)
	}
}

// TestWaitingTakesNoBuffer is why this package is there.
func TestWaitingTakesNoBuffer(t *testing.T) {
	const pipes, most = 100, 8 << 10 // bytes each; a buffer has 32 KiB
	heap := func() uint64 {
		var s runtime.MemStats
		runtime.GC()
		runtime.GC() // the first one only ages what pools hold
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	dir := t.TempDir()
	before := heap()
	var results []<-chan string
	var writers []io.Closer
	for i := range pipes {
		path := filepath.Join(dir, strconv.Itoa(i))
		results = append(results, copied(open(t, t.Context(), path, unix.O_RDONLY)))
		w := open(t, t.Context(), path, unix.O_WRONLY)
		write(t, w, "said once")
		writers = append(writers, w)
	}
	for i, w := range writers {
		if i < pipes/2 {
			closed(t, w) // the others say nothing more
		}
	}
	for _, result := range results[:pipes/2] {
		<-result
	}
	if each := int64(heap()-before) / (pipes / 2); each > most {
		t.Errorf("a pipe nobody writes to takes %d bytes, want at most %d", each, most)
	}
}
