package devicetaint

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/tools/record"
	testclock "k8s.io/utils/clock/testing"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"knarr.dev/knarr/workloads/steady/steadytest"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func claim(tolerations ...resourcev1.DeviceToleration) *resourcev1.ResourceClaim {
	return &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "gpu", CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))},
		Status: resourcev1.ResourceClaimStatus{
			Allocation:  &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Driver: "d", Pool: "p", Device: "gpu-0", Tolerations: tolerations}}}},
			ReservedFor: []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: "web", UID: "web"}},
		},
	}
}

func taint(effect resourcev1.DeviceTaintEffect, ago time.Duration) resourcev1.DeviceTaint {
	return resourcev1.DeviceTaint{Key: "broken", Value: "yes", Effect: effect, TimeAdded: ptr.To(metav1.NewTime(now.Add(-ago)))}
}

func slice(name string, generation int64, taints ...resourcev1.DeviceTaint) resourcev1.ResourceSlice {
	return resourcev1.ResourceSlice{Spec: resourcev1.ResourceSliceSpec{Driver: "d", Pool: resourcev1.ResourcePool{Name: "p", Generation: generation}, Devices: []resourcev1.Device{{Name: name, Taints: taints}}}}
}

func rule(selector *resourcev1.DeviceTaintSelector, t resourcev1.DeviceTaint) resourcev1.DeviceTaintRule {
	return resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: "r", Generation: 1}, Spec: resourcev1.DeviceTaintRuleSpec{DeviceSelector: selector, Taint: t}}
}

func TestJudge(t *testing.T) {
	drives := taint(resourcev1.DeviceTaintEffectNoExecute, time.Minute)
	future := taint(resourcev1.DeviceTaintEffectNoExecute, -365*24*time.Hour)
	exists := resourcev1.DeviceToleration{Operator: resourcev1.DeviceTolerationOpExists}
	forAWhile := func(seconds int64) resourcev1.DeviceToleration {
		return resourcev1.DeviceToleration{Key: "broken", Value: "yes", TolerationSeconds: &seconds}
	}
	unallocated := claim()
	unallocated.Status.Allocation = nil
	tests := map[string]struct {
		claim  *resourcev1.ResourceClaim
		slices []resourcev1.ResourceSlice
		rules  []resourcev1.DeviceTaintRule
		evict  bool
		again  time.Duration
	}{
		"a sound device":                             {claim: claim(), slices: []resourcev1.ResourceSlice{slice("gpu-0", 1)}},
		"a device its driver gives up":               {claim: claim(), slices: []resourcev1.ResourceSlice{slice("gpu-0", 1, drives)}, evict: true},
		"another device of the pool":                 {claim: claim(), slices: []resourcev1.ResourceSlice{slice("gpu-1", 1, drives)}},
		"what an old generation said":                {claim: claim(), slices: []resourcev1.ResourceSlice{slice("gpu-0", 1, drives), slice("gpu-0", 2)}},
		"a taint that only refuses":                  {claim: claim(), slices: []resourcev1.ResourceSlice{slice("gpu-0", 1, taint(resourcev1.DeviceTaintEffectNoSchedule, 0))}},
		"a taint nobody knows":                       {claim: claim(), slices: []resourcev1.ResourceSlice{slice("gpu-0", 1, taint("Later", 0))}},
		"a rule for all devices":                     {claim: claim(), rules: []resourcev1.DeviceTaintRule{rule(&resourcev1.DeviceTaintSelector{}, drives)}, evict: true},
		"a rule for its driver":                      {claim: claim(), rules: []resourcev1.DeviceTaintRule{rule(&resourcev1.DeviceTaintSelector{Driver: ptr.To("d")}, drives)}, evict: true},
		"a rule for another pool":                    {claim: claim(), rules: []resourcev1.DeviceTaintRule{rule(&resourcev1.DeviceTaintSelector{Driver: ptr.To("d"), Pool: ptr.To("q")}, drives)}},
		"a rule for nothing":                         {claim: claim(), rules: []resourcev1.DeviceTaintRule{rule(nil, drives)}},
		"tolerated for ever":                         {claim: claim(exists), rules: []resourcev1.DeviceTaintRule{rule(&resourcev1.DeviceTaintSelector{}, drives)}},
		"tolerated for a while longer":               {claim: claim(forAWhile(90)), rules: []resourcev1.DeviceTaintRule{rule(&resourcev1.DeviceTaintSelector{}, drives)}, again: 30 * time.Second},
		"tolerated for long enough":                  {claim: claim(forAWhile(30)), rules: []resourcev1.DeviceTaintRule{rule(&resourcev1.DeviceTaintSelector{}, drives)}, evict: true},
		"the shorter toleration counts":              {claim: claim(exists, forAWhile(30)), rules: []resourcev1.DeviceTaintRule{rule(&resourcev1.DeviceTaintSelector{}, drives)}, evict: true},
		"a taint of another machine's future counts": {claim: claim(forAWhile(30)), rules: []resourcev1.DeviceTaintRule{rule(&resourcev1.DeviceTaintSelector{}, future)}, again: 30 * time.Second},
		"a claim without devices":                    {claim: unallocated, rules: []resourcev1.DeviceTaintRule{rule(&resourcev1.DeviceTaintSelector{}, drives)}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if evict, again := judge(tc.claim, tc.slices, tc.rules, now); evict != tc.evict || again != tc.again {
				t.Errorf("judge() = %v, %v; want %v, %v", evict, again, tc.evict, tc.again)
			}
		})
	}
}

