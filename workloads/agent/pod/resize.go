package pod

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/workloads/agent/observed"
	"knarr.dev/knarr/workloads/agent/translate"
)

// sameResources: do both versions of a pod ask for the same?
func sameResources(old, pod *corev1.Pod) bool {
	asked := func(p *corev1.Pod) []corev1.ResourceRequirements {
		var list []corev1.ResourceRequirements
		if p.Spec.Resources != nil {
			list = append(list, *p.Spec.Resources)
		}
		for _, containers := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
			for i := range containers {
				list = append(list, containers[i].Resources)
			}
		}
		return list
	}
	return apiequality.Semantic.DeepEqual(asked(old), asked(pod))
}

// resize holds the pod and its running containers to what they ask for. A group is never told less than what lies in it
// has, which the kernel refuses: what grows begins outside, and what shrinks inside.
func (m *Manager) resize(ctx context.Context, a *actor, pod *corev1.Pod) error {
	a.mu.Lock()
	running := a.runtime.Running()
	a.mu.Unlock()
	for i := range running {
		if c := translate.Find(pod, running[i].Name); c != nil {
			if err := m.conf.Cgroups.Fits(pod, running[i].ID, running[i].Wanted(c).Memory); err != nil {
				return a.stillResizing(fmt.Errorf("resize container %s: %w", c.Name, err))
			}
		}
	}
	_, outside := m.conf.Cgroups.EnsurePod(pod) // fails while a container has more than the pod will have
	for i := range running {
		if err := m.resizeContainer(ctx, a, pod, &running[i]); err != nil {
			return a.stillResizing(err)
		}
	}
	if outside != nil {
		_, outside = m.conf.Cgroups.EnsurePod(pod)
	}
	if outside != nil {
		return a.stillResizing(fmt.Errorf("resize pod: %w", outside))
	}
	a.mu.Lock()
	a.resized, a.resizeError = !sameResources(pod, a.pod), "" // again, if it changed meanwhile
	a.mu.Unlock()
	m.retryResizes()
	return nil
}

func (m *Manager) resizeContainer(ctx context.Context, a *actor, pod *corev1.Pod, running *observed.Container) error {
	c := translate.Find(pod, running.Name)
	if c == nil || running.Bounds == (translate.Bounds{}) {
		return nil
	}
	want := running.Wanted(c)
	if running.Bounds == want || restartsFor(c, running.Bounds, want) {
		return nil
	}
	_, err := m.conf.Runtime.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{
		ContainerId: running.ID, Linux: want.Change(running.Bounds),
	})
	if err != nil {
		return fmt.Errorf("resize container %s: %w", c.Name, err)
	}
	a.mu.Lock()
	a.bounds[running.ID] = want
	a.mu.Unlock()
	m.event(pod, corev1.EventTypeNormal, "ResizeCompleted", "Container %s was resized", c.Name)
	return nil
}

// stillResizing keeps an error for the pod's condition.
func (a *actor) stillResizing(err error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.resizeError = err.Error()
	return err
}

// knowBounds puts what was changed since into what the runtime was seen to have; a.mu is held. The runtime is not asked
// again about containers that run.
func (a *actor) knowBounds() {
	live := map[string]bool{}
	for _, runs := range a.runtime.Containers {
		for i := range runs {
			live[runs[i].ID] = true
			if b, ok := a.bounds[runs[i].ID]; ok {
				runs[i].Bounds = b
			}
			if cpus, ok := a.moved[runs[i].ID]; ok {
				runs[i].CPUs = cpus
			}
		}
	}
	for id := range a.bounds {
		if !live[id] {
			delete(a.bounds, id)
		}
	}
	for id := range a.moved {
		if !live[id] {
			delete(a.moved, id)
		}
	}
}
