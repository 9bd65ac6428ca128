package servicecidr

import (
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	testclock "k8s.io/utils/clock/testing"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"knarr.dev/knarr/workloads/steady/steadytest"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func cidr(name string, deleting bool, ranges ...string) networkingv1.ServiceCIDR {
	c := networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Finalizers: []string{finalizer}}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: ranges}}
	if deleting {
		c.DeletionTimestamp = &metav1.Time{Time: now}
	}
	return c
}

func address(name string) networkingv1.IPAddress {
	return networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func TestJudge(t *testing.T) {
	ready := cidr("a", false, "10.0.0.0/24")
	meta.SetStatusCondition(&ready.Status.Conditions, metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue, Message: "Kubernetes Service CIDR is ready"})
	tests := map[string]struct {
		cidr      networkingv1.ServiceCIDR
		others    []networkingv1.ServiceCIDR
		addresses []networkingv1.IPAddress
		deleting  time.Duration
		status    metav1.ConditionStatus // "": as it is
		gone      bool
	}{
		"a new range becomes ready":                      {cidr: cidr("a", false, "10.0.0.0/24"), status: metav1.ConditionTrue},
		"a ready one stays as it is":                     {cidr: ready},
		"a deleted one in use stays":                     {cidr: cidr("a", true, "10.0.0.0/24"), addresses: []networkingv1.IPAddress{address("10.0.0.7")}, deleting: time.Hour, status: metav1.ConditionFalse},
		"one whose second family is in use stays":        {cidr: cidr("a", true, "10.0.0.0/24", "fd00::/112"), addresses: []networkingv1.IPAddress{address("fd00::7")}, deleting: time.Hour, status: metav1.ConditionFalse},
		"one whose addresses are in another range goes":  {cidr: cidr("a", true, "10.0.0.0/24"), others: []networkingv1.ServiceCIDR{cidr("b", false, "10.0.0.0/16")}, addresses: []networkingv1.IPAddress{address("10.0.0.7")}, deleting: time.Hour, gone: true},
		"that other must stay itself":                    {cidr: cidr("a", true, "10.0.0.0/24"), others: []networkingv1.ServiceCIDR{cidr("b", true, "10.0.0.0/16")}, addresses: []networkingv1.IPAddress{address("10.0.0.7")}, deleting: time.Hour, status: metav1.ConditionFalse},
		"addresses of others are no reason":              {cidr: cidr("a", true, "10.0.0.0/24"), addresses: []networkingv1.IPAddress{address("10.0.1.7")}, deleting: time.Hour, gone: true},
		"nobody knows yet that nothing came to be of it": {cidr: cidr("a", true, "10.0.0.0/24"), deleting: 9 * time.Second},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			next, gone := judge(&tc.cidr, append(tc.others, tc.cidr), tc.addresses, tc.deleting, now)
			var status metav1.ConditionStatus
			if next != nil {
				status = meta.FindStatusCondition(next.Status.Conditions, "Ready").Status
			}
			if status != tc.status || gone != tc.gone {
				t.Errorf("judge() = ready %q, gone %v; want %q, %v", status, gone, tc.status, tc.gone)
			}
		})
	}
}

func TestReconcile(t *testing.T) {
	fresh := cidr("a", false, "10.0.0.0/24")
	fresh.Finalizers = nil
	used := address("10.0.0.7")
	c := fake.NewClientBuilder().WithObjects(&fresh, &used).WithStatusSubresource(&networkingv1.ServiceCIDR{}).Build()
	clock := testclock.NewFakePassiveClock(now)
	r := &Reconciler{client: c, ranges: c, live: c, steady: clock, clock: clock, deleting: map[types.UID]time.Time{}}
	settle := func() *networkingv1.ServiceCIDR {
		t.Helper()
		for range 3 {
			if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Name: "a"}}); err != nil {
				t.Fatal(err)
			}
		}
		var got networkingv1.ServiceCIDR
		if err := c.Get(t.Context(), client.ObjectKey{Name: "a"}, &got); err != nil {
			return nil
		}
		return &got
	}
	if got := settle(); !meta.IsStatusConditionTrue(got.Status.Conditions, "Ready") || len(got.Finalizers) != 1 {
		t.Fatalf("a new range: %+v", got)
	}
	if err := c.Delete(t.Context(), &fresh); err != nil {
		t.Fatal(err)
	}
	if got := settle(); !meta.IsStatusConditionFalse(got.Status.Conditions, "Ready") {
		t.Errorf("deleted while in use: %+v", got)
	}
	if err := c.Delete(t.Context(), &used); err != nil {
		t.Fatal(err)
	}
	clock.SetTime(now.Add(grace))
	if got := settle(); got != nil {
		t.Errorf("deleted and no longer in use: %+v", got)
	}
}

func TestAJumpOfTheClockEndsNoGrace(t *testing.T) {
	for name, by := range steadytest.Jumps {
		t.Run(name, func(t *testing.T) {
			deleted := cidr("a", true, "10.0.0.0/24")
			c := fake.NewClientBuilder().WithObjects(&deleted).WithStatusSubresource(&networkingv1.ServiceCIDR{}).Build()
			clock := testclock.NewFakePassiveClock(now)
			r := &Reconciler{client: c, ranges: c, live: c, steady: steadytest.Jumped(now, by), clock: clock, deleting: map[types.UID]time.Time{}}
			for range 2 {
				if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&deleted)}); err != nil {
					t.Fatal(err)
				}
				if err := c.Get(t.Context(), client.ObjectKeyFromObject(&deleted), &deleted); err != nil {
					t.Errorf("%v after it was deleted: %v", clock.Since(now), err)
				}
				clock.SetTime(now.Add(grace - time.Second))
			}
		})
	}
}
