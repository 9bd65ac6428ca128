package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"knarr.dev/knarr/bootstrap/durable"
	"knarr.dev/knarr/workloads/agent/sandbox/ends"
)

// keepEnds writes down for CRI how containers ended whose ends a process that was killed had heard of and not yet written down:
// the shims have forgotten them by then, and CRI would take each for failed, or for never started. It runs before CRI reads.
func (r *Runtime) keepEnds() error {
	noted, err := ends.Read(filepath.Join(r.conf.Paths.ContainerdState(), "*", Namespace, "*"))
	errs := []error{err}
	for id, end := range noted {
		path := filepath.Join(r.conf.Paths.Containerd(), "io.containerd.grpc.v1.cri", "containers", id, "status")
		before, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed since
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		after, err := withEnd(before, end)
		if err != nil {
			errs = append(errs, fmt.Errorf("read %s: %w", path, err))
			continue
		}
		if after == nil {
			continue
		}
		if err := durable.Replace(path, after, 0o600); err != nil {
			errs = append(errs, err)
			continue
		}
		r.log.Info("end of a container written down, which an interrupted run had not done", "id", id, "code", end.Code)
	}
	return errors.Join(errs...)
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
