package pod

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestBurst is a measurement: how long pods take from their creation to Running, alone and fifty at once. It fails only
// when pods do not get there, because what else runs on the machine decides the rest.
func TestBurst(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a while")
	}
	m := newMachine(t)
	var alone []time.Duration
	for i := range 10 {
		name := fmt.Sprintf("alone-%d", i)
		began := time.Now()
		m.create(named(name, app("sleep")))
		m.await(name, "running", hasPhase(corev1.PodRunning))
		alone = append(alone, time.Since(began))
		m.deletePod(name, 0)
		m.await(name, "gone", isGone)
	}
	slices.Sort(alone)
	t.Logf("alone: p50 %v, max %v", alone[len(alone)/2], alone[len(alone)-1])

	const burst = 50
	began := time.Now()
	for i := range burst {
		m.create(named(fmt.Sprintf("burst-%d", i), app("sleep")))
	}
	for i := range burst {
		m.await(fmt.Sprintf("burst-%d", i), "running", hasPhase(corev1.PodRunning))
	}
	t.Logf("%d at once: %v", burst, time.Since(began))
	var mem runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&mem)
	t.Logf("heap with %d pods: %d MiB, goroutines %d", burst, mem.HeapAlloc>>20, runtime.NumGoroutine())
	if fds, err := os.ReadDir("/proc/self/fd"); err == nil {
		t.Logf("open files with %d pods: %d", burst, len(fds))
	}

	began = time.Now()
	for i := range burst {
		m.deletePod(fmt.Sprintf("burst-%d", i), 0)
	}
	for i := range burst {
		m.await(fmt.Sprintf("burst-%d", i), "gone", isGone)
	}
	t.Logf("%d deleted: %v", burst, time.Since(began))
}
