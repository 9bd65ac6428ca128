package scheduler

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

func uses(claim string) podChange {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: claim, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
		}})
	}
}

func usesOwn(name string) podChange {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}})
	}
}

// claim is one of a class, bound to a volume unless that is "".
func claim(name, class, volume string, changes ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name)},
		Spec:       corev1.PersistentVolumeClaimSpec{StorageClassName: &class, VolumeName: volume},
		Status:     corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
	if volume != "" {
		c.Status.Phase = corev1.ClaimBound
	}
	for _, change := range changes {
		change(c)
	}
	return c
}

func sole(c *corev1.PersistentVolumeClaim) {
	c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOncePod}
}

// volumeOn is one only that host reaches, or all when it is "".
func volumeOn(name, host string) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if host != "" {
		v.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{host}}},
		}}}}
	}
	return v
}

func TestDecideAboutVolumes(t *testing.T) {
	class := func(name string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
		return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Provisioner: volume.NotSupportedProvisioner, VolumeBindingMode: ptr.To(mode)}
	}
	tests := map[string]struct {
		there   []*corev1.Pod
		claims  []*corev1.PersistentVolumeClaim
		volumes []*corev1.PersistentVolume
		pod     *corev1.Pod
		want    string
		why     string
	}{
		"a pod goes where its volume is": {
			claims: []*corev1.PersistentVolumeClaim{claim("data", "now", "v")}, volumes: []*corev1.PersistentVolume{volumeOn("v", "b")},
			pod: like("p", "1", uses("data")), want: "b",
		},
		"a volume reached from everywhere does not matter": {
			claims: []*corev1.PersistentVolumeClaim{claim("data", "now", "v")}, volumes: []*corev1.PersistentVolume{volumeOn("v", "")},
			pod: like("p", "1", uses("data")), want: "a",
		},
		"volumes on two nodes": {
			claims:  []*corev1.PersistentVolumeClaim{claim("data", "now", "v"), claim("logs", "now", "w")},
			volumes: []*corev1.PersistentVolume{volumeOn("v", "a"), volumeOn("w", "b")},
			pod:     like("p", "1", uses("data"), uses("logs")), why: "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity.",
		},
		"a claim one pod at a time may use is free": {
			claims: []*corev1.PersistentVolumeClaim{claim("data", "now", "v", sole)}, volumes: []*corev1.PersistentVolume{volumeOn("v", "")},
			there: []*corev1.Pod{like("q", "1", placed("b"), uses("other"))}, pod: like("p", "1", uses("data")), want: "a",
		},
		"a claim one pod at a time may use is taken": {
			claims: []*corev1.PersistentVolumeClaim{claim("data", "now", "v", sole)}, volumes: []*corev1.PersistentVolume{volumeOn("v", "")},
			there: []*corev1.Pod{like("q", "1", placed("b"), uses("data"))}, pod: like("p", "1", uses("data")),
			why: "0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode.",
		},
		"a claim that is not there": {
			pod: like("p", "1", uses("data")), why: `0/2 nodes are available: persistentvolumeclaim "data" not found.`,
		},
		"a claim that ends": {
			claims: []*corev1.PersistentVolumeClaim{claim("data", "now", "v", func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = &metav1.Time{} })},
			pod:    like("p", "1", uses("data")), why: `0/2 nodes are available: persistentvolumeclaim "data" is being deleted.`,
		},
		"a claim whose volume was lost": {
			claims: []*corev1.PersistentVolumeClaim{claim("data", "now", "v", func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimLost })},
			pod:    like("p", "1", uses("data")), why: `0/2 nodes are available: persistentvolumeclaim "data" bound to non-existent persistentvolume "v".`,
		},
		"a claim that is bound to what is not there": {
			claims: []*corev1.PersistentVolumeClaim{claim("data", "now", "v")},
			pod:    like("p", "1", uses("data")), why: "0/2 nodes are available: 2 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s).",
		},
		"a claim that is not bound yet": {
			claims: []*corev1.PersistentVolumeClaim{claim("data", "now", "")},
			pod:    like("p", "1", uses("data")), why: "0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.",
		},
		"a claim that waits for its pod's node": {
			claims: []*corev1.PersistentVolumeClaim{claim("data", "later", "")},
			pod:    like("p", "1", uses("data")), why: "0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind.",
		},
		"a claim of its own that is not made yet": {
			pod: like("p", "1", usesOwn("scratch")),
			why: `0/2 nodes are available: waiting for ephemeral volume controller to create the persistentvolumeclaim "p-scratch".`,
		},
		"a claim by the name of its own that is another's": {
			claims: []*corev1.PersistentVolumeClaim{claim("p-scratch", "now", "v")}, volumes: []*corev1.PersistentVolume{volumeOn("v", "")},
			pod: like("p", "1", usesOwn("scratch")),
			why: "0/2 nodes are available: PVC shop/p-scratch was not created for pod shop/p (pod is not owner).",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			snap := world([]*corev1.Node{with("a", "4"), with("b", "2")}, tc.there)
			snap.SetClass(class("now", storagev1.VolumeBindingImmediate))
			snap.SetClass(class("later", storagev1.VolumeBindingWaitForFirstConsumer))
			for _, c := range tc.claims {
				snap.SetClaim(c)
			}
			for _, v := range tc.volumes {
				snap.SetVolume(v)
			}
			d := decide(context.Background(), snapshot.NewPod(tc.pod), snap, ordinary(), 0, func(int) int { return 0 })
			if d.node != tc.want {
				t.Fatalf("decide() = %q (%s), want %q", d.node, d.explain(), tc.want)
			}
			if tc.want == "" && d.explain() != tc.why {
				t.Errorf("decide() says\n%s\nwant\n%s", d.explain(), tc.why)
			}
		})
	}
}

func TestPreemptFreesAClaim(t *testing.T) {
	snap := world([]*corev1.Node{with("a", "4"), with("b", "4")}, []*corev1.Pod{like("q", "1", placed("b"), uses("data")), like("r", "1", placed("b"))})
	snap.SetClaim(claim("data", "", "v", sole))
	snap.SetVolume(volumeOn("v", ""))
	pod := snapshot.NewPod(like("p", "1", uses("data"), priority(10)))
	d := decide(context.Background(), pod, snap, ordinary(), 0, nil)
	open, against := clearable(pod, snap, &d, 0)
	got := leastHarm(clearings(trying(pod, snap, ready(pod, snap), nil), open, against, ordinary().candidates))
	if got == nil || got.node != "b" || len(got.victims) != 1 || got.victims[0].Object.Name != "q" {
		t.Errorf("preempt() = %+v, want the claim's user to leave b", got)
	}
}

func TestSchedulerWaitsForAClaimToBeBound(t *testing.T) {
	pending := claim("data", "", "")
	c := start(t, node("a", "4"), node("b", "4"), volumeOn("v", "b"), pending, like("p", "1", uses("data")))
	c.await("p", refusedFor("0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. "+
		"preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."))
	c.watching.Wait()
	pending.Spec.VolumeName, pending.Annotations = "v", map[string]string{volume.AnnBindCompleted: "yes"}
	if err := c.client.Update(t.Context(), pending); err != nil {
		t.Fatal(err)
	}
	c.await("p", on("b"))
}
