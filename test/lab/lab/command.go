package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// Cmd is a program on a machine: an exec.Cmd that starts there.
type Cmd struct {
	*exec.Cmd
	machine *Machine
}

// Command prepares a program.
func (m *Machine) Command(ctx context.Context, name string, args ...string) *Cmd {
	return &Cmd{Cmd: exec.CommandContext(ctx, name, args...), machine: m}
}

// Start starts it in the machine's namespaces and cgroup.
func (c *Cmd) Start() error {
	place, v2, err := c.machine.place()
	if err != nil {
		return err
	}
	if !v2 {
		return c.machine.Do(func() error {
			// The thread that starts a program passes on its own cgroup; the thread ends right after.
			task := strconv.Itoa(unix.Gettid())
			if err := os.WriteFile(filepath.Join(place, "tasks"), []byte(task), 0o644); err != nil {
				return fmt.Errorf("enter the machine's cgroup: %w", err)
			}
			return c.Cmd.Start()
		})
	}
	dir, err := os.Open(place)
	if err != nil {
		return fmt.Errorf("open the machine's cgroup: %w", err)
	}
	defer dir.Close()
	if c.SysProcAttr == nil {
		c.SysProcAttr = &syscall.SysProcAttr{}
	}
	c.SysProcAttr.UseCgroupFD, c.SysProcAttr.CgroupFD = true, int(dir.Fd())
	return c.machine.Do(c.Cmd.Start)
}

// Run starts it and waits for its end.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs it and returns what it printed; an error carries what it complained about.
func (c *Cmd) Output() ([]byte, error) {
	var out, complaint bytes.Buffer
	c.Stdout = &out
	if c.Stderr == nil {
		c.Stderr = &complaint
	}
	err := c.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		exit.Stderr = complaint.Bytes()
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(complaint.Bytes()))
	}
	return out.Bytes(), err
}

// CombinedOutput runs it and returns all it printed.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// Exec runs a program to its end and returns what it printed; the test ends when it fails.
func (m *Machine) Exec(name string, args ...string) string {
	m.lab.t.Helper()
	out, err := m.Command(m.lab.t.Context(), name, args...).CombinedOutput()
	if err != nil {
		m.lab.t.Fatalf("on machine %s: %s %v: %v\n%s", m.Hostname, name, args, err, out)
	}
	return string(out)
}
