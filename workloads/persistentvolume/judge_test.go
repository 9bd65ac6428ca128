package persistentvolume

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

type claimChange func(*corev1.PersistentVolumeClaim)
type volumeChange func(*corev1.PersistentVolume)

// claimOf is a claim for 1Gi of a class.
func claimOf(class string, changes ...claimChange) *corev1.PersistentVolumeClaim {
	c := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data", UID: "claim", Annotations: map[string]string{}},
		Spec: corev1.PersistentVolumeClaimSpec{
			StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
	for _, change := range changes {
		change(c)
	}
	return c
}

func noClass(c *corev1.PersistentVolumeClaim) { c.Spec.StorageClassName = nil }

func asking(volume string) claimChange {
	return func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeName = volume }
}

func wasBound(c *corev1.PersistentVolumeClaim) {
	c.Annotations[volume.AnnBindCompleted] = "yes"
	c.Status.Phase = corev1.ClaimBound
}

func onNode(c *corev1.PersistentVolumeClaim) { c.Annotations[volume.AnnSelectedNode] = "a" }

// volumeOf is an available volume of a class.
func volumeOf(name, class, size string, changes ...volumeChange) *corev1.PersistentVolume {
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{}, Labels: map[string]string{}},
		Spec: corev1.PersistentVolumeSpec{
			StorageClassName: class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}, PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		},
		Status: corev1.PersistentVolumeStatus{Phase: corev1.VolumeAvailable},
	}
	for _, change := range changes {
		change(v)
	}
	return v
}

func reserved(name string, uid types.UID) volumeChange {
	return func(v *corev1.PersistentVolume) {
		v.Spec.ClaimRef = &corev1.ObjectReference{Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: "shop", Name: name, UID: uid}
	}
}

func byUs(v *corev1.PersistentVolume) { v.Annotations[volume.AnnBoundByController] = "yes" }

func provisioned(v *corev1.PersistentVolume) {
	v.Annotations[volume.AnnDynamicallyProvisioned] = "maker.example"
}

func policy(p corev1.PersistentVolumeReclaimPolicy) volumeChange {
	return func(v *corev1.PersistentVolume) { v.Spec.PersistentVolumeReclaimPolicy = p }
}

func phase(p corev1.PersistentVolumePhase) volumeChange {
	return func(v *corev1.PersistentVolume) { v.Status.Phase = p }
}

func modes(m ...corev1.PersistentVolumeAccessMode) volumeChange {
	return func(v *corev1.PersistentVolume) { v.Spec.AccessModes = m }
}

func class(provisioner string, mode storagev1.VolumeBindingMode) *storagev1.StorageClass {
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, Provisioner: provisioner, VolumeBindingMode: &mode}
}

