package localpath

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

func claim(changes ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data", UID: "1", Annotations: map[string]string{volume.AnnStorageProvisioner: Provisioner, volume.AnnSelectedNode: "a"}},
		Spec:       corev1.PersistentVolumeClaimSpec{StorageClassName: ptr.To(ClassName), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}},
	}
	for _, change := range changes {
		change(c)
	}
	return c
}

func TestRefuses(t *testing.T) {
	tests := map[string]struct {
		claim *corev1.PersistentVolumeClaim
		want  string // part of it
	}{
		"an ordinary claim":          {claim: claim()},
		"one pod at a time":          {claim: claim(func(c *corev1.PersistentVolumeClaim) { c.Spec.AccessModes[0] = corev1.ReadWriteOncePod })},
		"many machines":              {claim: claim(func(c *corev1.PersistentVolumeClaim) { c.Spec.AccessModes[0] = corev1.ReadWriteMany }), want: "ReadWriteOnce"},
		"readers on many machines":   {claim: claim(func(c *corev1.PersistentVolumeClaim) { c.Spec.AccessModes[0] = corev1.ReadOnlyMany }), want: "ReadWriteOnce"},
		"a block device":             {claim: claim(func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) }), want: "Filesystem"},
		"a class that binds at once": {claim: claim(func(c *corev1.PersistentVolumeClaim) { delete(c.Annotations, volume.AnnSelectedNode) }), want: "WaitForFirstConsumer"},
		"a copy of something":        {claim: claim(func(c *corev1.PersistentVolumeClaim) { c.Spec.DataSource = &corev1.TypedLocalObjectReference{} }), want: "starts empty"},
		"a selector":                 {claim: claim(func(c *corev1.PersistentVolumeClaim) { c.Spec.Selector = &metav1.LabelSelector{} }), want: "remove selector"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			err := refuses(tc.claim)
			if (err == nil) != (tc.want == "") || (err != nil && !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("refuses() = %v, want %q", err, tc.want)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	tests := map[string]struct {
		phase    corev1.PersistentVolumePhase
		going    bool
		retained bool
		want     end
	}{
		"a bound one stays":                            {phase: corev1.VolumeBound},
		"a bound one stays while it is deleted":        {phase: corev1.VolumeBound, going: true},
		"one that is just made stays":                  {phase: corev1.VolumePending},
		"a released one is deleted":                    {phase: corev1.VolumeReleased, want: deleteIt},
		"a released one that goes is deleted":          {phase: corev1.VolumeReleased, going: true, want: deleteIt},
		"a released one to be kept stays":              {phase: corev1.VolumeReleased, retained: true},
		"one to be kept goes without its folder":       {phase: corev1.VolumeReleased, retained: true, going: true, want: letGo},
		"a failed one stays":                           {phase: corev1.VolumeFailed},
		"a failed one that goes is deleted":            {phase: corev1.VolumeFailed, going: true, want: deleteIt},
		"one that is just made and goes is waited for": {phase: corev1.VolumePending, going: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			v := &corev1.PersistentVolume{
				Spec:   corev1.PersistentVolumeSpec{ClaimRef: &corev1.ObjectReference{}, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimDelete},
				Status: corev1.PersistentVolumeStatus{Phase: tc.phase},
			}
			if tc.retained {
				v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
			}
			if tc.going {
				v.DeletionTimestamp = &metav1.Time{}
			}
			if got := judge(v); got != tc.want {
				t.Errorf("judge() = %v, want %v", got, tc.want)
			}
		})
	}
}
