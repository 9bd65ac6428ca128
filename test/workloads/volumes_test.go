package workloads_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// disks are the folders of the nodes that are played here.
type disks struct{ root string }

func (d disks) Make(_ context.Context, node, volume string) (string, error) {
	path := filepath.Join(d.root, node, volume)
	return path, os.MkdirAll(path, 0o700)
}

func (d disks) Remove(_ context.Context, node, volume string) error {
	return os.RemoveAll(filepath.Join(d.root, node, volume))
}

func newClaim(ns, name string, class *string, size string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}},
		},
	}
}

func withClaim(ns, name, claim string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "app", Image: "app:1"}},
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim},
			}}},
		},
	}
}

func TestAClaimTakesAVolumeAndGivesItBack(t *testing.T) {
	ns := newNamespace(t, "kept")
	volume := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "shelf"},
		Spec: corev1.PersistentVolumeSpec{
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/shelf"}},
		},
	}
	claim := newClaim(ns, "data", ptr.To(""), "1Gi")
	create(t, claim)
	wantEvents(t, ns, "FailedBinding")
	create(t, volume)
	bound := eventually(t, &corev1.PersistentVolumeClaim{}, ns, "data", "bound", func(c *corev1.PersistentVolumeClaim) bool {
		return c.Status.Phase == corev1.ClaimBound
	})
	if got := bound.Status.Capacity[corev1.ResourceStorage]; bound.Spec.VolumeName != "shelf" || got.String() != "2Gi" {
		t.Errorf("claim got %s of %s", bound.Spec.VolumeName, got.String())
	}
	eventually(t, &corev1.PersistentVolume{}, "", "shelf", "bound", func(v *corev1.PersistentVolume) bool { return v.Status.Phase == corev1.VolumeBound })
	if err := api.Delete(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	eventually(t, &corev1.PersistentVolume{}, "", "shelf", "released", func(v *corev1.PersistentVolume) bool { return v.Status.Phase == corev1.VolumeReleased })
	if err := api.Delete(t.Context(), volume); err != nil {
		t.Fatal(err)
	}
}

func TestAVolumeIsMadeWhereItsPodGoes(t *testing.T) {
	addNode(t, "cellar")
	ns := newNamespace(t, "local")
	claim := newClaim(ns, "data", nil, "1Gi")
	create(t, claim)
	wantEvents(t, ns, "WaitForFirstConsumer")
	pod := withClaim(ns, "first", "data")
	create(t, pod)
	placed := eventually(t, &corev1.Pod{}, ns, "first", "placed", func(p *corev1.Pod) bool { return p.Spec.NodeName != "" })
	bound := eventually(t, &corev1.PersistentVolumeClaim{}, ns, "data", "bound", func(c *corev1.PersistentVolumeClaim) bool {
		return c.Status.Phase == corev1.ClaimBound
	})
	volume := eventually(t, &corev1.PersistentVolume{}, "", bound.Spec.VolumeName, "bound", func(v *corev1.PersistentVolume) bool { return v.Status.Phase == corev1.VolumeBound })
	if _, err := os.Stat(volume.Spec.Local.Path); err != nil || filepath.Base(filepath.Dir(volume.Spec.Local.Path)) != placed.Spec.NodeName {
		t.Errorf("the volume of a pod on %s is %s: %v", placed.Spec.NodeName, volume.Spec.Local.Path, err)
	}
	create(t, withClaim(ns, "second", "data"))
	eventually(t, &corev1.Pod{}, ns, "second", "placed beside it", func(p *corev1.Pod) bool { return p.Spec.NodeName == placed.Spec.NodeName })
	wantEvents(t, ns, "ExternalProvisioning", "ProvisioningSucceeded")
	if err := errors.Join(api.Delete(t.Context(), pod), api.Delete(t.Context(), withClaim(ns, "second", "data")), api.Delete(t.Context(), claim)); err != nil {
		t.Fatal(err)
	}
	eventuallyGone(t, &corev1.PersistentVolume{}, "", volume.Name)
	if _, err := os.Stat(volume.Spec.Local.Path); !os.IsNotExist(err) {
		t.Errorf("the folder of a volume that is gone: %v", err)
	}
}

// TestAVolumeLivesAsLongAsItsPod is the life of a generic ephemeral volume.
func TestAVolumeLivesAsLongAsItsPod(t *testing.T) {
	addNode(t, "attic")
	ns := newNamespace(t, "scratch")
	eventually(t, &corev1.ServiceAccount{}, ns, "default", "there", func(*corev1.ServiceAccount) bool { return true })
	pod := withClaim(ns, "builder", "")
	pod.Spec.Volumes[0].VolumeSource = corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
		VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: newClaim(ns, "", nil, "1Gi").Spec},
	}}
	create(t, pod)
	eventually(t, &corev1.Pod{}, ns, "builder", "running", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	claim := eventually(t, &corev1.PersistentVolumeClaim{}, ns, "builder-data", "bound to the pod", func(c *corev1.PersistentVolumeClaim) bool {
		return c.Status.Phase == corev1.ClaimBound && metav1.IsControlledBy(c, pod)
	})
	if err := api.Delete(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	eventuallyGone(t, &corev1.PersistentVolumeClaim{}, ns, claim.Name)
	eventuallyGone(t, &corev1.PersistentVolume{}, "", claim.Spec.VolumeName)
}
