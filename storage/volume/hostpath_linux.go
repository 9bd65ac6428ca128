package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	corev1 "k8s.io/api/core/v1"
)

// checkHostPath makes sure the path is what its type says, creating it where the type allows that.
func checkHostPath(source *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if source.Type != nil {
		kind = *source.Type
	}
	switch kind {
	case corev1.HostPathUnset:
		return nil
	case corev1.HostPathDirectoryOrCreate:
		if err := os.MkdirAll(source.Path, 0o755); err != nil {
			return fmt.Errorf("hostPath type check failed: make directory %s: %w", source.Path, err)
		}
	case corev1.HostPathFileOrCreate:
		created, err := os.OpenFile(source.Path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
		if err == nil {
			err = created.Close()
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("hostPath type check failed: make file %s: %w; its folder must exist", source.Path, err)
		}
	}
	info, err := os.Stat(source.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("hostPath type check failed: %s does not exist on this node: create it or change the volume's type", source.Path)
	}
	if err != nil {
		return fmt.Errorf("hostPath type check failed: %w", err)
	}
	if what, ok := isKind(info.Mode(), kind); !ok {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", source.Path, what)
	}
	return nil
}

// isKind judges a file's mode against a hostPath type and names what was wanted.
func isKind(mode fs.FileMode, kind corev1.HostPathType) (what string, ok bool) {
	switch kind {
	case corev1.HostPathDirectory, corev1.HostPathDirectoryOrCreate:
		return "directory", mode.IsDir()
	case corev1.HostPathFile, corev1.HostPathFileOrCreate:
		return "file", mode.IsRegular()
	case corev1.HostPathSocket:
		return "socket", mode&fs.ModeSocket != 0
	case corev1.HostPathCharDev:
		return "character device", mode&fs.ModeCharDevice != 0
	case corev1.HostPathBlockDev:
		return "block device", mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0
	}
	return fmt.Sprintf("known hostPath type (%q)", kind), false
}
