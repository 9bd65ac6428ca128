package plugins

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// bench is a cluster of two nodes, the first with one device, and claims for such.
func bench(t *testing.T, names ...string) (client.Client, *snapshot.Snapshot) {
	t.Helper()
	snap := cluster(nodeWith("a"), nodeWith("b"))
	snap.SetDeviceClass(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "any"}})
	snap.SetResourceSlice(&resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: resourcev1.ResourceSliceSpec{
		Driver: "gpu.example", NodeName: ptr.To("a"), Pool: resourcev1.ResourcePool{Name: "a", ResourceSliceCount: 1}, Devices: []resourcev1.Device{{Name: "d"}},
	}})
	var objects []client.Object
	for _, name := range names {
		objects = append(objects, &resourcev1.ResourceClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), ResourceVersion: "1"},
			Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{
				Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "any", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1},
			}}}},
		})
	}
	api := fake.NewClientBuilder().WithObjects(objects...).WithStatusSubresource(&resourcev1.ResourceClaim{}).Build()
	showClaims(t, api, snap, names...)
	return api, snap
}

func showClaims(t *testing.T, api client.Client, snap *snapshot.Snapshot, names ...string) {
	t.Helper()
	for _, name := range names {
		c := &resourcev1.ResourceClaim{}
		if err := api.Get(t.Context(), types.NamespacedName{Namespace: "shop", Name: name}, c); err != nil {
			t.Fatal(err)
		}
		snap.SetResourceClaim(c)
	}
}

func podWanting(claim string) *snapshot.Pod {
	p := podAsking("of-" + claim)
	p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "device", ResourceClaimName: &claim}}
	return snapshot.NewPod(p)
}

func TestADeviceIsGivenOnce(t *testing.T) {
	api, snap := bench(t, "one", "two")
	rule := devicesRule(t)
	first, err := rule.Reserve(podWanting("one"), snap, snap.Node("a"))
	if err != nil {
		t.Fatal(err)
	}
	if got := refusals(rule, podWanting("two").Object, snap); len(got) != 2 {
		t.Errorf("the device is taken, a second pod is refused by %v", got)
	}
	if change := first.Undo(snap); change.Kind != snapshot.DevicesChanged {
		t.Errorf("giving it back changes %v", change.Kind)
	}
	if got := refusals(rule, podWanting("two").Object, snap); len(got) != 1 {
		t.Errorf("the device was given back, a second pod is refused by %v", got)
	}
	if first, err = rule.Reserve(podWanting("one"), snap, snap.Node("a")); err != nil {
		t.Fatal(err)
	}
	if err := first.PreBind(t.Context(), api); err != nil {
		t.Fatal(err)
	}
	showClaims(t, api, snap, "one")
	claim := snap.ResourceClaim("shop", "one")
	if claim.Status.Allocation == nil || len(claim.Finalizers) != 1 || len(claim.Status.ReservedFor) != 1 || claim.Status.ReservedFor[0].UID != "of-one" {
		t.Errorf("the claim is %v, %v", claim.Finalizers, claim.Status)
	}
	if may, err := first.Permit(snap); !may || err != nil {
		t.Errorf("Permit() = %v, %v with the device allocated", may, err)
	}
	if got := refusals(rule, podWanting("one").Object, snap); got["b"] != "resourceclaim not available on the node" || got["a"] != "" {
		t.Errorf("a pod of an allocated claim is refused by %v", got)
	}
}

func TestADeviceThatHasToBeMadeReady(t *testing.T) {
	_, snap := bench(t, "one")
	r := &deviceReservation{pod: podWanting("one").Object, all: []string{"one"}}
	claim := snap.ResourceClaim("shop", "one").DeepCopy()
	claim.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{
		Driver: "gpu.example", Pool: "a", Device: "d", BindingConditions: []string{"Attached"}, BindingFailureConditions: []string{"Broken"},
	}}}}
	snap.SetResourceClaim(claim)
	if may, err := r.done(snap); may || err != nil {
		t.Errorf("done() = %v, %v before the driver says anything", may, err)
	}
	say := func(condition string) {
		claim = claim.DeepCopy()
		claim.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: "gpu.example", Pool: "a", Device: "d", Conditions: []metav1.Condition{{Type: condition, Status: metav1.ConditionTrue}}}}
		snap.SetResourceClaim(claim)
	}
	say("Attached")
	if may, err := r.done(snap); !may || err != nil {
		t.Errorf("done() = %v, %v when the device is attached", may, err)
	}
	say("Broken")
	if _, err := r.done(snap); err == nil || !strings.Contains(err.Error(), "Broken") {
		t.Errorf("done() = %v, want it to say what is broken", err)
	}
}

func TestADeviceOnTheWrongNodeIsGivenBack(t *testing.T) {
	api, snap := bench(t, "one")
	rule := devicesRule(t)
	claim := snap.ResourceClaim("shop", "one").DeepCopy()
	claim.Status.Allocation = &resourcev1.AllocationResult{NodeSelector: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{"a"}}},
	}}}}
	claim.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: "other", UID: "other"}}
	snap.SetResourceClaim(claim)
	if rule.PostFilter(podWanting("one"), snap) != nil {
		t.Error("a device another pod uses is taken away")
	}
	claim = claim.DeepCopy()
	claim.Status.ReservedFor = nil
	if err := api.Status().Update(t.Context(), claim); err != nil {
		t.Fatal(err)
	}
	showClaims(t, api, snap, "one")
	act := rule.PostFilter(podWanting("one"), snap)
	if act == nil {
		t.Fatal("a device nobody uses is not given back")
	}
	if err := act(t.Context(), api); err != nil {
		t.Fatal(err)
	}
	showClaims(t, api, snap, "one")
	if snap.ResourceClaim("shop", "one").Status.Allocation != nil {
		t.Error("the claim still has the device")
	}
}

func devicesRule(t *testing.T) Devices {
	t.Helper()
	rule, err := newDevices(&configv1.DynamicResourcesArgs{})
	if err != nil {
		t.Fatal(err)
	}
	return rule.(Devices)
}
