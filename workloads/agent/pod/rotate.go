package pod

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/workloads/agent/observed"
)

const (
	maxLogSize  = 10 << 20
	maxLogFiles = 5 // of one run, the one being written included
	rotateEvery = 30 * time.Second
)

// rotateLogs bounds what containers' logs take of the disk.
func (m *Manager) rotateLogs(ctx context.Context) {
	tick := time.NewTicker(rotateEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, c := range m.runningContainers() {
			info, err := os.Stat(c.LogPath)
			if err != nil || info.Size() < maxLogSize {
				continue
			}
			if err := m.rotate(ctx, c); err != nil && ctx.Err() == nil {
				m.log.Warn("rotate container log", "container", c.Name, "file", c.LogPath, "error", err)
			}
		}
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
// followers may still read the newest.
func (m *Manager) rotate(ctx context.Context, c observed.Container) error {
	old, err := filepath.Glob(c.LogPath + ".*")
	if err != nil {
		return err
	}
	slices.Sort(old)
	// The oldest goes first: on a full disk compressing fails, and the space it needs must not depend on it.
	for len(old) > maxLogFiles-2 {
		if err := errors.Join(ignoreMissing(os.Remove(old[0])), ignoreMissing(os.Remove(old[0]+".gz"))); err != nil {
			return err
		}
		old = old[1:]
	}
	for _, path := range old {
		if filepath.Ext(path) != ".gz" {
			if err := compress(path); err != nil {
				return err
			}
		}
	}
	aside := c.LogPath + "." + m.now().UTC().Format("20060102-150405")
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
