package workloads_test

import (
	"flag"
	"fmt"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var resynced = flag.Int("resync", 0, "Deployments of ten pods each to measure the cost of looking at everything again with; a machine's minutes")

// TestWhatAResyncCosts measures the CPU of looking at everything again when there is nothing to do. It is the controllers'
// and the scheduler's, and includes what the API server and the datastore of this process do about it: nothing, if all is well.
func TestWhatAResyncCosts(t *testing.T) {
	if *resynced == 0 {
		t.Skip("a measurement: -resync 1000")
	}
	ns := newNamespace(t, "resync")
	for i := range *resynced/10 + 1 {
		addNode(t, fmt.Sprint("resync-", i))
	}
	for i := range *resynced {
		create(t, newDeployment(ns, fmt.Sprint("web-", i), "app:1", 10))
	}
	running := 0
	for deadline := time.Now().Add(10 * time.Minute); running < *resynced*10; {
		if time.Now().After(deadline) {
			t.Fatalf("%d pods run after ten minutes", running)
		}
		<-time.After(5 * time.Second) // ten thousand pods are a lot to ask for, beside what is to make them
		var pods metav1.PartialObjectMetadataList
		pods.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("PodList"))
		if err := api.List(t.Context(), &pods, client.InNamespace(ns), client.MatchingFields{"status.phase": "Running"}); err != nil {
			t.Fatal(err)
		}
		running = len(pods.Items)
	}
	const window, times = 60 * time.Second, 3
	t.Cleanup(func() { control.resync = 0; control.restart(t) })
	var spent [2]time.Duration
	for i, every := range []time.Duration{0, window / times} {
		control.resync = every
		control.restart(t)
		<-time.After(15 * time.Second) // of looking at everything for the first time
		before := cpu(t)
		<-time.After(window)
		spent[i] = cpu(t) - before
	}
	t.Logf("%d pods of %d Deployments: %v of CPU in %v at rest, %v with %d resyncs, so %v each", running, *resynced, spent[0], window, spent[1], times, (spent[1]-spent[0])/times)
}

func cpu(t *testing.T) time.Duration {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		t.Fatal(err)
	}
	return time.Duration(use.Utime.Nano() + use.Stime.Nano())
}
