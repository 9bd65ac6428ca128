// Package durable replaces files whole.
//
// In:       a path and its new content.
// Out:      a file that holds either the old content or the new one, whatever stops the machine in between.
// Promise:  Write survives a power cut once it has returned; Replace is only atomic, for what can be made again.
// Not here: what the files mean.
package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Write replaces path and waits until the disk has both the content and the name.
func Write(path string, content []byte, mode os.FileMode) error {
	if err := replace(path, content, mode, true); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	// The name lives in the folder, so the folder has to reach the disk as well.
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := errors.Join(folder.Sync(), folder.Close()); err != nil {
		return fmt.Errorf("write %s: sync its folder: %w", path, err)
	}
	return nil
}

// Replace replaces path at once for every reader, but leaves it to the kernel when the disk learns of it.
func Replace(path string, content []byte, mode os.FileMode) error {
	if err := replace(path, content, mode, false); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func replace(path string, content []byte, mode os.FileMode, sync bool) error {
	// CreateTemp opens with 0600, so the content is never readable more widely than it will be.
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = temp.Write(content)
	if err == nil && mode != 0o600 {
		err = temp.Chmod(mode)
	}
	if err == nil && sync {
		err = temp.Sync()
	}
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return nil
}
