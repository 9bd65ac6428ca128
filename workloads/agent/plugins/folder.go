package plugins

import (
	"fmt"
	"os"
	"path/filepath"
)

// Prepare makes the agent's folder reachable as known, the path that manifests of plugins have in them (/var/lib/kubelet
// mostly), and returns the path plugins are told: known, or the folder itself if something else is there.
func Prepare(known, folder string) (told string, err error) {
	if filepath.Clean(known) == filepath.Clean(folder) {
		return folder, nil
	}
	if target, err := os.Readlink(known); err == nil && target == folder {
		return known, nil
	}
	if err := os.MkdirAll(filepath.Dir(known), 0o755); err != nil {
		return folder, fmt.Errorf("make the folder of %s: %w", known, err)
	}
	if err := os.Symlink(folder, known); err != nil {
		return folder, fmt.Errorf("lead %s to %s, where plugins for storage and devices find this node: %w; move it away and restart, or set kubelet-dir", known, folder, err)
	}
	return known, nil
}
