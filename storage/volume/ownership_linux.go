package volume

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	corev1 "k8s.io/api/core/v1"
)

// fsGroup of a pod, nil when it has none.
func fsGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// own sets the mode of a volume's root and, with an fsGroup, hands it to that group: new files then inherit the group.
func own(folder string, mode fs.FileMode, group *int64) error {
	if group != nil {
		if err := os.Chown(folder, -1, int(*group)); err != nil {
			return fmt.Errorf("change the group of %s: %w", folder, err)
		}
		mode |= fs.ModeSetgid | 0o770
	}
	if err := os.Chmod(folder, mode); err != nil {
		return fmt.Errorf("set the mode of %s: %w", folder, err)
	}
	return nil
}

// ownTree hands a whole existing volume to an fsGroup. With OnRootMismatch a root that already looks right is taken
// as proof for the rest, because walking millions of files would hold up the pod.
func ownTree(root string, group int64, policy *corev1.PodFSGroupChangePolicy, readOnly bool) error {
	dirBits, fileBits := fs.FileMode(0o770)|fs.ModeSetgid, fs.FileMode(0o660)
	if readOnly {
		dirBits, fileBits = fs.FileMode(0o550)|fs.ModeSetgid, fs.FileMode(0o440)
	}
	if policy != nil && *policy == corev1.FSGroupChangeOnRootMismatch {
		info, err := os.Lstat(root)
		if err != nil {
			return fmt.Errorf("stat %s: %w", root, err)
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && int64(stat.Gid) == group && info.Mode()&dirBits == dirBits {
			return nil
		}
	}
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("walk %s: %w", root, err)
		}
		if err := os.Lchown(path, -1, int(group)); err != nil {
			return fmt.Errorf("change the group of %s: %w", path, err)
		}
		if entry.Type()&fs.ModeSymlink != 0 {
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return fmt.Errorf("stat %s: %w", path, err)
		}
		bits := fileBits
		if entry.IsDir() {
			bits = dirBits
		}
		if info.Mode()&bits == bits {
			return nil
		}
		if err := os.Chmod(path, info.Mode()|bits); err != nil {
			return fmt.Errorf("set the mode of %s: %w", path, err)
		}
		return nil
	})
}

// onlyUser is the one user all containers run as, nil when they differ or the image decides.
func onlyUser(pod *corev1.Pod) *int64 {
	var ofPod, only *int64
	if pod.Spec.SecurityContext != nil {
		ofPod = pod.Spec.SecurityContext.RunAsUser
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			user := ofPod
			if security := list[i].SecurityContext; security != nil && security.RunAsUser != nil {
				user = security.RunAsUser
			}
			if user == nil || (only != nil && *only != *user) {
				return nil
			}
			only = user
		}
	}
	return only
}
