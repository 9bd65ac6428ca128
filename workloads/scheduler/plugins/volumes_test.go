package plugins

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// shelf is a cluster of one node, a free volume, a class that waits for pods and claims of it.
func shelf(t *testing.T, provisioner string, names ...string) (client.Client, *snapshot.Snapshot) {
	t.Helper()
	objects := []client.Object{&corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "v", ResourceVersion: "1"}, Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
		Spec: corev1.PersistentVolumeSpec{StorageClassName: "late"},
	}}
	for _, name := range names {
		objects = append(objects, &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), ResourceVersion: "1"},
			Spec:       corev1.PersistentVolumeClaimSpec{StorageClassName: ptr.To("late")},
		})
	}
	api := fake.NewClientBuilder().WithObjects(objects...).Build()
	snap := cluster(nodeWith("a"), nodeWith("b"))
	snap.SetClass(&storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "late"}, Provisioner: provisioner, VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer),
	})
	show(t, api, snap, append(names, "v")...)
	return api, snap
}

// show has the snapshot see what the API has.
func show(t *testing.T, api client.Client, snap *snapshot.Snapshot, names ...string) {
	t.Helper()
	for _, name := range names {
		c, v := &corev1.PersistentVolumeClaim{}, &corev1.PersistentVolume{}
		if api.Get(t.Context(), types.NamespacedName{Namespace: "shop", Name: name}, c) == nil {
			snap.SetClaim(c)
		}
		if api.Get(t.Context(), types.NamespacedName{Name: name}, v) == nil {
			snap.SetVolume(v)
		}
	}
}

func podUsing(claim string) *snapshot.Pod {
	p := podAsking("of-" + claim)
	p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}
	return snapshot.NewPod(p)
}

func TestAVolumeIsTakenOnce(t *testing.T) {
	api, snap := shelf(t, volume.NotSupportedProvisioner, "one", "two")
	rule := Volumes{}
	first, err := rule.Reserve(podUsing("one"), snap, snap.Node("a"))
	if err != nil {
		t.Fatal(err)
	}
	if got := refusals(rule, podUsing("two").Object, snap); got["a"] != noVolume || got["b"] != noVolume {
		t.Errorf("the volume is taken, a second pod is refused by %v", got)
	}
	if change := first.Undo(snap); change.Kind != snapshot.StorageChanged {
		t.Errorf("giving it back changes %v", change.Kind)
	}
	if got := refusals(rule, podUsing("two").Object, snap); len(got) > 0 {
		t.Errorf("the volume was given back, a second pod is refused by %v", got)
	}
	first, err = rule.Reserve(podUsing("one"), snap, snap.Node("a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := first.PreBind(t.Context(), api); err != nil {
		t.Fatal(err)
	}
	show(t, api, snap, "v")
	if v := snap.Volume("v").Object; v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != "one" {
		t.Errorf("the volume is reserved for %v", v.Spec.ClaimRef)
	}
	if may, err := first.Permit(snap); may || err != nil {
		t.Errorf("Permit() = %v, %v before the claim is bound", may, err)
	}
	c := snap.Claim("shop", "one").DeepCopy()
	c.Spec.VolumeName, c.Annotations = "v", map[string]string{volume.AnnBindCompleted: "yes"}
	snap.SetClaim(c)
	if may, err := first.Permit(snap); !may || err != nil {
		t.Errorf("Permit() = %v, %v when the claim is bound", may, err)
	}
}

func TestAVolumeIsMadeForANode(t *testing.T) {
	api, snap := shelf(t, "maker.example", "one")
	snap.RemoveVolume(&corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}})
	rule := Volumes{}
	r, err := rule.Reserve(podUsing("one"), snap, snap.Node("b"))
	if err != nil {
		t.Fatal(err)
	}
	if got := refusals(rule, podUsing("one").Object, snap); got["a"] != noVolume || got["b"] != "" {
		t.Errorf("the volume is made for b, a second pod of the claim is refused by %v", got)
	}
	if err := r.PreBind(t.Context(), api); err != nil {
		t.Fatal(err)
	}
	if may, err := r.Permit(snap); may || err != nil {
		t.Errorf("Permit() = %v, %v before the cache shows anything", may, err)
	}
	show(t, api, snap, "one")
	if got := snap.Claim("shop", "one").Annotations[volume.AnnSelectedNode]; got != "b" {
		t.Errorf("the claim is for node %q", got)
	}
	if may, err := r.Permit(snap); may || err != nil {
		t.Errorf("Permit() = %v, %v before the volume is made", may, err)
	}
	given := snap.Claim("shop", "one").DeepCopy()
	delete(given.Annotations, volume.AnnSelectedNode)
	if err := api.Update(t.Context(), given); err != nil {
		t.Fatal(err)
	}
	show(t, api, snap, "one")
	if _, err := r.Permit(snap); err == nil || !strings.Contains(err.Error(), "gave claim one back") {
		t.Errorf("Permit() = %v, want it to say that the provisioner gave the claim back", err)
	}
}

func TestAVolumeThatCannotBeWrittenIsNotTaken(t *testing.T) {
	api, snap := shelf(t, volume.NotSupportedProvisioner, "one")
	r, err := Volumes{}.Reserve(podUsing("one"), snap, snap.Node("a"))
	if err != nil {
		t.Fatal(err)
	}
	v := &corev1.PersistentVolume{}
	if err := api.Get(t.Context(), types.NamespacedName{Name: "v"}, v); err != nil {
		t.Fatal(err)
	}
	v.Labels = map[string]string{"changed": "meanwhile"}
	if err := api.Update(t.Context(), v); err != nil {
		t.Fatal(err)
	}
	if err := r.PreBind(t.Context(), api); err == nil {
		t.Error("PreBind() overwrote a volume that had changed")
	}
}
