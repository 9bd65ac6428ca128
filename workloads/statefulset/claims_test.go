package statefulset

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

const (
	retain = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	remove = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
)

func keeping(whenDeleted, whenScaled appsv1.PersistentVolumeClaimRetentionPolicyType) option {
	return func(s *appsv1.StatefulSet) {
		s.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data", Labels: map[string]string{"tier": "fast"}}}}
		s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: whenDeleted, WhenScaled: whenScaled}
	}
}

func owned(kind, name string, uid types.UID, controls bool) []metav1.OwnerReference {
	return []metav1.OwnerReference{{Kind: kind, Name: name, UID: uid, Controller: ptr.To(controls)}}
}

func TestOwnersFollowTheRetentionPolicy(t *testing.T) {
	tests := map[string]struct {
		whenDeleted, whenScaled appsv1.PersistentVolumeClaimRetentionPolicyType
		ordinal                 int
		refs                    []metav1.OwnerReference
		want                    []types.UID
	}{
		"a claim to keep belongs to nobody":                          {whenDeleted: retain, whenScaled: retain, ordinal: 0},
		"one that goes with the set belongs to it":                   {whenDeleted: remove, whenScaled: retain, ordinal: 0, want: []types.UID{"set"}},
		"even when its pod is scaled away":                           {whenDeleted: remove, whenScaled: retain, ordinal: 2, want: []types.UID{"set"}},
		"one that goes when scaled belongs to nobody yet":            {whenDeleted: retain, whenScaled: remove, ordinal: 1},
		"but to its pod when that is scaled away":                    {whenDeleted: retain, whenScaled: remove, ordinal: 2, want: []types.UID{"db-2"}},
		"and only to the pod, or it would stay with the set":         {whenDeleted: remove, whenScaled: remove, ordinal: 2, refs: owned("StatefulSet", "db", "set", true), want: []types.UID{"db-2"}},
		"a pod that is wanted again gives it back":                   {whenDeleted: remove, whenScaled: remove, ordinal: 0, refs: owned("Pod", "db-0", "db-0", true), want: []types.UID{"set"}},
		"a policy that is withdrawn sets it free":                    {whenDeleted: retain, whenScaled: retain, ordinal: 0, refs: owned("StatefulSet", "db", "set", true)},
		"others may own it as well":                                  {whenDeleted: remove, whenScaled: retain, ordinal: 0, refs: owned("Backup", "b", "b", false), want: []types.UID{"b", "set"}},
		"a claim another controller manages is none of our business": {whenDeleted: remove, whenScaled: remove, ordinal: 2, refs: owned("Backup", "b", "b", true), want: []types.UID{"b"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			set := db(2, keeping(tc.whenDeleted, tc.whenScaled))
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: podName(set, tc.ordinal), UID: types.UID(podName(set, tc.ordinal))}}
			got := claimOwners(set, tc.ordinal, pod, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{OwnerReferences: tc.refs}})
			if len(got) != len(tc.want) {
				t.Fatalf("claimOwners() = %v, want %v", got, tc.want)
			}
			for i, uid := range tc.want {
				if got[i].UID != uid {
					t.Errorf("claimOwners() = %v, want %v", got, tc.want)
				}
			}
		})
	}
}

func TestAPodComesWithItsClaims(t *testing.T) {
	o := look(db(2, keeping(remove, retain)), "")
	plan := judge(o, now)
	if len(plan.Births) != 1 || len(plan.Births[0].Claims) != 1 {
		t.Fatalf("plan %+v; want a pod and its claim", plan)
	}
	claim := plan.Births[0].Claims[0]
	if claim.Name != "data-db-0" || claim.Labels["app"] != "db" || claim.Labels["tier"] != "fast" || !metav1.IsControlledBy(claim, o.set) {
		t.Errorf("claim %+v", claim)
	}
	o.claims = claims{claim.Name: claim}
	if plan := judge(o, now); len(plan.Births[0].Claims) != 0 {
		t.Error("a claim that is there is created again")
	}
}

func TestAPodWaitsForAClaimThatGoes(t *testing.T) {
	tests := map[string]func(*corev1.PersistentVolumeClaim){
		"being deleted":                    func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = ptr.To(metav1.NewTime(now)) },
		"still with the pod scaled before": func(c *corev1.PersistentVolumeClaim) { c.OwnerReferences = owned("Pod", "db-0", "before", true) },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			o := look(db(1, keeping(retain, remove)), "")
			claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data-db-0"}}
			change(claim)
			o.claims = claims{claim.Name: claim}
			if plan := judge(o, now); len(plan.Births) != 0 || plan.Again != claimPatience {
				t.Errorf("births %v, again in %v; want none, and another look", plan.Births, plan.Again)
			}
		})
	}
}

func TestAPendingPodGetsTheClaimItLacks(t *testing.T) {
	o := look(db(1, keeping(retain, retain)), "0:new:pending")
	plan := judge(o, now)
	if len(plan.Births) != 1 || plan.Births[0].Pod != nil || len(plan.Births[0].Claims) != 1 {
		t.Errorf("births %+v; want a claim only", plan.Births)
	}
}
