package sandbox

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"
)

// container is a process beside what runc would have noted of it.
type container struct {
	root  string
	cmd   *exec.Cmd
	ended chan struct{}
	noted map[string]any
}

func newContainer(t *testing.T) *container {
	t.Helper()
	c := &container{root: t.TempDir(), cmd: exec.Command("sleep", "1000"), ended: make(chan struct{})}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = c.cmd.Wait(); close(c.ended) }() // it ends by a signal
	t.Cleanup(func() { _ = c.cmd.Process.Kill(); <-c.ended })
	s, err := statOf(c.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	began, err := strconv.Atoi(s.began)
	if err != nil {
		t.Fatal(err)
	}
	group := filepath.Join(c.root, "group")
	if err := os.MkdirAll(group, 0o700); err != nil {
		t.Fatal(err)
	}
	c.noted = map[string]any{
		"init_process_pid": c.cmd.Process.Pid, "init_process_start": began, "cgroup_paths": map[string]string{"freezer": group},
		"config": map[string]any{"namespaces": []map[string]string{{"type": "NEWNET", "path": "/n"}, {"type": "NEWPID"}}, "Hooks": map[string]any{}},
	}
	return c
}

func (c *container) dir() string { return filepath.Join(c.root, "c") }

// ask as containerd's package for runc does.
func (c *container) ask(t *testing.T, words ...string) bool {
	t.Helper()
	if err := os.MkdirAll(c.dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(c.noted)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(c.dir(), "state.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return direct(append([]string{"runc", "--root", c.root, "--log", "log.json", "--log-format", "json"}, words...))
}

func (c *container) end() { _ = c.cmd.Process.Kill(); <-c.ended }

func (c *container) shares() {
	c.noted["config"] = map[string]any{"namespaces": []map[string]string{{"type": "NEWPID", "path": "/proc/1/ns/pid"}}}
}

func TestASignalReachesTheFirstProcess(t *testing.T) {
	tests := map[string]struct {
		change func(t *testing.T, c *container)
		words  []string
		want   bool
	}{
		"it ends by it":                       {words: []string{"kill", "c", "15"}, want: true},
		"also when all are meant":             {words: []string{"kill", "--all", "c", "9"}, want: true},
		"one that has ended is runc's matter": {change: func(_ *testing.T, c *container) { c.end() }, words: []string{"kill", "c", "9"}},
		"so is a number that another has now": {change: func(_ *testing.T, c *container) { c.noted["init_process_start"] = 1 }, words: []string{"kill", "c", "9"}},
		"so are processes shared with others": {change: func(_ *testing.T, c *container) { c.shares() }, words: []string{"kill", "c", "9"}},
		"which hear of other signals":         {change: func(_ *testing.T, c *container) { c.shares() }, words: []string{"kill", "c", "15"}, want: true},
		"so is a frozen one": {change: func(t *testing.T, c *container) {
			if err := os.WriteFile(filepath.Join(c.root, "group", "freezer.state"), []byte("FROZEN\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, words: []string{"kill", "c", "9"}},
		"one runc knows nothing of":         {words: []string{"kill", "other", "9"}},
		"a signal by name is for runc":      {words: []string{"kill", "c", "KILL"}},
		"what is neither of these for runc": {words: []string{"pause", "c"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t)
			if tc.change != nil {
				tc.change(t, c)
			}
			if got := c.ask(t, tc.words...); got != tc.want {
				t.Fatalf("done without runc = %v, want %v", got, tc.want)
			}
			if tc.want {
				<-c.ended
			}
		})
	}
}

func TestAContainerThatIsMadeStarts(t *testing.T) {
	fifo := func(t *testing.T, c *container) string {
		t.Helper()
		path := filepath.Join(c.dir(), fifoName)
		if err := os.MkdirAll(c.dir(), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(path, 0o622); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Run("its first process is let go", func(t *testing.T) {
		c := newContainer(t)
		path, told := fifo(t, c), make(chan error, 1)
		go func() { told <- os.WriteFile(path, []byte("0"), 0) }() // as runc's init does, which waits here
		if !c.ask(t, "start", "c") {
			t.Error("left to runc")
		}
		if err := <-told; err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("runc would take it for not started: %v", err)
		}
	})
	t.Run("one that died meanwhile is runc's matter", func(t *testing.T) {
		c := newContainer(t)
		fifo(t, c)
		done := make(chan bool, 1)
		go func() { done <- c.ask(t, "start", "c") }()
		c.end()
		if <-done {
			t.Error("it started")
		}
	})
	t.Run("so is one whose start somebody wants to be told of", func(t *testing.T) {
		c := newContainer(t)
		fifo(t, c)
		c.noted["config"].(map[string]any)["Hooks"] = map[string]any{"poststart": []any{map[string]any{}}}
		if c.ask(t, "start", "c") {
			t.Error("it started")
		}
	})
	t.Run("so is one that runs already", func(t *testing.T) {
		if newContainer(t).ask(t, "start", "c") {
			t.Error("it started")
		}
	})
}

func TestAContainerThatEndedGoes(t *testing.T) {
	tests := map[string]struct {
		change func(t *testing.T, c *container)
		want   bool
	}{
		"with its cgroups and what was noted": {change: func(_ *testing.T, c *container) { c.end() }, want: true},
		"not while it runs":                   {change: func(*testing.T, *container) {}},
		"not when others may be left of it":   {change: func(_ *testing.T, c *container) { c.end(); c.shares() }},
		"not when a group has groups": {change: func(t *testing.T, c *container) {
			c.end()
			if err := os.Mkdir(filepath.Join(c.root, "group", "below"), 0o700); err != nil {
				t.Fatal(err)
			}
		}},
		"not when somebody wants to be told": {change: func(_ *testing.T, c *container) {
			c.end()
			c.noted["config"].(map[string]any)["Hooks"] = map[string]any{"poststop": []any{map[string]any{}}}
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t)
			tc.change(t, c)
			if got := c.ask(t, "delete", "c"); got != tc.want {
				t.Fatalf("done without runc = %v, want %v", got, tc.want)
			}
			for _, path := range []string{c.dir(), filepath.Join(c.root, "group")} {
				if _, err := os.Stat(path); os.IsNotExist(err) != tc.want {
					t.Errorf("%s: %v", path, err)
				}
			}
		})
	}
}

// asked notes what was really to be run.
type asked struct{ runc.ProcessMonitor }

func (asked) StartLocked(*exec.Cmd) (chan runc.Exit, error) { return make(chan runc.Exit), nil }

func (asked) Wait(*exec.Cmd, chan runc.Exit) (int, error) { return 7, nil }

func TestOnlyTheRestIsRun(t *testing.T) {
	c := newContainer(t)
	c.ask(t, "pause", "c")
	d := Direct{asked{}}
	for want, words := range map[int][]string{0: {"kill", "c", strconv.Itoa(int(unix.SIGCONT))}, 7: {"pause", "c"}} {
		cmd := exec.Command("none", append([]string{"--root", c.root}, words...)...)
		exits, err := d.StartLocked(cmd)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := d.Wait(cmd, exits); got != want || err != nil {
			t.Errorf("%v ended with %d, %v; want %d", words, got, err, want)
		}
	}
}
