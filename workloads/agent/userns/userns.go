// Package userns gives pods user and group ids of the machine that no other pod has (user namespaces, KEP-127).
//
// In:       pods that ask not to be the host's users (hostUsers: false).
// Out:      a range of 65536 ids a pod, noted in the pod's folder before anything runs with it.
// Promise:  no two pods have an id in common, whatever was killed when; nothing is read before the first pod asks.
// Not here: the namespaces (containerd, runc, workloads/agent/sandbox).
package userns

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/bootstrap/durable"
)

// Length is how many ids a pod has: as many as a system without user namespaces needs, nobody (65534) included.
const Length = 1 << 16

// note is the file in a pod's folder that says where its range begins.
const note = "userns"

// Ranges of one machine. The first ids are the machine's own.
type Ranges struct {
	dir string // of pods' folders, by uid

	mu    sync.Mutex
	taken map[types.UID]uint32 // nil until the notes were read
}

// In makes ranges noted below a folder of pods' folders.
func In(dir string) *Ranges { return &Ranges{dir: dir} }

// Of is where a pod's range begins: the one it has, or a free one that is noted before it is returned.
func (r *Ranges) Of(pod types.UID) (uint32, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.read(); err != nil {
		return 0, err
	}
	if first, has := r.taken[pod]; has {
		return first, nil
	}
	first, ok := free(r.taken)
	if !ok {
		return 0, errors.New("all ranges of user ids are taken: end a pod with hostUsers: false")
	}
	path := r.path(pod)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return 0, fmt.Errorf("note the pod's user ids: %w", err)
	}
	if err := durable.Write(path, fmt.Appendln(nil, first), 0o600); err != nil {
		return 0, fmt.Errorf("note the pod's user ids: %w", err)
	}
	r.taken[pod] = first
	return first, nil
}

// Release gives a pod's range back when nothing of it runs any more. A pod without one is no error.
func (r *Ranges) Release(pod types.UID) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := os.Remove(r.path(pod)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("give the pod's user ids back: %w", err)
	}
	delete(r.taken, pod)
	return nil
}

func (r *Ranges) path(pod types.UID) string { return filepath.Join(r.dir, string(pod), note) }

// read the notes once; r.mu is held.
func (r *Ranges) read() error {
	if r.taken != nil {
		return nil
	}
	paths, err := filepath.Glob(filepath.Join(r.dir, "*", note))
	if err != nil {
		return err
	}
	taken := map[types.UID]uint32{}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("read which user ids pods have: %w", err)
		}
		first, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
		if err != nil || first == 0 || first%Length != 0 {
			return fmt.Errorf("%s is damaged, and may be of a pod that runs: delete this pod, then the file", path)
		}
		taken[types.UID(filepath.Base(filepath.Dir(path)))] = uint32(first)
	}
	r.taken = taken
	return nil
}

// free is the lowest range nobody has. The last one is left out: its end is the id that means none.
func free(taken map[types.UID]uint32) (first uint32, ok bool) {
	used := make(map[uint32]bool, len(taken))
	for _, first := range taken {
		used[first] = true
	}
	for first := uint64(Length); first+2*Length <= math.MaxUint32+1; first += Length {
		if !used[uint32(first)] {
			return uint32(first), true
		}
	}
	return 0, false
}
