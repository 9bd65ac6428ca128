package pod

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/bootstrap/durable"
)

// store keeps the last desired pods on disk, so that a machine that comes up with no API still runs them. Each file is
// the pod's JSON after a line with its hash: one that a power cut left half-written is not believed.
type store struct{ dir string }

func (s store) path(uid types.UID) string { return filepath.Join(s.dir, string(uid)+".pod") }

func (s store) save(pod *corev1.Pod) error {
	slim := pod.DeepCopy()
	slim.ManagedFields = nil
	data, err := json.Marshal(slim)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(data)
	content := append([]byte(hex.EncodeToString(sum[:])+"\n"), data...)
	if have, err := os.ReadFile(s.path(pod.UID)); err == nil && bytes.Equal(have, content) {
		return nil
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	return durable.Write(s.path(pod.UID), content, 0o600)
}

func (s store) remove(uid types.UID) error { return ignoreMissing(os.Remove(s.path(uid))) }

// load reads every pod it can believe; the error names those it could not, which are removed.
func (s store) load() ([]*corev1.Pod, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, ignoreMissing(err)
	}
	var pods []*corev1.Pod
	var errs []error
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		if !strings.HasSuffix(e.Name(), ".pod") {
			errs = append(errs, os.Remove(path)) // left by a crash while writing
			continue
		}
		pod, err := read(path)
		if err != nil {
			errs = append(errs, err, os.Remove(path))
			continue
		}
		pods = append(pods, pod)
	}
	return pods, errors.Join(errs...)
}

func read(path string) (*corev1.Pod, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	sum, data, _ := bytes.Cut(content, []byte("\n"))
	if got := sha256.Sum256(data); hex.EncodeToString(got[:]) != string(sum) {
		return nil, fmt.Errorf("saved pod %s is damaged; it will be started when the API names it again", filepath.Base(path))
	}
	pod := &corev1.Pod{}
	if err := json.Unmarshal(data, pod); err != nil {
		return nil, fmt.Errorf("read saved pod %s: %w", filepath.Base(path), err)
	}
	return pod, nil
}
