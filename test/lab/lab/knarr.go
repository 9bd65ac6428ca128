package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Knarr is a running knarr on a machine.
type Knarr struct {
	machine *Machine
	args    []string
	cmd     *Cmd
	ended   chan struct{}
	err     error // how it ended
}

// KnarrArgs are the arguments of `knarr server` or `knarr agent` that make it live on this machine.
func (m *Machine) KnarrArgs(role string, more ...string) []string {
	return append([]string{
		role,
		"--data-dir", m.DataDir(),
		"--run-dir", m.RunDir(),
		"--node-name", m.Name(),
		"--node-ip", m.IP().String(),
		"--cgroup-root", m.CgroupRoot(),
	}, more...)
}

// LogFile is what knarr writes to stderr on this machine, of all its runs.
func (m *Machine) LogFile() string { return filepath.Join(m.Dir(), "knarr.log") }

// StartKnarr starts `knarr role more...` and returns at once; the test ends when it can't be started. Its log is shown
// when the test fails.
func (m *Machine) StartKnarr(role string, more ...string) *Knarr {
	t := m.lab.t
	t.Helper()
	k, err := m.Knarr(role, more...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of knarr's log on machine %s:\n%s", m.Name(), tail(m.LogFile(), 60))
		}
	})
	return k
}

// Knarr starts `knarr role more...`.
func (m *Machine) Knarr(role string, more ...string) (*Knarr, error) {
	k := &Knarr{machine: m, args: m.KnarrArgs(role, more...)}
	return k, k.Start()
}

// Start starts it again, after it ended.
func (k *Knarr) Start() error {
	binary, err := Binary()
	if err != nil {
		return err
	}
	log, err := os.OpenFile(k.machine.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open knarr's log: %w", err)
	}
	defer log.Close()
	k.cmd = k.machine.Command(context.Background(), binary, k.args...)
	k.cmd.Env = WithoutSettings(os.Environ())
	k.cmd.Stdout, k.cmd.Stderr = log, log
	if err := k.cmd.Start(); err != nil {
		return fmt.Errorf("start knarr: %w", err)
	}
	k.ended = make(chan struct{})
	go func() {
		defer close(k.ended)
		k.err = k.cmd.Wait()
	}()
	return nil
}

// WithoutSettings leaves out KNARR_... variables: they are settings of a knarr, and those of this shell are not meant.
func WithoutSettings(environ []string) []string {
	return slices.DeleteFunc(environ, func(entry string) bool { return strings.HasPrefix(entry, "KNARR_") })
}

// Pid of the process.
func (k *Knarr) Pid() int { return k.cmd.Process.Pid }

// Ended is closed when it ended; Err says how.
func (k *Knarr) Ended() <-chan struct{} { return k.ended }

// Err is how it ended: nil after exit code 0.
func (k *Knarr) Err() error {
	<-k.ended
	return k.err
}

// stopTime is how long a clean stop may take before it counts as failed.
const stopTime = 30 * time.Second

// Stop asks it to stop, as a service manager does, and says how it ended.
func (k *Knarr) Stop() error {
	if err := k.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop knarr: %w", err)
	}
	select {
	case <-k.ended:
		return k.err
	case <-time.After(stopTime):
		return fmt.Errorf("knarr did not stop within %v of SIGTERM", stopTime)
	}
}

// Kill9 is the power cut: it ends between two instructions. Its pods run on.
func (k *Knarr) Kill9() error {
	if err := k.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill knarr: %w", err)
	}
	<-k.ended
	return nil
}

// Restart stops it and starts it again.
func (k *Knarr) Restart() error {
	if err := k.Stop(); err != nil {
		return err
	}
	return k.Start()
}

var built = sync.OnceValues(build)

// Binary is the knarr to run: KNARR_BIN, or one built from this tree, once a process.
func Binary() (string, error) {
	if path := os.Getenv("KNARR_BIN"); path != "" {
		return path, nil
	}
	return built()
}

func build() (string, error) {
	unlock, err := lock("knarr.lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "knarr.dev/knarr").Output()
	if err != nil {
		return "", fmt.Errorf("find the module: %w: set KNARR_BIN to a built knarr", err)
	}
	path := filepath.Join(base, "knarr")
	cmd := exec.Command("go", "build", "-o", path, ".")
	cmd.Dir = strings.TrimSpace(string(root))
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build knarr: %w\n%s", err, out)
	}
	return path, nil
}

// tail is the end of a file.
func tail(path string, lines int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(data), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
