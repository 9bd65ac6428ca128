// Package ends keeps how a container ended from the moment its shim forgets it until CRI has written it down.
//
// In:       a sandbox's bundle, in which its shim runs; how a container in it ended.
// Out:      the same, for whoever comes after a process that was killed in between.
// Promise:  written whole, and gone with the sandbox; of a container that ends again and again one or two are kept.
// Not here: what CRI has written down (workloads/agent/runtime).
package ends

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"knarr.dev/knarr/bootstrap/durable"
)

// End is how a container ended.
type End struct {
	Code uint32    `json:"code"`
	At   time.Time `json:"at"`
}

// Folder is where they lie in a bundle, each under its container's id.
const Folder = "ends"

// kept is how long CRI may take to write an end down, with time to spare. Only a process that goes on asks for a later one, and
// one that was killed has its successor read them first.
const kept = time.Minute

// Note an end, and forget those that must have been written down by now.
func Note(bundle, id string, e End) error {
	dir := filepath.Join(bundle, Folder)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("note how container %s ended: %w", id, err)
	}
	if err := forget(dir, time.Now().Add(-kept)); err != nil {
		return err
	}
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("note how container %s ended: %w", id, err)
	}
	return durable.Replace(filepath.Join(dir, id), data, 0o600)
}

func forget(dir string, before time.Time) error {
	old, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for ends of containers: %w", err)
	}
	for _, entry := range old {
		info, err := entry.Info()
		if err != nil || !info.ModTime().Before(before) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget how a container ended: %w", err)
		}
	}
	return nil
}

// Read what is noted in the bundles that a pattern of filepath.Match describes, by container. What cannot be read is left out and
// told.
func Read(bundles string) (map[string]End, error) {
	files, err := filepath.Glob(filepath.Join(bundles, Folder, "[0-9a-f]*"))
	all, errs := map[string]End{}, []error{err}
	for _, file := range files {
		var e End
		data, err := os.ReadFile(file)
		if err == nil {
			err = json.Unmarshal(data, &e)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read how a container ended: %w", err))
			continue
		}
		all[filepath.Base(file)] = e
	}
	return all, errors.Join(errs...)
}
