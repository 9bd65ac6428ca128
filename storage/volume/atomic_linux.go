package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A volume of files is updated as a whole:
//
//	<volume>/..2026_11_23_05_06_07.123456/key     the content, in a folder of its own
//	<volume>/..data -> ..2026_11_23_05_06_07.123456   replaced by rename: the moment of change
//	<volume>/key    -> ..data/key                  what containers open
//
// A reader that resolved ..data before the rename keeps reading the old folder; one that comes later sees the new one.
const (
	dataLink    = "..data"
	dataLinkNew = "..data_tmp"
)

// writeFiles makes the folder hold exactly the wanted files and reports whether anything changed.
func writeFiles(folder string, want files) (changed bool, err error) {
	if err := want.check(); err != nil {
		return false, err
	}
	old, err := os.Readlink(filepath.Join(folder, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("read %s: %w", dataLink, err)
	}
	if old != "" && holds(filepath.Join(folder, old), want) {
		// A crash may have come between the rename and the links: they are made again, which changes nothing otherwise.
		return false, linkNames(folder, want)
	}
	fresh, err := os.MkdirTemp(folder, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return false, fmt.Errorf("make a folder for the new content: %w", err)
	}
	if err := fill(fresh, want); err != nil {
		return false, errors.Join(err, os.RemoveAll(fresh))
	}
	link := filepath.Join(folder, dataLinkNew)
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("remove a stale %s: %w", dataLinkNew, err)
	}
	if err := os.Symlink(filepath.Base(fresh), link); err != nil {
		return false, fmt.Errorf("link the new content: %w", err)
	}
	if err := os.Rename(link, filepath.Join(folder, dataLink)); err != nil {
		return false, fmt.Errorf("switch to the new content: %w", err)
	}
	return true, linkNames(folder, want)
}

// fill writes the content of a fresh folder that nobody reads yet.
func fill(folder string, want files) error {
	if err := os.Chmod(folder, 0o755); err != nil { // MkdirTemp makes it 0700; containers run as anyone
		return fmt.Errorf("open the new content to readers: %w", err)
	}
	for name, content := range want {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("make the folder of %s: %w", name, err)
		}
		if err := os.WriteFile(path, content.data, 0o600); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if content.uid >= 0 || content.gid >= 0 {
			if err := os.Chown(path, content.uid, content.gid); err != nil {
				return fmt.Errorf("change the owner of %s: %w", name, err)
			}
		}
		if err := os.Chmod(path, fs.FileMode(content.mode&0o777)); err != nil { // after writing: a umask must not matter
			return fmt.Errorf("set the mode of %s: %w", name, err)
		}
	}
	return nil
}

// holds reports whether the folder already has exactly these files.
func holds(folder string, want files) bool {
	seen := 0
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		content, wanted := want[name]
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if !wanted || info.Mode().Perm() != fs.FileMode(content.mode&0o777) || info.Size() != int64(len(content.data)) || !ownedAs(info, content) {
			return fs.SkipAll
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Equal(data, content.data) {
			return fs.SkipAll
		}
		seen++
		return nil
	})
	return err == nil && seen == len(want)
}

// linkNames makes the names containers open lead through ..data, and removes names and folders no longer used.
func linkNames(folder string, want files) error {
	names := map[string]bool{}
	for name := range want {
		first, _, _ := strings.Cut(name, "/")
		names[first] = true
	}
	current, err := os.Readlink(filepath.Join(folder, dataLink))
	if err != nil {
		return fmt.Errorf("read %s: %w", dataLink, err)
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("list the volume: %w", err)
	}
	for _, entry := range entries {
		name := entry.Name()
		switch {
		case name == dataLink || name == current:
		case names[name] && entry.Type()&fs.ModeSymlink != 0:
			delete(names, name)
		case strings.HasPrefix(name, "..") || entry.Type()&fs.ModeSymlink != 0 || names[name]:
			if err := os.RemoveAll(filepath.Join(folder, name)); err != nil {
				return fmt.Errorf("remove the outdated %s: %w", name, err)
			}
		}
	}
	for name := range names {
		if err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(folder, name)); err != nil {
			return fmt.Errorf("link %s: %w", name, err)
		}
	}
	return nil
}
