package pod

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/workloads/agent/observed"
	"knarr.dev/knarr/workloads/agent/pressure"
	"knarr.dev/knarr/workloads/agent/translate"
)

// ErrNotFound is a pod or container this node does not have.
var ErrNotFound = errors.New("not found on this node")

// Pods are this node's pods with their newest status, which the API may not have yet.
func (m *Manager) Pods() []*corev1.Pod {
	actors := m.all()
	pods := make([]*corev1.Pod, 0, len(actors))
	for _, a := range actors {
		if pod := a.snapshot(); pod.Name != "" {
			pods = append(pods, pod)
		}
	}
	return pods
}

func (a *actor) snapshot() *corev1.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	pod := *a.pod // shallow: only the status is another
	if a.status.Phase != "" {
		pod.Status = a.status
	}
	return &pod
}

// VolumePaths are where a pod's volumes lie, by their names, once they are mounted.
func (m *Manager) VolumePaths(uid types.UID) map[string]string {
	a := m.lookup(uid)
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return maps.Clone(a.volumes)
}

// Place is where one of a pod's containers is found in the runtime and on disk.
type Place struct {
	Pod         *corev1.Pod
	SandboxID   string
	ContainerID string
	Running     bool
	LogPath     string
}

// Find looks up a container; with previous, its run before the newest. An empty uid matches any pod of the name, an
// empty container only the pod.
func (m *Manager) Find(namespace, name string, uid types.UID, container string, previous bool) (Place, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range m.actors {
		a.mu.Lock()
		pod, rt := a.pod, a.runtime
		a.mu.Unlock()
		if pod.Namespace != namespace || pod.Name != name || uid != "" && pod.UID != uid {
			continue
		}
		return m.place(pod, rt, container, previous)
	}
	return Place{}, fmt.Errorf("pod %s/%s: %w", namespace, name, ErrNotFound)
}

func (m *Manager) place(pod *corev1.Pod, rt observed.Pod, container string, previous bool) (Place, error) {
	p := Place{Pod: pod}
	if s := rt.Sandbox(); s != nil {
		p.SandboxID = s.ID
	}
	if container == "" {
		return p, nil
	}
	runs := rt.Containers[container]
	if previous && len(runs) > 0 {
		runs = runs[1:]
	}
	if len(runs) == 0 {
		return p, fmt.Errorf("container %q of pod %s/%s: %w", container, pod.Namespace, pod.Name, ErrNotFound)
	}
	p.ContainerID, p.Running = runs[0].ID, runs[0].State == observed.Running
	if p.LogPath = runs[0].LogPath; p.LogPath == "" {
		p.LogPath = filepath.Join(m.conf.Node.LogRoot, translate.LogFolder(pod), translate.LogFile(container, runs[0].Attempt))
	}
	return p, nil
}

// Evict ends a pod to save the node: it stays in the API as Failed with the reason. It says whether it does so only now.
func (m *Manager) Evict(uid types.UID, e pressure.Eviction) bool {
	a := m.lookup(uid)
	if a == nil {
		return false
	}
	a.mu.Lock()
	fresh := a.evicted == nil && !a.over
	if fresh {
		a.evicted = &Ending{Grace: e.Grace, Reason: e.Reason, Message: e.Message, Disrupted: e.Disrupted}
	}
	pod := a.pod
	a.mu.Unlock()
	if fresh {
		m.event(pod, corev1.EventTypeWarning, e.Reason, "%s", e.Message)
		a.poke()
	}
	return fresh
}

// Told: has the pod ended, and does the API know?
func (m *Manager) Told(uid types.UID) bool {
	a := m.lookup(uid)
	if a == nil {
		return true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reported || a.over
}

// Holding are the pods that hold something of this node.
func (m *Manager) Holding() []pressure.Pod {
	var pods []pressure.Pod
	for _, a := range m.all() {
		a.mu.Lock()
		if a.holds() {
			one := pressure.Pod{
				Pod: a.pod, Volumes: maps.Clone(a.volumes), Running: map[string]string{},
				Ending: a.evicted != nil || a.gone || a.pod.DeletionTimestamp != nil || ended(a.pod),
			}
			for _, c := range a.runtime.Running() {
				one.Running[c.Name] = c.ID
			}
			pods = append(pods, one)
		}
		a.mu.Unlock()
	}
	return pods
}

// Sweep asks for containers to go that ended and only serve looking back.
func (m *Manager) Sweep() {
	for _, a := range m.all() {
		a.mu.Lock()
		a.sweep = true
		a.mu.Unlock()
		a.poke()
	}
}
