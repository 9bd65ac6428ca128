package ephemeralvolume

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

func pod(changes ...func(*corev1.Pod)) *corev1.Pod {
	template := &corev1.PersistentVolumeClaimTemplate{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"tier": "fast"}},
		Spec:       corev1.PersistentVolumeClaimSpec{StorageClassName: ptr.To("fast")},
	}
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "new"}, Spec: corev1.PodSpec{Volumes: []corev1.Volume{
		{Name: "empty", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: template}}},
	}}}
	for _, change := range changes {
		change(p)
	}
	return p
}

// owner is the controller of a claim that was made for a pod of that UID.
func owner(uid types.UID) []metav1.OwnerReference {
	return []metav1.OwnerReference{*metav1.NewControllerRef(pod(func(p *corev1.Pod) { p.UID = uid }), corev1.SchemeGroupVersion.WithKind("Pod"))}
}

func TestReconcile(t *testing.T) {
	made := corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-scratch", Labels: map[string]string{"tier": "fast"}, OwnerReferences: owner("new")},
		Spec:       corev1.PersistentVolumeClaimSpec{StorageClassName: ptr.To("fast")},
	}
	claim := func(owners []metav1.OwnerReference) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web-scratch", OwnerReferences: owners}}
	}
	tests := map[string]struct {
		pod   *corev1.Pod
		there *corev1.PersistentVolumeClaim
		want  []corev1.PersistentVolumeClaim
		told  string
	}{
		"a new pod gets a claim of its own":           {pod: pod(), want: []corev1.PersistentVolumeClaim{made}},
		"a second pass finds what the first has made": {pod: pod(), there: claim(owner("new")), want: []corev1.PersistentVolumeClaim{*claim(owner("new"))}},
		"a claim of an earlier pod is not taken over": {
			pod: pod(), there: claim(owner("old")), want: []corev1.PersistentVolumeClaim{*claim(owner("old"))},
			told: "Warning FailedBinding ephemeral volume scratch: PVC shop/web-scratch was not created for pod shop/web (pod is not owner)",
		},
		"nor is one that somebody made": {
			pod: pod(), there: claim(nil), want: []corev1.PersistentVolumeClaim{*claim(nil)},
			told: "Warning FailedBinding ephemeral volume scratch: PVC shop/web-scratch was not created for pod shop/web (pod is not owner)",
		},
		"a pod that is going gets none": {pod: pod(func(p *corev1.Pod) {
			p.DeletionTimestamp, p.Finalizers = ptr.To(metav1.Now()), []string{"test/keep"}
		})},
		"a pod that has ended gets none": {pod: pod(func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			objects := []client.Object{tc.pod}
			if tc.there != nil {
				objects = append(objects, tc.there)
			}
			c, told := fake.NewClientBuilder().WithObjects(objects...).Build(), record.NewFakeRecorder(1)
			_, err := (&Reconciler{client: c, live: c, events: told}).Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(tc.pod)})
			if (err != nil) != (tc.told != "") {
				t.Errorf("Reconcile() = %v", err)
			}
			close(told.Events)
			if got := <-told.Events; got != tc.told {
				t.Errorf("told %q, want %q", got, tc.told)
			}
			var claims corev1.PersistentVolumeClaimList
			if err := c.List(t.Context(), &claims); err != nil {
				t.Fatal(err)
			}
			for i := range claims.Items {
				claims.Items[i].ResourceVersion = ""
			}
			if diff := cmp.Diff(tc.want, claims.Items, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("claims (-want +got):\n%s", diff)
			}
		})
	}
}