func TestProgress(t *testing.T) {
	all := &resourcev1.DeviceTaintSelector{}
	said := rule(all, taint(resourcev1.DeviceTaintEffectNone, 0))
	said.Status.Conditions = []metav1.Condition{{Type: resourcev1.DeviceTaintConditionEvictionInProgress, Status: metav1.ConditionFalse, Reason: "NoEffect", ObservedGeneration: 1, Message: "as said"}}
	second := claim()
	second.Namespace, second.Status.ReservedFor[0].UID = "bank", "till"
	shared := claim() // another claim of the same pod
	tests := map[string]struct {
		rule    resourcev1.DeviceTaintRule
		claims  []*resourcev1.ResourceClaim
		evicted []types.UID
		want    string // status, reason: message
	}{
		"a pod is driven away": {
			rule: rule(all, taint(resourcev1.DeviceTaintEffectNoExecute, 0)), claims: []*resourcev1.ResourceClaim{claim(), shared},
			want: "True PodsPendingEviction: 1 pod needs to be evicted in 1 namespace.",
		},
		"pods are driven away": {
			rule: rule(all, taint(resourcev1.DeviceTaintEffectNoExecute, 0)), claims: []*resourcev1.ResourceClaim{claim(), second},
			want: "True PodsPendingEviction: 2 pods need to be evicted in 2 different namespaces.",
		},
		"one of two is on its way": {
			rule: rule(all, taint(resourcev1.DeviceTaintEffectNoExecute, 0)), claims: []*resourcev1.ResourceClaim{claim(), second}, evicted: []types.UID{"web"},
			want: "True PodsPendingEviction: 1 pod needs to be evicted in 1 namespace. 1 pod evicted since starting the controller.",
		},
		"all are gone": {
			rule: rule(all, taint(resourcev1.DeviceTaintEffectNoExecute, 0)), evicted: []types.UID{"web", "till"},
			want: "False Completed: 2 pods evicted since starting the controller.",
		},
		"no pod has such a device": {
			rule: rule(nil, taint(resourcev1.DeviceTaintEffectNoExecute, 0)), claims: []*resourcev1.ResourceClaim{claim()}, want: "False NotStarted: ",
		},
		"a rule without effect tells what might be": {
			rule: rule(all, taint(resourcev1.DeviceTaintEffectNone, 0)), claims: []*resourcev1.ResourceClaim{claim(), shared},
			want: "False NoEffect: 2 published devices selected. 1 allocated device selected. 1 pod would be evicted in 1 namespace if the effect was NoExecute. " +
				"This information will not be updated again. Recreate the DeviceTaintRule to trigger an update.",
		},
		"but only once": {rule: said, claims: []*resourcev1.ResourceClaim{claim()}, want: "False NoEffect: as said"},
		"one that only refuses": {
			rule: rule(all, taint(resourcev1.DeviceTaintEffectNoSchedule, 0)), claims: []*resourcev1.ResourceClaim{claim()},
			want: "False OtherEffect: Eviction only happens for the NoExecute effect.",
		},
	}
	devices := []resourcev1.ResourceSlice{slice("gpu-0", 2), slice("gpu-1", 2), slice("gpu-2", 1)} // the last is of a pool that was
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var claims []resourcev1.ResourceClaim
			for _, c := range tc.claims {
				claims = append(claims, *c)
			}
			got := progress(&tc.rule, claims, devices, sets.New(tc.evicted...), metav1.NewTime(now))
			if said := fmt.Sprintf("%s %s: %s", got.Status, got.Reason, got.Message); said != tc.want {
				t.Errorf("progress() says %q, want %q", said, tc.want)
			}
		})
	}
}

