package pod

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"knarr.dev/knarr/workloads/agent/translate"
)

// Where containers run is decided elsewhere (Places). A container is made there; when what all share becomes less or more,
// every pod looks again, and moves those that run.

// placeOf is where one container is to run.
func (m *Manager) placeOf(pod types.UID, container string) translate.Place {
	if m.conf.Places == nil {
		return translate.Place{}
	}
	return m.conf.Places.Of(pod, container)
}

// cpus are those running containers are to run on; a.mu is held.
func (a *actor) cpus() map[string]string {
	if a.m.conf.Places == nil {
		return nil
	}
	cpus := map[string]string{}
	for _, c := range a.runtime.Running() {
		cpus[c.Name] = a.m.placeOf(a.uid, c.Name).CPUs
	}
	return cpus
}

// Replace has every pod look whether its containers run where they are to.
func (m *Manager) Replace() {
	for _, a := range m.all() {
		a.poke()
	}
}

// move tells the kernel on which CPUs a pod's running containers may run.
func (m *Manager) move(ctx context.Context, a *actor) error {
	a.mu.Lock()
	running, wanted := a.runtime.Running(), a.cpus()
	a.mu.Unlock()
	var errs []error
	for _, c := range running {
		cpus := wanted[c.Name]
		if cpus == "" || cpus == c.CPUs {
			continue
		}
		_, err := m.conf.Runtime.UpdateContainerResources(ctx, &runtimeapi.UpdateContainerResourcesRequest{
			ContainerId: c.ID, Linux: &runtimeapi.LinuxContainerResources{CpusetCpus: cpus},
		})
		if err != nil && !errdefs.IsNotFound(err) { // others are not held up by one that cannot be moved
			errs = append(errs, fmt.Errorf("move container %s to CPUs %s: %w", c.Name, cpus, err))
			continue
		}
		a.mu.Lock()
		a.moved[c.ID] = cpus
		a.mu.Unlock()
	}
	return errors.Join(errs...)
}

// settlePlaces decides where a static pod that is new here runs: nobody else lets it in.
func (m *Manager) settlePlaces(a *actor) {
	a.mu.Lock()
	pod := a.pod
	a.mu.Unlock()
	if m.conf.Places == nil || pod.Status.StartTime != nil {
		return
	}
	if e := m.unequipped(pod); e != nil {
		a.mu.Lock()
		a.evicted, a.rejected = e, true
		a.mu.Unlock()
		m.event(pod, corev1.EventTypeWarning, e.Reason, "%s", e.Message)
	}
}
