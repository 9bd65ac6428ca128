package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	containerdruntime "github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/errdefs"

	"knarr.dev/knarr/bootstrap/durable"
	"knarr.dev/knarr/workloads/agent/sandbox/ends"
)

// tasks are what the shims run, as containerd has found them again.
type tasks interface {
	Get(ctx context.Context, id string) (containerdruntime.Task, error)
}

// shimPatience bounds how long all shims together may keep a start waiting; CRI gives as much to each.
const shimPatience = 10 * time.Second

// keepEnds writes down for CRI how containers ended whose ends a process that was killed had heard of and not yet written down:
// CRI would take each for failed, or for never started. It runs when the shims are found again and before CRI reads. What the
// killed process asked for last may still go on, so each shim says what it knows first: after that, a container is either known to
// have ended, or had not when that process was gone, or its shim has noted its end before forgetting it.
func (r *Runtime) keepEnds(ctx context.Context, found tasks) error {
	ctx, cancel := context.WithTimeout(in(ctx), shimPatience)
	defer cancel()
	folder := filepath.Join(r.conf.Paths.Containerd(), "io.containerd.grpc.v1.cri", "containers")
	containers, err := os.ReadDir(folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	status := func(id string) string { return filepath.Join(folder, id, "status") }
	var errs []error
	said := map[string]ends.End{}
	for _, container := range containers {
		id := container.Name()
		if kept, err := os.ReadFile(status(id)); err != nil || !unfinished(kept) {
			continue // CRI says of the first what is wrong with it
		}
		end, err := endOf(ctx, found, id)
		if err != nil {
			errs = append(errs, err)
		} else if end != nil {
			said[id] = *end
		}
	}
	noted, err := ends.Read(filepath.Join(r.conf.Paths.ContainerdState(), "*", Namespace, "*"))
	errs = append(errs, err)
	maps.Copy(noted, said)
	for id, end := range noted {
		before, err := os.ReadFile(status(id))
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		after, err := withEnd(before, end)
		if err != nil {
			errs = append(errs, fmt.Errorf("read %s: %w", status(id), err))
			continue
		}
		if after == nil {
			continue
		}
		if err := durable.Replace(status(id), after, 0o600); err != nil {
			errs = append(errs, err)
			continue
		}
		r.log.Info("end of a container written down, which an interrupted run had not done", "id", id, "code", end.Code)
	}
	return errors.Join(errs...)
}

// endOf asks a container's shim how it ended; nil if it has not, or is not known any more.
func endOf(ctx context.Context, found tasks, id string) (*ends.End, error) {
	task, err := found.Get(ctx, id)
	var state containerdruntime.State
	if err == nil {
		state, err = task.State(ctx)
	}
	switch {
	case errdefs.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("ask the shim of container %s how it is: %w", id, err)
	case state.Status != containerdruntime.StoppedStatus:
		return nil, nil
	}
	return &ends.End{Code: state.ExitStatus, At: state.ExitedAt}, nil
}

// unfinished says whether a container's status, as CRI keeps it, tells of no end.
func unfinished(status []byte) bool {
	var known struct{ FinishedAt int64 }
	return json.Unmarshal(status, &known) == nil && known.FinishedAt == 0
}

// withEnd is a container's status as CRI keeps it, with its end. It is nil if an end is in it already.
func withEnd(status []byte, end ends.End) ([]byte, error) {
	const version = "v1" // containerd: internal/cri/store/container/status.go
	var known struct {
		Version               string
		StartedAt, FinishedAt int64
	}
	if err := json.Unmarshal(status, &known); err != nil {
		return nil, err
	}
	if known.Version != version {
		return nil, fmt.Errorf("it has version %q, want %q", known.Version, version)
	}
	if known.FinishedAt != 0 {
		return nil, nil
	}
	var all map[string]json.RawMessage // the rest is none of our business
	if err := json.Unmarshal(status, &all); err != nil {
		return nil, err
	}
	at := fmt.Append(nil, end.At.UnixNano())
	if known.StartedAt == 0 {
		all["StartedAt"] = at // the start had not been written down either
	}
	all["FinishedAt"] = at
	all["ExitCode"] = fmt.Append(nil, int32(end.Code))
	return json.Marshal(all)
}