func TestJudgeClaim(t *testing.T) {
	now, later := class("maker.example", storagev1.VolumeBindingImmediate), class("maker.example", storagev1.VolumeBindingWaitForFirstConsumer)
	type want struct {
		volume string // the claim is bound to
		phase  corev1.PersistentVolumeClaimPhase
		event  string
		class  string // the claim got
	}
	many := []*corev1.PersistentVolume{volumeOf("large", "fast", "9Gi"), volumeOf("right", "fast", "2Gi"), volumeOf("small", "fast", "1Mi"), volumeOf("other", "slow", "1Gi")}
	tests := map[string]struct {
		view claimView
		want want
	}{
		"the smallest volume that is large enough is taken": {
			claimView{claim: claimOf("fast"), class: now, volumes: many}, want{volume: "right", phase: corev1.ClaimBound},
		},
		"a claim without a class takes a volume without one": {
			claimView{claim: claimOf(""), volumes: []*corev1.PersistentVolume{volumeOf("plain", "", "1Gi")}}, want{volume: "plain", phase: corev1.ClaimBound},
		},
		"a volume that is reserved for the claim comes before a smaller one": {
			claimView{claim: claimOf("fast"), class: now, volumes: append(many, volumeOf("mine", "fast", "9Gi", reserved("data", "")))}, want{volume: "mine", phase: corev1.ClaimBound},
		},
		"a volume that is reserved for another claim is not taken": {
			claimView{claim: claimOf(""), volumes: []*corev1.PersistentVolume{volumeOf("theirs", "", "1Gi", reserved("other", ""))}}, want{phase: corev1.ClaimPending, event: reasonFailedBinding},
		},
		"a volume of an earlier claim of the name is not taken": {
			claimView{claim: claimOf(""), volumes: []*corev1.PersistentVolume{volumeOf("old", "", "1Gi", reserved("data", "before"), phase(corev1.VolumeReleased))}}, want{phase: corev1.ClaimPending, event: reasonFailedBinding},
		},
		"of two volumes the one that can do less is enough": {
			claimView{claim: claimOf(""), volumes: []*corev1.PersistentVolume{
				volumeOf("all", "", "1Gi", modes(corev1.ReadWriteOnce, corev1.ReadWriteMany)), volumeOf("one", "", "5Gi"),
			}}, want{volume: "one", phase: corev1.ClaimBound},
		},
		"a volume that cannot do what is asked is not taken": {
			claimView{claim: claimOf(""), volumes: []*corev1.PersistentVolume{volumeOf("read", "", "1Gi", modes(corev1.ReadOnlyMany))}}, want{phase: corev1.ClaimPending, event: reasonFailedBinding},
		},
		"a volume nobody has looked at yet is not taken": {
			claimView{claim: claimOf(""), volumes: []*corev1.PersistentVolume{volumeOf("new", "", "1Gi", phase(corev1.VolumePending))}}, want{phase: corev1.ClaimPending, event: reasonFailedBinding},
		},
		"a block device is not taken for a file system": {
			claimView{claim: claimOf(""), volumes: []*corev1.PersistentVolume{volumeOf("block", "", "1Gi", func(v *corev1.PersistentVolume) { v.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) })}},
			want{phase: corev1.ClaimPending, event: reasonFailedBinding},
		},
		"a selector is heeded": {
			claimView{claim: claimOf("", func(c *corev1.PersistentVolumeClaim) {
				c.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"disk": "ssd"}}
			}), volumes: []*corev1.PersistentVolume{
				volumeOf("plain", "", "1Gi"), volumeOf("ssd", "", "2Gi", func(v *corev1.PersistentVolume) { v.Labels["disk"] = "ssd" }),
			}}, want{volume: "ssd", phase: corev1.ClaimBound},
		},
		"without a fitting volume its provisioner is told": {
			claimView{claim: claimOf("fast"), class: now}, want{phase: corev1.ClaimPending, event: reasonExternal},
		},
		"a claim that waits for its pod is left to the scheduler": {
			claimView{claim: claimOf("fast"), class: later, volumes: many}, want{phase: corev1.ClaimPending, event: reasonWaits},
		},
		"a claim that waits for its pod takes what is reserved for it": {
			claimView{claim: claimOf("fast"), class: later, volumes: append(many, volumeOf("mine", "fast", "9Gi", reserved("data", "claim")))}, want{volume: "mine", phase: corev1.ClaimBound},
		},
		"a claim whose pod has a node is provisioned": {
			claimView{claim: claimOf("fast", onNode), class: later}, want{phase: corev1.ClaimPending, event: reasonExternal},
		},
		"a class nobody provisions": {
			claimView{claim: claimOf("fast"), class: class(volume.NotSupportedProvisioner, storagev1.VolumeBindingImmediate)}, want{phase: corev1.ClaimPending, event: reasonProvisioningFailed},
		},
		"a class that does not exist": {
			claimView{claim: claimOf("fast")}, want{phase: corev1.ClaimPending, event: reasonProvisioningFailed},
		},
		"a claim without a class gets the default that came later": {
			claimView{claim: claimOf("", noClass), defaultClass: "fast"}, want{phase: corev1.ClaimPending, class: "fast"},
		},
		"a claim that wants no class does not get the default": {
			claimView{claim: claimOf(""), defaultClass: "fast"}, want{phase: corev1.ClaimPending, event: reasonFailedBinding},
		},
		"a volume named by the claim": {
			claimView{claim: claimOf("", asking("v")), named: volumeOf("v", "", "1Gi")}, want{volume: "v", phase: corev1.ClaimBound},
		},
		"a volume named by the claim that does not exist yet": {
			claimView{claim: claimOf("", asking("v"))}, want{phase: corev1.ClaimPending},
		},
		"a volume named by the claim that is too small": {
			claimView{claim: claimOf("", asking("v")), named: volumeOf("v", "", "1Mi")}, want{phase: corev1.ClaimPending, event: reasonMismatch},
		},
		"a volume named by the claim that is another's": {
			claimView{claim: claimOf("", asking("v")), named: volumeOf("v", "", "1Gi", reserved("other", "x"))}, want{phase: corev1.ClaimPending, event: reasonFailedBinding},
		},
		"half a binding is completed": {
			claimView{claim: claimOf("", asking("v")), named: volumeOf("v", "", "1Gi", reserved("data", "claim"), byUs)}, want{volume: "v", phase: corev1.ClaimBound},
		},
		"a bound claim stays bound": {
			claimView{claim: claimOf("", asking("v"), wasBound), named: volumeOf("v", "", "1Gi", reserved("data", "claim"), phase(corev1.VolumeBound))}, want{volume: "v", phase: corev1.ClaimBound},
		},
		"a bound claim whose volume is gone is lost": {
			claimView{claim: claimOf("", asking("v"), wasBound)}, want{phase: corev1.ClaimLost, event: reasonLost},
		},
		"a bound claim that names no volume any more is lost": {
			claimView{claim: claimOf("", wasBound)}, want{phase: corev1.ClaimLost, event: reasonLost},
		},
		"a bound claim whose volume is another's is lost": {
			claimView{claim: claimOf("", asking("v"), wasBound), named: volumeOf("v", "", "1Gi", reserved("other", "x"))}, want{phase: corev1.ClaimLost, event: reasonMisbound},
		},
		"a lost claim is found when its volume is made again": {
			claimView{claim: claimOf("", asking("v"), wasBound, func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimLost }), named: volumeOf("v", "", "1Gi")},
			want{volume: "v", phase: corev1.ClaimBound},
		},
		"a claim that goes is not bound": {
			claimView{claim: claimOf("", func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = &metav1.Time{} }), volumes: []*corev1.PersistentVolume{volumeOf("v", "", "1Gi")}},
			want{phase: corev1.ClaimPending},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			before := tc.view.claim.DeepCopy()
			d := judgeClaim(tc.view)
			got := want{phase: before.Status.Phase}
			if d.volume != nil {
				got.volume = d.volume.Name
				if d.volume.Spec.ClaimRef.UID != "claim" || d.volume.Status.Phase != corev1.VolumeBound || d.claim.Spec.VolumeName != d.volume.Name {
					t.Errorf("halves do not point at each other: %v, %v", d.volume.Spec.ClaimRef, d.claim.Spec.VolumeName)
				}
			}
			if d.claim != nil {
				got.phase = d.claim.Status.Phase
				if asked := before.Spec.StorageClassName; asked == nil {
					got.class = ptr.Deref(d.claim.Spec.StorageClassName, "")
				}
			}
			if len(d.events) > 0 {
				got.event = d.events[0].reason
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(want{})); diff != "" {
				t.Errorf("judgeClaim() (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, tc.view.claim); diff != "" {
				t.Errorf("judgeClaim() changed a cached object (-before +after):\n%s", diff)
			}
		})
	}
}

