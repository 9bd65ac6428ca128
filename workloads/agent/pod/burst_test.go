package pod

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Many pods at once get there, cost nothing once they run, and leave nothing. How fast is test/bench's to measure.
func TestManyPodsAtOnce(t *testing.T) {
	m := newMachine(t)
	const many = 20
	var pods []*corev1.Pod
	began := time.Now()
	for i := range many {
		pods = append(pods, m.create(named(fmt.Sprintf("burst-%d", i), app("sleep"))))
	}
	for _, pod := range pods {
		m.await(pod.Name, "running", hasPhase(corev1.PodRunning))
	}
	t.Logf("%d pods run after %v", many, time.Since(began))
	for end := time.Now().Add(10 * time.Second); m.busy(); m.tick() {
		if time.Now().After(end) {
			t.Fatal("actors of settled pods find something to do")
		}
	}
	began = time.Now()
	for _, pod := range pods {
		m.deletePod(pod.Name, 0)
	}
	for _, pod := range pods {
		m.await(pod.Name, "gone", isGone)
		m.traceless(pod)
	}
	t.Logf("%d pods are gone after %v", many, time.Since(began))
}

// A pod that goes while it is still on its way leaves no process: a shim that was not told how it started would stay.
func TestPodsThatGoOnTheirWayLeaveNoShim(t *testing.T) {
	m := newMachine(t)
	var pods []*corev1.Pod
	for i := range 24 {
		pods = append(pods, m.create(named(fmt.Sprintf("hasty-%d", i), app("sleep"))))
		for range i { // each a little further on its way
			m.tick()
		}
		m.deletePod(pods[i].Name, 0)
	}
	for _, pod := range pods {
		m.await(pod.Name, "gone", isGone)
		m.traceless(pod)
	}
	left := m.shims()
	for end := time.Now().Add(5 * time.Second); len(left) > 0 && time.Now().Before(end); left = m.shims() {
		m.tick() // the last ones take a moment to end
	}
	if len(left) > 0 {
		t.Errorf("shims left: %v", left)
	}
}

// busy says whether any actor has a pass, a step, a write or a timer.
func (m *machine) busy() bool {
	m.manager.mu.Lock()
	defer m.manager.mu.Unlock()
	for _, a := range m.manager.actors {
		a.mu.Lock()
		busy := a.passing || len(a.busy) > 0 || a.writing || a.timer != nil
		a.mu.Unlock()
		if busy {
			return true
		}
	}
	return false
}