func TestARuleCountsWhatItDroveAway(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "web"}}
	held, to := claim(), rule(&resourcev1.DeviceTaintSelector{}, taint(resourcev1.DeviceTaintEffectNoExecute, 0))
	to.UID = "rule"
	c := fake.NewClientBuilder().WithObjects(pod, held, &to).WithStatusSubresource(&corev1.Pod{}, &resourcev1.DeviceTaintRule{}).Build()
	r := &Reconciler{client: c, devices: c, events: record.NewFakeRecorder(10), clock: testclock.NewFakePassiveClock(now)}
	told := func(want string) {
		t.Helper()
		if _, err := r.report(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&to)}); err != nil {
			t.Fatal(err)
		}
		var got resourcev1.DeviceTaintRule
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(&to), &got); err != nil {
			t.Fatal(err)
		}
		if len(got.Status.Conditions) != 1 || got.Status.Conditions[0].Message != want {
			t.Errorf("conditions %+v, want %q", got.Status.Conditions, want)
		}
	}
	told("1 pod needs to be evicted in 1 namespace.")
	if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(held)}); err != nil {
		t.Fatal(err)
	}
	told("1 pod evicted since starting the controller.") // its claim still names it
	if err := c.Delete(t.Context(), &to); err != nil {
		t.Fatal(err)
	}
	if _, err := r.report(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&to)}); err != nil || len(r.tally.pods) != 0 {
		t.Errorf("of a rule that is gone is remembered %v, %v", r.tally.pods, err)
	}
}

func TestReconcileEvictsThePodTheClaimNames(t *testing.T) {
	for uid, want := range map[string]bool{"web": true, "another": false} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "web"}}
		held := claim()
		held.Status.ReservedFor[0].UID = types.UID(uid)
		all := rule(&resourcev1.DeviceTaintSelector{}, taint(resourcev1.DeviceTaintEffectNoExecute, 0))
		c := fake.NewClientBuilder().WithObjects(pod, held, &all).WithStatusSubresource(&corev1.Pod{}).Build()
		r := &Reconciler{client: c, devices: c, events: record.NewFakeRecorder(10), clock: testclock.NewFakePassiveClock(now)}
		for range 2 {
			if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(held)}); err != nil {
				t.Fatal(err)
			}
		}
		err := c.Get(t.Context(), client.ObjectKeyFromObject(pod), &corev1.Pod{})
		if apierrors.IsNotFound(err) != want {
			t.Errorf("a claim of pod %s: %v, want it gone: %v", uid, err, want)
		}
	}
}

func TestAPodWhoseDeviceIsSoundAgainIsTold(t *testing.T) {
	seconds := int64(90)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "web"}}
	held := claim(resourcev1.DeviceToleration{Key: "broken", Value: "yes", TolerationSeconds: &seconds})
	all := rule(&resourcev1.DeviceTaintSelector{}, taint(resourcev1.DeviceTaintEffectNoExecute, 0))
	c, recorder := fake.NewClientBuilder().WithObjects(pod, held, &all).Build(), record.NewFakeRecorder(10)
	r := &Reconciler{client: c, devices: c, events: recorder, clock: testclock.NewFakePassiveClock(now)}
	pass := func(told int) {
		t.Helper()
		if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(held)}); err != nil {
			t.Fatal(err)
		}
		if len(recorder.Events) != told {
			t.Fatalf("%d events, want %d", len(recorder.Events), told)
		}
	}
	pass(0)
	if err := c.Delete(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	pass(1)
	pass(1)
	if got := <-recorder.Events; got != "Normal DeviceTaintManagerEviction Cancelling deletion" {
		t.Errorf("event %q", got)
	}
}

func TestAJumpOfTheClockEvictsNobody(t *testing.T) {
	seconds := int64(90)
	for name, by := range steadytest.Jumps {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "web"}}
			held := claim(resourcev1.DeviceToleration{Key: "broken", Value: "yes", TolerationSeconds: &seconds})
			all := rule(&resourcev1.DeviceTaintSelector{}, taint(resourcev1.DeviceTaintEffectNoExecute, time.Minute))
			c := fake.NewClientBuilder().WithObjects(pod, held, &all).Build()
			r := &Reconciler{client: c, devices: c, events: record.NewFakeRecorder(10), clock: steadytest.Jumped(now, by)}
			result, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(held)})
			if err != nil || result.RequeueAfter != 30*time.Second {
				t.Errorf("Reconcile() = %v, %v", result.RequeueAfter, err)
			}
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
				t.Error(err)
			}
		})
	}
}