func TestJudgeVolume(t *testing.T) {
	type want struct {
		phase    corev1.PersistentVolumePhase
		reserved types.UID
		event    string
	}
	mine := func(v ...volumeChange) *corev1.PersistentVolume {
		return volumeOf("v", "", "1Gi", append([]volumeChange{reserved("data", "claim")}, v...)...)
	}
	tests := map[string]struct {
		volume *corev1.PersistentVolume
		claim  *corev1.PersistentVolumeClaim
		want   want
	}{
		"a new volume is available":                    {volume: volumeOf("v", "", "1Gi", phase(corev1.VolumePending)), want: want{phase: corev1.VolumeAvailable}},
		"one reserved by name is available":            {volume: volumeOf("v", "", "1Gi", phase(corev1.VolumePending), reserved("data", "")), want: want{phase: corev1.VolumeAvailable}},
		"one whose claim names it is bound":            {volume: mine(), claim: claimOf("", asking("v")), want: want{phase: corev1.VolumeBound, reserved: "claim"}},
		"one whose claim does not name it yet":         {volume: mine(), claim: claimOf(""), want: want{phase: corev1.VolumeAvailable, reserved: "claim"}},
		"one whose claim is gone is released":          {volume: mine(phase(corev1.VolumeBound)), want: want{phase: corev1.VolumeReleased, reserved: "claim"}},
		"one whose claim is another of the name":       {volume: mine(phase(corev1.VolumeBound)), claim: claimOf("", func(c *corev1.PersistentVolumeClaim) { c.UID = "later" }), want: want{phase: corev1.VolumeReleased, reserved: "claim"}},
		"a released one its provisioner deletes":       {volume: mine(phase(corev1.VolumeBound), provisioned, policy(corev1.PersistentVolumeReclaimDelete)), want: want{phase: corev1.VolumeReleased, reserved: "claim"}},
		"a released one nobody can delete":             {volume: mine(phase(corev1.VolumeBound), policy(corev1.PersistentVolumeReclaimDelete)), want: want{phase: corev1.VolumeFailed, reserved: "claim", event: reasonFailedDelete}},
		"a released one nobody can recycle":            {volume: mine(phase(corev1.VolumeBound), policy(corev1.PersistentVolumeReclaimRecycle)), want: want{phase: corev1.VolumeFailed, reserved: "claim", event: reasonFailedRecycle}},
		"a failed one is told of once":                 {volume: mine(phase(corev1.VolumeFailed), policy(corev1.PersistentVolumeReclaimDelete)), want: want{phase: corev1.VolumeFailed, reserved: "claim"}},
		"one whose claim took another is free":         {volume: mine(byUs), claim: claimOf("", asking("w")), want: want{phase: corev1.VolumeAvailable}},
		"one made for a claim that took another":       {volume: mine(provisioned, policy(corev1.PersistentVolumeReclaimDelete)), claim: claimOf("", asking("w")), want: want{phase: corev1.VolumeReleased, reserved: "claim"}},
		"a user's reservation outlives a claim's turn": {volume: mine(), claim: claimOf("", asking("w")), want: want{phase: corev1.VolumeAvailable}},
		"a block device reserved for a file system": {
			volume: mine(func(v *corev1.PersistentVolume) { v.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) }), claim: claimOf(""),
			want: want{phase: corev1.VolumeAvailable, reserved: "claim", event: reasonMismatch},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			before := tc.volume.DeepCopy()
			d := judgeVolume(tc.volume, tc.claim)
			next := tc.volume
			if d.volume != nil {
				next = d.volume
			}
			got := want{phase: next.Status.Phase}
			if next.Spec.ClaimRef != nil {
				got.reserved = next.Spec.ClaimRef.UID
			}
			if len(d.events) > 0 {
				got.event = d.events[0].reason
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(want{})); diff != "" {
				t.Errorf("judgeVolume() (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(before, tc.volume); diff != "" {
				t.Errorf("judgeVolume() changed a cached object (-before +after):\n%s", diff)
			}
		})
	}
}
