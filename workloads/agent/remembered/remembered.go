// Package remembered keeps on disk what a part of the agent must know after a restart.
//
// In:       a value that is JSON.
// Out:      one file: a line with the hash of what follows, then the value.
// Promise:  a file holds the old value or the new one, whatever stops the machine in between, and one that was damaged is
// not believed.
// Not here: what is remembered; what to do about a damaged file (the caller's error says it).
package remembered

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"knarr.dev/knarr/bootstrap/durable"
)

// Read what was written. Without a file the value stays as it is.
func Read(path string, value any) error {
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(content, []byte("{")) { // as versions without hashes wrote it
		sum, data, _ := bytes.Cut(content, []byte("\n"))
		if hash(data) != string(sum) {
			return fmt.Errorf("%s is damaged", path)
		}
		content = data
	}
	if err := json.Unmarshal(content, value); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// Write replaces what is remembered, and returns when the disk has it.
func Write(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.Write(path, append([]byte(hash(data)+"\n"), data...), 0o600)
}

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
