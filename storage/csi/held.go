package csi

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/bootstrap/durable"
)

// use is one pod's use of one volume, as it is kept on disk beside where the volume is mounted. It has no secrets.
type use struct {
	Pod       types.UID `json:"podUID"`
	Spec      string    `json:"specVolID"` // the PersistentVolume's name, or that of the inline volume
	Driver    string    `json:"driverName"`
	Handle    string    `json:"volumeHandle"`
	Ephemeral bool      `json:"ephemeral,omitempty"`
	Block     bool      `json:"block,omitempty"`
	Attached  bool      `json:"attached,omitempty"` // the controller has to detach it
}

// key is the volume, whoever uses it.
func (u use) key() string { return u.Driver + "^" + u.Handle }

const (
	dataFile = "vol_data.json"
	doneFile = "mounted" // beside it: what had to be done to the volume is done
)

// held knows every use on this machine, from the disk.
type held struct {
	folder string

	mu   sync.Mutex
	uses []use
}

// Where things lie; the names are those every tool that reads a node's disk knows.
func (h *held) place(u use) string {
	return filepath.Join(h.folder, "pods", string(u.Pod), "volumes", "kubernetes.io~csi", u.Spec)
}

// target is where a volume is published for a pod: a folder, or for a block volume a device.
func (h *held) target(u use) string {
	if u.Block {
		return filepath.Join(h.place(u), "dev")
	}
	return filepath.Join(h.place(u), "mount")
}

func (h *held) stages() string { return filepath.Join(h.folder, "plugins", "kubernetes.io", "csi") }

// stage is the folder of a volume that is staged: its data file, and globalmount.
func (h *held) stage(driver, handle string) string {
	sum := sha256.Sum256([]byte(handle))
	return filepath.Join(h.stages(), driver, hex.EncodeToString(sum[:]))
}

// load reads what earlier processes began. What cannot be read is told of, and left to a person.
func (h *held) load(folder string, log *slog.Logger) {
	h.folder = folder
	files, _ := filepath.Glob(filepath.Join(folder, "pods", "*", "volumes", "kubernetes.io~csi", "*", dataFile)) // a pattern of ours
	for _, file := range files {
		u, err := readUse(file)
		if err != nil {
			log.Error("a pod's volume cannot be identified; unmount it by hand and delete its folder", "folder", filepath.Dir(file), "error", err)
			continue
		}
		h.uses = append(h.uses, u)
	}
}

func readUse(file string) (u use, err error) {
	text, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(text, &u)
	}
	return u, err
}

// begin notes a use before the driver hears of it.
func (h *held) begin(u use) error {
	if err := os.MkdirAll(h.place(u), 0o750); err != nil {
		return fmt.Errorf("make the volume's folder: %w", err)
	}
	if err := writeUse(h.place(u), u); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Contains(h.uses, u) {
		h.uses = append(slices.DeleteFunc(h.uses, func(old use) bool { return old.Pod == u.Pod && old.Spec == u.Spec }), u)
	}
	return nil
}

func writeUse(dir string, u use) error {
	text, err := json.Marshal(u)
	if err != nil {
		return err
	}
	return durable.Write(filepath.Join(dir, dataFile), text, 0o600)
}

// end forgets a use whose volume is no longer published. Its folder is empty but for what we made; if it is not, something
// is still mounted there, and stays.
func (h *held) end(u use) error {
	for _, path := range []string{h.target(u), filepath.Join(h.place(u), doneFile), filepath.Join(h.place(u), dataFile), h.place(u)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the volume's folder: %w", err)
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.uses = slices.DeleteFunc(h.uses, func(old use) bool { return old == u })
	return nil
}

// finish notes that a use is as its pod expects it. The note may be lost with the mount it is about.
func (h *held) finish(u use) error {
	if err := os.WriteFile(filepath.Join(h.place(u), doneFile), nil, 0o600); err != nil {
		return fmt.Errorf("note that the volume is mounted: %w", err)
	}
	return nil
}

func (h *held) finished(u use) bool {
	_, err := os.Lstat(filepath.Join(h.place(u), doneFile))
	return err == nil && slices.Contains(h.of(u.Pod), u)
}

// of are the uses of one pod.
func (h *held) of(pod types.UID) []use {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(h.uses), func(u use) bool { return u.Pod != pod })
}

// used says whether any pod uses a volume.
func (h *held) used(key string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.ContainsFunc(h.uses, func(u use) bool { return u.key() == key })
}

// Serves says whether a pod has volumes of drivers.
func (n *Node) Serves(pod types.UID) bool { return len(n.held.of(pod)) > 0 }

// InUse are the volumes that must not be detached from this machine, in the words of a node's status.
func (n *Node) InUse() []corev1.UniqueVolumeName {
	n.held.mu.Lock()
	defer n.held.mu.Unlock()
	var out []corev1.UniqueVolumeName
	for _, u := range n.held.uses {
		if u.Attached {
			out = append(out, corev1.UniqueVolumeName("kubernetes.io/csi/"+u.key()))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
