package job

import (
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
)

// memory is what was written and the cache may not show yet. Without it a pod whose finalizer went could be counted
// from a pod seen too late, or replaced by the word of a status seen too late.
type memory struct {
	mu   sync.Mutex
	jobs map[types.UID]*wrote
}

type wrote struct {
	version   string
	untracked map[types.UID]bool
}

// behind says whether a job from the cache is older than what we wrote; the newer one queues its own pass.
func (m *memory) behind(uid types.UID, version string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.jobs[uid]
	if w == nil || w.version == "" {
		return false
	}
	order, err := resourceversion.CompareResourceVersion(version, w.version)
	return err == nil && order < 0
}

func (m *memory) wroteJob(uid types.UID, version string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of(uid).version = version
}

func (m *memory) untracked(job, pod types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of(job).untracked[pod] = true
}

// tracked takes back that a pod was untracked.
func (m *memory) tracked(job, pod types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.of(job).untracked, pod)
}

// hidden are the pods that only seem to be tracked. The cache never goes back, so what it shows is forgotten.
func (m *memory) hidden(job types.UID, pods []*corev1.Pod) map[types.UID]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.jobs[job]
	if w == nil {
		return nil
	}
	hidden := map[types.UID]bool{}
	for _, pod := range pods {
		if w.untracked[pod.UID] && hasFinalizer(pod) {
			hidden[pod.UID] = true
		}
	}
	w.untracked = maps.Clone(hidden)
	return hidden
}

func (m *memory) forget(job types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.jobs, job)
}

// of is what was written for a job. The caller holds the lock.
func (m *memory) of(job types.UID) *wrote {
	w := m.jobs[job]
	if w == nil {
		w = &wrote{untracked: map[types.UID]bool{}}
		m.jobs[job] = w
	}
	return w
}
