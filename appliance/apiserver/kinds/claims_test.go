package kinds

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestDataSources(t *testing.T) {
	claim := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}
	type (
		local = corev1.TypedLocalObjectReference
		typed = corev1.TypedObjectReference
	)
	snapshots := ptr.To("snapshot.storage.k8s.io")
	snapshot := &local{APIGroup: snapshots, Kind: "VolumeSnapshot", Name: "monday"}
	populator := &typed{APIGroup: ptr.To("example.com"), Kind: "Download", Name: "data"}
	tests := map[string]struct {
		old     *local
		ref     *typed
		wantOld *local
		wantRef *typed
		want    string
	}{
		"a claim starts empty":                  {},
		"a snapshot is shown in both fields":    {old: snapshot, wantOld: snapshot, wantRef: &typed{APIGroup: snapshots, Kind: "VolumeSnapshot", Name: "monday"}},
		"a claim needs no group":                {old: &local{Kind: "PersistentVolumeClaim", Name: "a"}, wantOld: &local{Kind: "PersistentVolumeClaim", Name: "a"}, wantRef: &typed{Kind: "PersistentVolumeClaim", Name: "a"}},
		"anything is named in the new field":    {ref: populator, wantOld: &local{APIGroup: ptr.To("example.com"), Kind: "Download", Name: "data"}, wantRef: populator},
		"the old one ignores what it never had": {old: &local{Kind: "Secret", Name: "a"}},
		"other namespaces are ignored":          {ref: &typed{Kind: "PersistentVolumeClaim", Name: "a", Namespace: ptr.To("other")}},
		"both name the same": {old: snapshot, ref: populator, wantOld: snapshot, wantRef: populator,
			want: "spec: Invalid value: \"spec.dataSource\": must match dataSourceRef"},
		"of the core group there are claims": {ref: &typed{Kind: "Secret", Name: "a"}, wantOld: &local{Kind: "Secret", Name: "a"}, wantRef: &typed{Kind: "Secret", Name: "a"},
			want: "spec.dataSourceRef: Invalid value: \"Secret\": must be 'PersistentVolumeClaim' when referencing the default apiGroup"},
		"a group is a domain": {ref: &typed{APIGroup: ptr.To("a b"), Kind: "Download", Name: "a"}, wantOld: &local{APIGroup: ptr.To("a b"), Kind: "Download", Name: "a"},
			wantRef: &typed{APIGroup: ptr.To("a b"), Kind: "Download", Name: "a"}, want: "spec.dataSourceRef.apiGroup: Invalid value"},
		"a source has a name": {ref: &typed{Kind: "PersistentVolumeClaim"}, wantOld: &local{Kind: "PersistentVolumeClaim"}, wantRef: &typed{Kind: "PersistentVolumeClaim"},
			want: "spec.dataSourceRef.name: Required value"},
	}
	ctx := context.Background()
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c := claim.DeepCopy()
			c.Spec.DataSource, c.Spec.DataSourceRef = tc.old.DeepCopy(), tc.ref.DeepCopy()
			PersistentVolumeClaim.PrepareCreate(ctx, c)
			if diff := cmp.Diff([]any{tc.wantOld, tc.wantRef}, []any{c.Spec.DataSource, c.Spec.DataSourceRef}); diff != "" {
				t.Errorf("sources (-want +got):\n%s", diff)
			}
			expect(t, PersistentVolumeClaim.Validate(ctx, c), tc.want)
		})
	}

	stored := claim.DeepCopy()
	stored.Spec.DataSource = snapshot.DeepCopy()
	PersistentVolumeClaim.PrepareCreate(ctx, stored)
	update := stored.DeepCopy()
	update.Spec.DataSourceRef = nil // by a client that does not know the field
	PersistentVolumeClaim.PrepareUpdate(ctx, update, stored)
	expect(t, PersistentVolumeClaim.ValidateUpdate(ctx, update, stored), "")
	update.Spec.DataSource.Name, update.Spec.DataSourceRef.Name = "tuesday", "tuesday"
	expect(t, PersistentVolumeClaim.ValidateUpdate(ctx, update, stored), "spec: Forbidden: spec is immutable")
}

func TestClassesOfAttributes(t *testing.T) {
	volume := func(class *string, source corev1.PersistentVolumeSource) *corev1.PersistentVolume {
		return &corev1.PersistentVolume{Spec: corev1.PersistentVolumeSpec{VolumeAttributesClassName: class, PersistentVolumeSource: source}}
	}
	csi := corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "example.com", VolumeHandle: "1"}}
	path := corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/a"}}
	ctx := context.Background()
	expect(t, PersistentVolume.Validate(ctx, volume(nil, path)), "spec.capacity: Required value")
	expect(t, PersistentVolume.Validate(ctx, volume(ptr.To("a b"), csi)), "spec.volumeAttributesClassName: Invalid value")
	expect(t, PersistentVolume.Validate(ctx, volume(ptr.To(""), csi)), "spec.volumeAttributesClassName: Required value")
	expect(t, PersistentVolume.Validate(ctx, volume(ptr.To("fast"), path)), "spec.csi: Required value")
}

func TestSinceWhenAVolumeIsInItsPhase(t *testing.T) {
	then, now := metav1.NewTime(time.Date(2026, 1, 2, 6, 0, 0, 0, time.UTC)), metav1.NewTime(time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC))
	later := metav1.NewTime(now.Add(time.Hour))
	tests := map[string]struct {
		status corev1.PersistentVolumeStatus
		want   metav1.Time
	}{
		"the same phase keeps its date":             {status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable, LastPhaseTransitionTime: &then}, want: then},
		"also from a client that does not know it":  {status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable}, want: then},
		"another phase begins now":                  {status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound, LastPhaseTransitionTime: &then}, want: now},
		"also of a client that does not know dates": {status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound}, want: now},
		"unless it is said when":                    {status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeBound, LastPhaseTransitionTime: &later}, want: later},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			old := &corev1.PersistentVolume{Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable, LastPhaseTransitionTime: &then}}
			next := &corev1.PersistentVolume{Status: tc.status}
			datePhase(next, old, now)
			if got := next.Status.LastPhaseTransitionTime; got == nil || !got.Equal(&tc.want) {
				t.Errorf("since %v, want %v", got, tc.want)
			}
		})
	}
}
