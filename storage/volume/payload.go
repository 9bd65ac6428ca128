package volume

import (
	"errors"
	"fmt"
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// file is what one path inside a volume should hold.
type file struct {
	data []byte
	mode uint32
	uid  int // -1: root
	gid  int // -1: root
}

// files is a whole volume as a value: path inside the volume -> content. It is computed without touching a disk.
type files map[string]file

// defaultMode of files when nothing else is asked for.
const defaultMode = 0o644

// merge adds more on top: in a projected volume a later source wins a path.
func (f files) merge(more files) {
	for name, content := range more {
		f[name] = content
	}
}

// owned gives every file to the pod's fsGroup, readable by it.
func (f files) owned(fsGroup *int64) files {
	if fsGroup == nil {
		return f
	}
	for name, content := range f {
		content.gid = int(*fsGroup)
		content.mode |= 0o440
		f[name] = content
	}
	return f
}

// keyed picks keys of an object's data: all of them under their own name, or the items asked for.
// kind is "configmap" or "secret", for the error.
func keyed(kind string, data map[string][]byte, items []corev1.KeyToPath, mode *int32, optional bool) (files, error) {
	base := uint32(defaultMode)
	if mode != nil {
		base = uint32(*mode)
	}
	out := files{}
	if len(items) == 0 {
		for key, value := range data {
			out[key] = file{data: value, mode: base, uid: -1, gid: -1}
		}
		return out, nil
	}
	for _, item := range items {
		value, found := data[item.Key]
		if !found {
			if optional {
				continue
			}
			return nil, fmt.Errorf("%s references non-existent %s key: %s", kind, keyKind(kind), item.Key)
		}
		content := file{data: value, mode: base, uid: -1, gid: -1}
		if item.Mode != nil {
			content.mode = uint32(*item.Mode)
		}
		out[path.Clean(item.Path)] = content
	}
	return out, nil
}

func keyKind(kind string) string {
	if kind == "configmap" {
		return "config"
	}
	return kind
}

// check refuses paths that would leave the volume or collide with the names the atomic update uses.
func (f files) check() error {
	for name := range f {
		switch {
		case name == "" || name == ".":
			return errors.New("a file has no name: set path on its item")
		case path.IsAbs(name):
			return fmt.Errorf("path %q is absolute: paths of items are relative to the volume", name)
		case strings.HasPrefix(name, ".."):
			return fmt.Errorf("path %q starts with \"..\": choose another path for that item", name)
		}
		for _, part := range strings.Split(name, "/") {
			if part == ".." {
				return fmt.Errorf("path %q leaves the volume: choose a path without \"..\"", name)
			}
			if len(part) > 255 {
				return fmt.Errorf("path %q has a part longer than 255 bytes: choose a shorter one", name)
			}
		}
	}
	return nil
}
