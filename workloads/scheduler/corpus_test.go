package scheduler

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"

	"knarr.dev/knarr/workloads/scheduler/corpus"
	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// TestCorpus holds the rules against the stated decisions. test/decisions holds other schedulers against them.
func TestCorpus(t *testing.T) {
	cases := corpus.Cases()
	if len(cases) < 300 {
		t.Errorf("%d cases, want at least 300", len(cases))
	}
	for _, tc := range cases {
		t.Run(tc.Name, func(t *testing.T) {
			snap, pod := picture(tc), snapshot.NewPod(tc.Pod)
			var fits []string
			filters := ready(pod, snap)
			for _, n := range snap.Nodes() {
				if _, ok := judge(pod, n, snap, filters); ok {
					fits = append(fits, n.Name)
				}
			}
			if diff := cmp.Diff(sorted(tc.Fits), sorted(fits)); diff != "" {
				t.Errorf("nodes that will do (-want +got):\n%s", diff)
			}
			if tc.Best == nil {
				return
			}
			if diff := cmp.Diff(sorted(tc.Best), bestOf(pod, snap)); diff != "" {
				t.Errorf("best nodes (-want +got):\n%s", diff)
			}
		})
	}
}

// picture is the cluster of a case.
func picture(c corpus.Case) *snapshot.Snapshot {
	snap := snapshot.New()
	for _, o := range c.Objects {
		switch o := o.(type) {
		case *corev1.Namespace:
			snap.SetNamespace(o)
		case *corev1.Node:
			snap.SetNode(o)
		case *corev1.Pod:
			if o.Status.Phase != corev1.PodSucceeded && o.Status.Phase != corev1.PodFailed {
				snap.SetPod(o)
			}
		case *corev1.Service:
			snap.SetService(o)
		case *corev1.PersistentVolumeClaim:
			snap.SetClaim(o)
		case *corev1.PersistentVolume:
			snap.SetVolume(o)
		case *storagev1.StorageClass:
			snap.SetClass(o)
		case *storagev1.CSIDriver:
			snap.SetDriver(o)
		case *storagev1.CSINode:
			snap.SetCSINode(o)
		case *storagev1.CSIStorageCapacity:
			snap.SetCapacity(o)
		case *resourcev1.ResourceClaim:
			snap.SetResourceClaim(o)
		case *resourcev1.ResourceSlice:
			snap.SetResourceSlice(o)
		case *resourcev1.DeviceClass:
			snap.SetDeviceClass(o)
		}
	}
	return snap
}

// bestOf asks for each of the equals in turn.
func bestOf(pod *snapshot.Pod, snap *snapshot.Snapshot) (nodes []string) {
	equals := 1
	for i := 0; i < equals; i++ {
		d := decide(context.Background(), pod, snap, ordinary(), 0, func(n int) int { equals = n; return i })
		nodes = append(nodes, d.node)
	}
	return sorted(nodes)
}

func sorted(names []string) []string {
	own := append([]string{}, names...) // none is none, however it came about
	slices.Sort(own)
	return own
}
