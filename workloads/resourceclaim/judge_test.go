package resourceclaim

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

func consumer(uid string) resourcev1.ResourceClaimConsumerReference {
	return resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: "pod-" + uid, UID: types.UID(uid)}
}

func claim(allocated bool, users ...string) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "gpu", UID: "claim"}}
	if allocated {
		c.Finalizers = []string{resourcev1.Finalizer}
		c.Status.Allocation = &resourcev1.AllocationResult{}
	}
	for _, uid := range users {
		c.Status.ReservedFor = append(c.Status.ReservedFor, consumer(uid))
	}
	return c
}

func deleted(c *resourcev1.ResourceClaim) *resourcev1.ResourceClaim {
	c.DeletionTimestamp = &metav1.Time{Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	return c
}

func TestJudge(t *testing.T) {
	pendingFinalizer := claim(false)
	pendingFinalizer.Finalizers = []string{resourcev1.Finalizer}
	tests := map[string]struct {
		claim     *resourcev1.ResourceClaim
		using     string // UIDs
		ownerDone bool
		users     int  // -1: status stays
		allocated bool // afterwards, when status changes
		release   bool
		delete    bool
	}{
		"a claim in use stays":                                     {claim: claim(true, "a"), using: "a", users: -1},
		"one of two users goes":                                    {claim: claim(true, "a", "b"), using: "b", users: 1, allocated: true},
		"the last user goes, the devices are free":                 {claim: claim(true, "a"), users: 0, release: true},
		"a claim allocated for nobody yet stays":                   {claim: claim(true), users: -1},
		"a deleted claim in use waits":                             {claim: deleted(claim(true, "a")), using: "a", users: -1},
		"a deleted claim nobody uses gives up its devices":         {claim: deleted(claim(true)), users: 0, release: true},
		"a deleted claim without devices loses its finalizer":      {claim: deleted(withFinalizer(claim(false))), users: -1, release: true},
		"a finalizer the scheduler has just set stays":             {claim: pendingFinalizer, users: -1},
		"a claim whose pod has ended is deleted":                   {claim: claim(true, "a"), ownerDone: true, users: 0, release: true, delete: true},
		"a claim whose pod has ended without using it too":         {claim: claim(true), ownerDone: true, users: 0, release: true, delete: true},
		"devices of another's allocation are not ours to give up":  {claim: foreign(claim(true, "a")), users: 0, allocated: true},
		"a claim whose pod has ended but that another uses stands": {claim: claim(true, "a", "b"), using: "b", ownerDone: true, users: 1, allocated: true, delete: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			before := tc.claim.DeepCopy()
			v := judge(tc.claim, func(ref resourcev1.ResourceClaimConsumerReference) bool {
				return strings.Contains(tc.using, string(ref.UID))
			}, tc.ownerDone)
			users, allocated := -1, false
			if v.status != nil {
				users, allocated = len(v.status.ReservedFor), v.status.Allocation != nil
			}
			if users != tc.users || allocated != tc.allocated || v.release != tc.release || v.delete != tc.delete {
				t.Errorf("judge() = %d users, allocated %v, release %v, delete %v", users, allocated, v.release, v.delete)
			}
			if diff := cmp.Diff(before, tc.claim); diff != "" {
				t.Errorf("judge() changed a cached object:\n%s", diff)
			}
		})
	}
}

func withFinalizer(c *resourcev1.ResourceClaim) *resourcev1.ResourceClaim {
	c.Finalizers = []string{resourcev1.Finalizer}
	return c
}

func foreign(c *resourcev1.ResourceClaim) *resourcev1.ResourceClaim {
	c.Finalizers = nil
	return c
}

func TestReserve(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod-a", UID: "a"}}
	full := claim(true)
	for range resourcev1.ResourceClaimReservedForMaxSize {
		full.Status.ReservedFor = append(full.Status.ReservedFor, consumer("x"))
	}
	tests := map[string]struct {
		claim *resourcev1.ResourceClaim
		want  bool
	}{
		"a claim with devices takes it in":   {claim(true), true},
		"it has a place already":             {claim(true, "a"), false},
		"a claim without devices cannot":     {claim(false), false},
		"a full one cannot":                  {full, false},
		"one that is being deleted does not": {deleted(claim(true)), false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := reserve(tc.claim, pod); (got != nil) != tc.want {
				t.Errorf("reserve() = %v, want a change: %v", got, tc.want)
			}
		})
	}
}

// TestLifeOfAPod follows a pod with a template from its creation to its end.
func TestLifeOfAPod(t *testing.T) {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "web-uid"},
		Spec: corev1.PodSpec{ResourceClaims: []corev1.PodResourceClaim{
			{Name: "gpu", ResourceClaimTemplateName: ptr.To("big")}, {Name: "nic", ResourceClaimName: ptr.To("shared")},
		}},
	}
	template := &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "big"}}
	template.Spec.Labels = map[string]string{"team": "a"}
	c := fake.NewClientBuilder().WithObjects(pod).WithStatusSubresource(&corev1.Pod{}, &resourcev1.ResourceClaim{}).Build()
	recorder := record.NewFakeRecorder(10)
	pods, claims := &Pods{client: c, events: recorder}, &Reconciler{client: c, live: c}
	request := ctrl.Request{NamespacedName: client.ObjectKeyFromObject(pod)}

	if _, err := pods.Reconcile(t.Context(), request); err == nil {
		t.Error("no template, and no error")
	}
	if event := <-recorder.Events; !strings.HasPrefix(event, "Warning FailedResourceClaimCreation PodResourceClaim gpu: ") {
		t.Errorf("told %q", event)
	}
	if err := c.Create(t.Context(), template); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := pods.Reconcile(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Get(t.Context(), request.NamespacedName, pod); err != nil {
		t.Fatal(err)
	}
	if n := len(pod.Status.ResourceClaimStatuses); n != 1 {
		t.Fatalf("%d claims are named", n)
	}
	name := client.ObjectKey{Namespace: "shop", Name: *pod.Status.ResourceClaimStatuses[0].ResourceClaimName}
	var made resourcev1.ResourceClaim
	if err := c.Get(t.Context(), name, &made); err != nil {
		t.Fatal(err)
	}
	if !metav1.IsControlledBy(&made, pod) || made.Labels["team"] != "a" || made.Annotations[claimNote] != "gpu" {
		t.Errorf("made %+v", made.ObjectMeta)
	}

	// The scheduler allocates; then the pod ends.
	made.Finalizers = []string{resourcev1.Finalizer}
	if err := c.Update(t.Context(), &made); err != nil {
		t.Fatal(err)
	}
	made.Status.Allocation = &resourcev1.AllocationResult{}
	made.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: pod.Name, UID: pod.UID}}
	if err := c.Status().Update(t.Context(), &made); err != nil {
		t.Fatal(err)
	}
	settle := func() {
		t.Helper()
		if _, err := claims.Reconcile(t.Context(), ctrl.Request{NamespacedName: name}); err != nil {
			t.Fatal(err)
		}
	}
	settle()
	if err := c.Get(t.Context(), name, &made); err != nil || len(made.Status.ReservedFor) != 1 {
		t.Fatalf("while the pod runs: %v, %+v", err, made.Status)
	}
	pod.Status.Phase = corev1.PodSucceeded
	if err := c.Status().Update(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	settle()
	if err := c.Get(t.Context(), name, &made); !apierrors.IsNotFound(err) {
		t.Errorf("after the pod: %v, %+v", err, made)
	}
}
