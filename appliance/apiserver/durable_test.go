package apiserver_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestEveryAnswerWaitsForTheDisk counts what the datastore syncs: writes one after another cannot share a sync, so there
// are as many as answers. That nothing is lost when the process is killed is test/hostile's; a kill loses nothing that
// the kernel has, synced or not.
func TestEveryAnswerWaitsForTheDisk(t *testing.T) {
	const writes = 20
	client, ns := inNamespace(t)
	before := syncs(t)
	for i := range writes {
		object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("write-%d", i)}}
		if _, err := client.CoreV1().ConfigMaps(ns).Create(context.Background(), object, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if got := syncs(t) - before; got < writes {
		t.Errorf("%d writes were acknowledged after %d syncs", writes, got)
	}
}

// syncs is how often the datastore's log was synced since the process began.
func syncs(t *testing.T) uint64 {
	t.Helper()
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == "etcd_disk_wal_fsync_duration_seconds" {
			return family.GetMetric()[0].GetHistogram().GetSampleCount()
		}
	}
	t.Fatal("the datastore does not say how often it synced")
	return 0
}
