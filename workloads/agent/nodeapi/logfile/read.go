// Package logfile reads the files container runtimes write container output to.
//
// In:       the path of a container's log in CRI's format, and what the reader wants of it.
// Out:      the container's own bytes, from the file as it is and, when following, as it grows and is rotated.
// Promise:  following costs nothing while nothing is written, and survives rotation.
// Not here: whose log it is and who may read it (workloads/agent/nodeapi), writing and rotating (containerd, the agent).
package logfile

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// Options of one reading. The zero value means the whole file once.
type Options struct {
	Follow     bool
	Tail       int64     // last lines only; -1: all
	Since      time.Time // zero: from the beginning
	Limit      int64     // bytes; -1: no limit
	Timestamps bool
	Stream     Stream
	// Running tells whether the container may still write; following ends when it may not.
	Running func(context.Context) (bool, error)
}

// Whole is the options of somebody who wants everything there is.
func Whole() Options { return Options{Tail: -1, Limit: -1} }

var newline = []byte("\n")

// errEnough ends a reading at its limit.
var errEnough = errors.New("limit reached")

// Read writes the log to out. flush is called when a batch is written and nothing more is there right now.
func Read(ctx context.Context, path string, options Options, out io.Writer, flush func()) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	r := &reader{options: options, out: out, flush: flush, path: path, file: file, left: options.Limit}
	defer func() { _ = r.file.Close() }() // opened for reading: nothing can be lost
	if options.Tail >= 0 {
		start, err := tailStart(file, options.Tail)
		if err != nil {
			return err
		}
		if _, err := file.Seek(start, io.SeekStart); err != nil {
			return fmt.Errorf("seek in log: %w", err)
		}
	}
	err = r.run(ctx)
	if errors.Is(err, errEnough) || ctx.Err() != nil {
		err = nil // the reader has what it wanted, or left
	}
	flush()
	return err
}

type reader struct {
	options Options
	out     io.Writer
	flush   func()
	path    string
	file    *os.File
	rest    []byte // the beginning of a record whose end is not written yet
	middle  bool   // the last record written was a partial one
	left    int64
}

// run reads to the end, and on from there when following.
func (r *reader) run(ctx context.Context) error {
	if !r.options.Follow {
		return r.drain(ctx)
	}
	changes, err := subscribe(r.path)
	defer changes.cancel()
	if err != nil {
		changes.every = slowPoll // without notices the file is looked at once a second, while somebody follows it
	}
	for {
		// Asked before reading: what is written up to an end seen here is read below.
		running, err := r.options.Running(ctx)
		if err != nil {
			return fmt.Errorf("ask for the container's state: %w", err)
		}
		if err := r.drain(ctx); err != nil {
			return err
		}
		rotated, err := r.reopen()
		if err != nil {
			return err
		}
		if rotated {
			continue
		}
		r.flush()
		if !running {
			return nil
		}
		if !changes.wait(ctx) {
			return nil // the reader left
		}
	}
}

// drain writes all complete records there are.
func (r *reader) drain(ctx context.Context) error {
	buffered := bufio.NewReaderSize(r.file, 32<<10)
	for ctx.Err() == nil {
		raw, err := buffered.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			r.rest = append(r.rest, raw...)
			continue
		}
		if errors.Is(err, io.EOF) {
			r.rest = append(r.rest, raw...) // nothing is lost: the rest comes with the next drain
			return nil
		}
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		record := raw
		if len(r.rest) > 0 {
			record = append(r.rest, raw...)
			r.rest = r.rest[:0]
		}
		if err := r.write(bytes.TrimSuffix(record, []byte("\n"))); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// write passes one record on, if it is wanted.
func (r *reader) write(record []byte) error {
	l, err := parse(record)
	if err != nil {
		return nil // a power cut leaves such lines; the rest of the log is still worth reading
	}
	if (r.options.Stream != All && l.stream != r.options.Stream) || l.time.Before(r.options.Since) {
		return nil
	}
	if r.options.Timestamps && !r.middle {
		if err := r.put(append(l.stamp[:len(l.stamp):len(l.stamp)], ' ')); err != nil {
			return err
		}
	}
	r.middle = l.partial
	if err := r.put(l.text); err != nil || l.partial {
		return err
	}
	return r.put(newline)
}

// put writes bytes up to the limit.
func (r *reader) put(data []byte) error {
	enough := false
	if r.left >= 0 {
		enough = int64(len(data)) >= r.left
		data = data[:min(int64(len(data)), r.left)]
		r.left -= int64(len(data))
	}
	if _, err := r.out.Write(data); err != nil {
		return fmt.Errorf("send log: %w", err)
	}
	if enough {
		return errEnough
	}
	return nil
}

// reopen moves on to the file that took this one's place, if one did. What is left in the old one is read first.
func (r *reader) reopen() (bool, error) {
	now, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // between the two halves of a rotation, or for good: the container's state tells
	}
	if err != nil {
		return false, fmt.Errorf("stat log: %w", err)
	}
	have, err := r.file.Stat()
	if err != nil {
		return false, fmt.Errorf("stat log: %w", err)
	}
	if os.SameFile(now, have) {
		at, err := r.file.Seek(0, io.SeekCurrent)
		if err == nil && now.Size() < at { // truncated in place
			r.rest = r.rest[:0]
			_, err = r.file.Seek(0, io.SeekStart)
		}
		if err != nil {
			return false, fmt.Errorf("seek in log: %w", err)
		}
		return false, nil
	}
	next, err := os.Open(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open rotated log: %w", err)
	}
	_ = r.file.Close() // opened for reading
	r.file, r.rest = next, r.rest[:0]
	return true, nil
}
