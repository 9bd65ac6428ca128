package protection

import (
	"context"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

var now = metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))

// going marks an object as deleted, which another finalizer keeps.
func going[T client.Object](o T) T {
	o.SetDeletionTimestamp(&now)
	return o
}

func with[T client.Object](o T, finalizers ...string) T {
	o.SetFinalizers(finalizers)
	return o
}

func claim() *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data"}}
}

func pod(change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "pod"},
		Spec: corev1.PodSpec{NodeName: "one", Volumes: []corev1.Volume{
			{Name: "a", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
		}},
	}
	if change != nil {
		change(p)
	}
	return p
}

func TestClaimUsed(t *testing.T) {
	ownVolume := func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "own", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}}}
	}
	own := claim()
	own.Name = "web-own"
	own.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "web", UID: "pod", Controller: ptr.To(true)}}
	stranger := own.DeepCopy()
	stranger.OwnerReferences = nil
	tests := map[string]struct {
		claim *corev1.PersistentVolumeClaim
		pod   *corev1.Pod
		want  bool
	}{
		"no pod names it":                        {claim: claim(), pod: pod(func(p *corev1.Pod) { p.Spec.Volumes = nil })},
		"a pod on a node names it":               {claim: claim(), pod: pod(nil), want: true},
		"a pod that never found a node":          {claim: claim(), pod: pod(func(p *corev1.Pod) { p.Spec.NodeName = "" })},
		"a pod that has finished still names it": {claim: claim(), pod: pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded }), want: true},
		"a pod of another namespace":             {claim: claim(), pod: pod(func(p *corev1.Pod) { p.Namespace = "other" })},
		"a claim made for a pod's volume":        {claim: own, pod: pod(ownVolume), want: true},
		"a claim that only has the name of one":  {claim: stranger, pod: pod(ownVolume)},
		"a pod that is shut down does not wait for itself": {claim: own, pod: pod(func(p *corev1.Pod) {
			ownVolume(p)
			going(with(p, "test/keep")).DeletionGracePeriodSeconds = ptr.To[int64](0)
		})},
		"a pod that is shutting down": {claim: own, pod: pod(func(p *corev1.Pod) {
			ownVolume(p)
			going(with(p, "test/keep")).DeletionGracePeriodSeconds = ptr.To[int64](30)
		}), want: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := claimUsed(t.Context(), fake.NewClientBuilder().WithObjects(tc.pod).Build(), tc.claim)
			if err != nil || got != tc.want {
				t.Errorf("claimUsed() = %v, %v; want %v", got, err, tc.want)
			}
		})
	}
}

func TestClassUsed(t *testing.T) {
	class := &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: "gold"}}
	tests := map[string]struct {
		by   client.Object
		want bool
	}{
		"nobody":                    {by: claim()},
		"a claim that wants it":     {by: &corev1.PersistentVolumeClaim{ObjectMeta: claim().ObjectMeta, Spec: corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: ptr.To("gold")}}, want: true},
		"a claim that has it":       {by: &corev1.PersistentVolumeClaim{ObjectMeta: claim().ObjectMeta, Status: corev1.PersistentVolumeClaimStatus{CurrentVolumeAttributesClassName: ptr.To("gold")}}, want: true},
		"a claim on its way to it":  {by: &corev1.PersistentVolumeClaim{ObjectMeta: claim().ObjectMeta, Status: corev1.PersistentVolumeClaimStatus{ModifyVolumeStatus: &corev1.ModifyVolumeStatus{TargetVolumeAttributesClassName: "gold"}}}, want: true},
		"a volume that has it":      {by: &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{VolumeAttributesClassName: ptr.To("gold")}}, want: true},
		"a volume that has another": {by: &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{VolumeAttributesClassName: ptr.To("silver")}}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := classUsed(t.Context(), fake.NewClientBuilder().WithObjects(tc.by).Build(), class)
			if err != nil || got != tc.want {
				t.Errorf("classUsed() = %v, %v; want %v", got, err, tc.want)
			}
		})
	}
}

func TestReconcile(t *testing.T) {
	bound := func(v *corev1.PersistentVolume) *corev1.PersistentVolume {
		v.Status.Phase = corev1.VolumeBound
		return v
	}
	volume := func() *corev1.PersistentVolume {
		return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}}
	}
	tests := map[string]struct {
		object client.Object
		others []client.Object // as the cache knows them
		behind []client.Object // that only the datastore knows
		want   bool            // the finalizer is there afterwards
		gone   bool
	}{
		"a claim from before there was protection gets it": {object: claim(), want: true},
		"a claim that stays keeps it":                      {object: with(claim(), claimFinalizer), want: true},
		"a deleted claim in use keeps it":                  {object: going(with(claim(), claimFinalizer)), others: []client.Object{pod(nil)}, want: true},
		"a deleted claim nobody uses is let go":            {object: going(with(claim(), claimFinalizer)), gone: true},
		"a user the cache has not seen yet counts":         {object: going(with(claim(), claimFinalizer)), behind: []client.Object{pod(nil)}, want: true},
		"what others hold is theirs":                       {object: going(with(claim(), claimFinalizer, "test/keep"))},
		"a deleted claim without it does not get it":       {object: going(with(claim(), "test/keep"))},
		"a deleted volume that a claim has keeps it":       {object: bound(going(with(volume(), volumeFinalizer))), want: true},
		"a deleted volume that is free is let go":          {object: going(with(volume(), volumeFinalizer)), gone: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			known := append([]client.Object{tc.object}, tc.others...)
			c := fake.NewClientBuilder().WithObjects(known...).WithStatusSubresource().Build()
			r := &Reconciler{client: c, latest: fake.NewClientBuilder().WithObjects(append(known, tc.behind...)...).Build(), finalizer: claimFinalizer,
				empty: func() client.Object { return &corev1.PersistentVolumeClaim{} }, used: claimUsed}
			if _, isVolume := tc.object.(*corev1.PersistentVolume); isVolume {
				r.finalizer, r.used, r.empty = volumeFinalizer, volumeUsed, func() client.Object { return &corev1.PersistentVolume{} }
			}
			key := client.ObjectKeyFromObject(tc.object)
			if _, err := r.Reconcile(context.Background(), ctrl.Request{NamespacedName: key}); err != nil {
				t.Fatal(err)
			}
			got := r.empty()
			err := c.Get(t.Context(), key, got)
			if apierrors.IsNotFound(err) != tc.gone {
				t.Fatalf("Get() = %v, want gone %v", err, tc.gone)
			}
			if has := slices.Contains(got.GetFinalizers(), r.finalizer); has != tc.want {
				t.Errorf("finalizers %v, want it to be there: %v", got.GetFinalizers(), tc.want)
			}
		})
	}
}
