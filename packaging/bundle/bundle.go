// Package bundle carries the small programs that have to be processes of their own.
//
// In:       assets/bundle.tar.zst, made by packaging/bundle/build (`make bundle`) and embedded.
// Out:      runc, containerd-shim-runc-v2, knarr-cni and pause in one folder of this machine.
// Promise:  unpacked once for each content; a crash while unpacking leaves nothing half-done.
// Not here: running them (workloads/agent/runtime).
//
// They are not part of the knarr binary itself because one shim and one pause live beside every pod, and runc
// needs cgo for seccomp.
package bundle

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
)

// The folder always has its README, so that the tree builds before the bundle was made.
//
//go:embed assets
var assets embed.FS

// current is the name runc and the shims are configured with. It survives an upgrade, so a shim that outlived its
// knarr finds the new runc where the old one was.
const current = "current"

// Unpack makes the helpers available below dir and returns the folder they are in.
// A binary built without the bundle returns "": the helpers are then looked up on PATH.
func Unpack(dir string) (string, error) {
	packed, err := assets.ReadFile("assets/bundle.tar.zst")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read embedded helpers: %w", err)
	}
	return unpack(dir, packed)
}

func unpack(dir string, packed []byte) (string, error) {
	sum := sha256.Sum256(packed)
	name := hex.EncodeToString(sum[:8])
	target := filepath.Join(dir, name)
	if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) {
		if err := unpackTo(target, packed); err != nil {
			return "", fmt.Errorf("unpack helpers to %s: %w (is there free space, and may programs be run from there?)", target, err)
		}
	} else if err != nil {
		return "", fmt.Errorf("look at helpers in %s: %w", target, err)
	}
	if err := point(filepath.Join(dir, current), name); err != nil {
		return "", fmt.Errorf("point %s at the helpers: %w", filepath.Join(dir, current), err)
	}
	if err := removeOthers(dir, name); err != nil {
		return "", fmt.Errorf("remove helpers of earlier versions in %s: %w", dir, err)
	}
	return filepath.Join(dir, current), nil
}

// unpackTo writes into a folder beside target and renames it when every byte is on disk, so that target, once
// there, is whole.
func unpackTo(target string, packed []byte) (err error) {
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(target), ".unpack-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if err := extract(tmp, packed); err != nil {
		return err
	}
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	if err := os.Rename(tmp, target); err != nil {
		return err
	}
	return syncDir(filepath.Dir(target))
}

func extract(dir string, packed []byte) error {
	unzip, err := zstd.NewReader(bytes.NewReader(packed))
	if err != nil {
		return err
	}
	defer unzip.Close()
	for files := tar.NewReader(unzip); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return syncDir(dir)
		}
		if err != nil {
			return err
		}
		if err := writeProgram(filepath.Join(dir, filepath.Base(header.Name)), files); err != nil {
			return err
		}
	}
}

func writeProgram(path string, from io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	return errors.Join(err, f.Sync(), f.Close())
}

// point makes link a symbolic link to name, in one step.
func point(link, name string) error {
	if have, err := os.Readlink(link); err == nil && have == name {
		return nil
	}
	tmp := link + ".new"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(name, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, link)
}

func removeOthers(dir, keep string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() && e.Name() != keep {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
