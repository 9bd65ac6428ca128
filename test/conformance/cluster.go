package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"knarr.dev/knarr/test/lab/lab"
)

const (
	patience = "2m" // for what takes seconds on a machine that does nothing else
	// registryMachine is a third machine, without knarr: a few tests pull, and there is no way out of the lab.
	registryMachine = "registry"
	registryPort    = "5001"
	// mirrored is the one registry whose images the harness builds.
	mirrored = "registry.k8s.io"
)

// cluster is a server m1, a node m2 and a registry, in a lab that stays until down.
type cluster struct {
	name    string
	harness harness
	more    []string // arguments of knarr
}

func (c *cluster) up(ctx context.Context) error {
	binary, err := knarrBinary()
	if err != nil {
		return err
	}
	l, err := lab.Create(c.name)
	if err != nil {
		return err
	}
	for _, name := range []string{"m1", "m2", registryMachine} {
		if _, err := l.Add(name); err != nil {
			return err
		}
	}
	server, node, registry := l.Machines[0], l.Machines[1], l.Machines[2]
	if err := c.serveImages(registry); err != nil {
		return err
	}
	for _, m := range []*lab.Machine{server, node} {
		if err := mirror(m, registry); err != nil {
			return err
		}
	}
	on := func(m *lab.Machine, args ...string) (string, error) { return runKnarr(ctx, binary, m, args...) }

	if _, err := server.Knarr("server", c.more...); err != nil {
		return err
	}
	if err := awaitReady(on, server); err != nil {
		return err
	}
	token, err := on(server, "token", "create")
	if err != nil {
		return err
	}
	join := []string{"--join", fmt.Sprintf("https://%s:6443", server.IP()), "--token", strings.TrimSpace(token)}
	if _, err := node.Knarr("agent", append(join, c.more...)...); err != nil {
		return err
	}
	if err := awaitReady(on, node); err != nil {
		return err
	}
	if err := c.giveImages(on, server, node); err != nil {
		return err
	}
	fmt.Printf("cluster of m1 and m2 is up: KUBECONFIG=%s, logs in %s and %s\n", server.Kubeconfig(), server.LogFile(), node.LogFile())
	return nil
}

// knarrBinary is one that is built: what a source tree holds at the moment is not what one wants to judge for an hour.
func knarrBinary() (string, error) {
	if os.Getenv("KNARR_BIN") == "" {
		path, err := filepath.Abs(filepath.Join("bin", "knarr"))
		if err != nil {
			return "", fmt.Errorf("find knarr: %w", err)
		}
		if _, err := os.Stat(path); err != nil {
			return "", fmt.Errorf("find knarr: %w: run `make build`, or set KNARR_BIN", err)
		}
		if err := os.Setenv("KNARR_BIN", path); err != nil { // where the lab looks
			return "", fmt.Errorf("choose knarr: %w", err)
		}
	}
	return lab.Binary()
}

// runKnarr runs a command that looks at the machine it is on.
func runKnarr(ctx context.Context, binary string, m *lab.Machine, args ...string) (string, error) {
	var out, complaint bytes.Buffer
	cmd := m.Command(ctx, binary, args...)
	cmd.Env = append(os.Environ(), "KNARR_DATA_DIR="+m.DataDir(), "KNARR_RUN_DIR="+m.RunDir())
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("knarr %s on %s: %w: %s", args[0], m.Name(), err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// awaitReady waits until the machine serves.
func awaitReady(on func(*lab.Machine, ...string) (string, error), m *lab.Machine) error {
	if _, err := on(m, "status", "--wait", patience); err != nil {
		return fmt.Errorf("%w; its log is %s", err, m.LogFile())
	}
	return nil
}

// giveImages fills the stores, so that pods start as fast as they would on machines that were used before.
func (c *cluster) giveImages(on func(*lab.Machine, ...string) (string, error), machines ...*lab.Machine) error {
	archives, err := c.harness.archives()
	if err != nil {
		return fmt.Errorf("list the suite's images: %w", err)
	}
	var group errgroup.Group
	for _, m := range machines {
		group.Go(func() error {
			_, err := on(m, append([]string{"image", "import"}, archives...)...)
			return err
		})
	}
	return group.Wait()
}

// serveImages starts the harness's registry on a machine; it ends with the machine.
func (c *cluster) serveImages(m *lab.Machine) error {
	log, err := os.Create(m.LogFile())
	if err != nil {
		return fmt.Errorf("open the registry's log: %w", err)
	}
	defer log.Close()
	cmd := m.Command(context.Background(), filepath.Join(c.harness.scripts, "serve-images.sh"), m.IP().String()+":"+registryPort)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt is for this command, not for the registry
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the registry: %w", err)
	}
	return nil
}

// mirror makes a machine ask the registry for the suite's images.
func mirror(m, registry *lab.Machine) error {
	dir := filepath.Join(m.DataDir(), "registries", mirrored)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("configure the mirror: %w", err)
	}
	hosts := fmt.Sprintf("[host.\"http://%s:%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", registry.IP(), registryPort)
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o644); err != nil {
		return fmt.Errorf("configure the mirror: %w", err)
	}
	return nil
}

// run runs the suite. The summary is its own; its exit code says whether all passed.
func (c *cluster) run(ctx context.Context, focus []string) error {
	l, err := lab.Open(c.name)
	if err != nil {
		return err
	}
	server, err := l.Find("m1")
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(c.harness.scripts, "run.sh"), append([]string{server.Kubeconfig()}, focus...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// With its own group everything of the suite, which are many processes, can be asked to stop at once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return errors.New("not all tests passed")
	}
	return err
}

func (c *cluster) down() error {
	l, err := lab.Open(c.name)
	if err != nil {
		return err
	}
	return l.Down()
}
