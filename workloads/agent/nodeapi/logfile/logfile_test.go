package logfile

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// record as containerd writes it, n seconds after an arbitrary moment.
func record(n int, stream, tag, text string) string {
	at := time.Date(2026, 1, 2, 3, 4, n, 0, time.UTC).Format(time.RFC3339Nano)
	return at + " " + stream + " " + tag + " " + text + "\n"
}

var sample = record(0, "stdout", "F", "one") +
	record(1, "stderr", "F", "two") +
	record(2, "stdout", "P", "thr") +
	record(3, "stdout", "F", "ee") +
	record(4, "stdout", "F", "") +
	record(5, "stdout", "F", "five")

func TestRead(t *testing.T) {
	tests := map[string]struct {
		change func(*Options)
		log    string
		want   string
	}{
		"everything":                       {want: "one\ntwo\nthree\n\nfive\n"},
		"one stream":                       {change: func(o *Options) { o.Stream = Stderr }, want: "two\n"},
		"the last line":                    {change: func(o *Options) { o.Tail = 1 }, want: "five\n"},
		"a line in parts counts as one":    {change: func(o *Options) { o.Tail = 3 }, want: "three\n\nfive\n"},
		"more lines than there are":        {change: func(o *Options) { o.Tail = 100 }, want: "one\ntwo\nthree\n\nfive\n"},
		"exactly all lines":                {change: func(o *Options) { o.Tail = 5 }, want: "one\ntwo\nthree\n\nfive\n"},
		"all lines but the first":          {change: func(o *Options) { o.Tail = 4 }, want: "two\nthree\n\nfive\n"},
		"no lines":                         {change: func(o *Options) { o.Tail = 0 }, want: ""},
		"since a moment":                   {change: func(o *Options) { o.Since = time.Date(2026, 1, 2, 3, 4, 4, 0, time.UTC) }, want: "\nfive\n"},
		"a number of bytes":                {change: func(o *Options) { o.Limit = 6 }, want: "one\ntw"},
		"no bytes":                         {change: func(o *Options) { o.Limit = 0 }, want: ""},
		"with times, one for a whole line": {change: func(o *Options) { o.Timestamps, o.Tail = true, 3 }, want: "2026-01-02T03:04:02Z three\n2026-01-02T03:04:04Z \n2026-01-02T03:04:05Z five\n"},
		"a broken record is left out":      {log: record(0, "stdout", "F", "one") + "\x00\x00\x00\n" + record(1, "stdout", "F", "two"), want: "one\ntwo\n"},
		"a record that is not complete":    {log: record(0, "stdout", "F", "one") + "2026-01-02T03", want: "one\n"},
		"the tail before an incomplete record": {
			log: record(0, "stdout", "F", "one") + record(1, "stdout", "F", "two") + "2026-01-02T03", change: func(o *Options) { o.Tail = 1 }, want: "two\n"},
		"an empty file": {log: "-", want: ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			log := sample
			if tc.log != "" {
				log = strings.TrimPrefix(tc.log, "-")
			}
			path := filepath.Join(t.TempDir(), "0.log")
			if err := os.WriteFile(path, []byte(log), 0o600); err != nil {
				t.Fatal(err)
			}
			options := Whole()
			if tc.change != nil {
				tc.change(&options)
			}
			var out bytes.Buffer
			if err := Read(t.Context(), path, options, &out, func() {}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, out.String()); diff != "" {
				t.Errorf("Read() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTailOfALargeLogAgreesWithTheWhole(t *testing.T) {
	var log strings.Builder
	var lines []string
	for i := range 5000 {
		text := fmt.Sprintf("line %d %s", i, strings.Repeat("x", i%300))
		if i%7 == 0 {
			log.WriteString(record(i%60, "stdout", "P", text[:4]) + record(i%60, "stdout", "F", text[4:]))
		} else {
			log.WriteString(record(i%60, "stdout", "F", text))
		}
		lines = append(lines, text+"\n")
	}
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(log.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int64{1, 2, 7, 8, 250, 999, 4999, 5000, 5001} {
		options := Whole()
		options.Tail = n
		var out bytes.Buffer
		if err := Read(t.Context(), path, options, &out, func() {}); err != nil {
			t.Fatal(err)
		}
		want := strings.Join(lines[max(len(lines)-int(n), 0):], "")
		if out.String() != want {
			t.Errorf("tail of %d lines differs: %d bytes, want %d", n, out.Len(), len(want))
		}
	}
}

func TestALongRecord(t *testing.T) {
	text := strings.Repeat("0123456789", 20000)
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(record(0, "stdout", "F", text)), 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Read(t.Context(), path, Whole(), &out, func() {}); err != nil || out.String() != text+"\n" {
		t.Errorf("Read() = %d bytes, %v; want %d", out.Len(), err, len(text)+1)
	}
}

// follower reads a growing log beside the test.
type follower struct {
	t       *testing.T
	path    string
	running atomic.Bool
	got     chan string
	done    chan error
}

func follow(t *testing.T) (*follower, context.CancelFunc) {
	t.Helper()
	f := &follower{t: t, path: filepath.Join(t.TempDir(), "0.log"), got: make(chan string, 100), done: make(chan error, 1)}
	f.running.Store(true)
	f.append(record(0, "stdout", "F", "first"))
	ctx, cancel := context.WithCancel(t.Context())
	options := Whole()
	options.Follow, options.Running = true, func(context.Context) (bool, error) { return f.running.Load(), nil }
	reader, writer := io.Pipe()
	var lines sync.WaitGroup
	lines.Go(func() {
		for lines := bufio.NewScanner(reader); lines.Scan(); {
			f.got <- lines.Text() + "\n"
		}
	})
	go func() {
		err := Read(ctx, f.path, options, writer, func() {})
		writer.Close()
		lines.Wait()
		f.done <- err
	}()
	t.Cleanup(cancel)
	f.expect("first\n")
	return f, cancel
}

func (f *follower) append(text string) {
	f.t.Helper()
	file, err := os.OpenFile(f.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		f.t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString(text); err != nil {
		f.t.Fatal(err)
	}
}

func (f *follower) expect(want string) {
	f.t.Helper()
	select {
	case got := <-f.got:
		if got != want {
			f.t.Fatalf("read %q, want %q", got, want)
		}
	case <-time.After(5 * time.Second):
		f.t.Fatalf("%q did not come within five seconds", want)
	}
}

func (f *follower) ends() {
	f.t.Helper()
	select {
	case err := <-f.done:
		if err != nil {
			f.t.Errorf("Read() = %v", err)
		}
	case <-time.After(5 * time.Second):
		f.t.Fatal("following did not end within five seconds")
	}
	notices.mu.Lock()
	defer notices.mu.Unlock()
	if notices.file != nil {
		f.t.Error("inotify is still open though nobody follows")
	}
}

func TestFollowUntilTheContainerEnds(t *testing.T) {
	f, _ := follow(t)
	f.append(record(1, "stdout", "F", "second"))
	f.expect("second\n")
	f.append("2026-01-02T03:04:05Z stdo") // half a record
	f.append("ut F third\n")
	f.expect("third\n")
	f.append(record(2, "stdout", "F", "last words"))
	f.expect("last words\n")
	f.running.Store(false)
	f.ends()
}

func TestFollowAcrossARotation(t *testing.T) {
	f, _ := follow(t)
	f.append(record(1, "stdout", "F", "old"))
	if err := os.Rename(f.path, f.path+".1"); err != nil {
		t.Fatal(err)
	}
	f.append(record(2, "stdout", "F", "new"))
	f.expect("old\n")
	f.expect("new\n")
	f.append(record(3, "stdout", "F", "end"))
	f.expect("end\n")
	f.running.Store(false)
	f.ends()
}

func TestFollowEndsWithItsReader(t *testing.T) {
	f, leave := follow(t)
	leave()
	f.ends()
}

func TestFollowWithoutNotices(t *testing.T) {
	c := &changes{signal: make(chan bool, 1), every: time.Millisecond}
	if !c.wait(t.Context()) {
		t.Error("wait() ended though its context did not")
	}
}
