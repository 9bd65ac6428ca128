package workloads_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestADeviceStandsForAnExtendedResource follows two pods that ask for a resource of which there is one device (KEP-5004).
func TestADeviceStandsForAnExtendedResource(t *testing.T) {
	addNode(t, "workshop")
	ns := newNamespace(t, "tools")
	class := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "lathes"}, Spec: resourcev1.DeviceClassSpec{ExtendedResourceName: ptr.To("tools.example/lathe")}}
	slice := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "lathes"}, Spec: resourcev1.ResourceSliceSpec{
		Driver: "tools.example", NodeName: ptr.To("workshop"), Pool: resourcev1.ResourcePool{Name: "lathes", Generation: 1, ResourceSliceCount: 1}, Devices: []resourcev1.Device{{Name: "one"}},
	}}
	asking := func(name string) *corev1.Pod {
		one := corev1.ResourceList{"tools.example/lathe": resource.MustParse("1")}
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.PodSpec{
			Containers: []corev1.Container{{Name: "c", Image: "runs", Resources: corev1.ResourceRequirements{Requests: one, Limits: one}}},
		}}
	}
	first := asking("first")
	create(t, first)
	eventually(t, &corev1.Pod{}, ns, "first", "told that nobody has the resource", func(p *corev1.Pod) bool {
		return len(p.Status.Conditions) > 0 && p.Status.Conditions[0].Reason == corev1.PodReasonUnschedulable
	})
	create(t, class)
	create(t, slice)
	placed := eventually(t, &corev1.Pod{}, ns, "first", "placed", func(p *corev1.Pod) bool { return p.Spec.NodeName == "workshop" })
	if placed.Status.NominatedNodeName != "" {
		t.Errorf("the pod is on its node and meant for %s", placed.Status.NominatedNodeName)
	}
	said := placed.Status.ExtendedResourceClaimStatus
	if said == nil || len(said.RequestMappings) != 1 || said.RequestMappings[0].ContainerName != "c" || said.RequestMappings[0].ResourceName != "tools.example/lathe" {
		t.Fatalf("the pod says of its claim %v", said)
	}
	claim := &resourcev1.ResourceClaim{}
	if err := api.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: said.ResourceClaimName}, claim); err != nil {
		t.Fatal(err)
	}
	if a := claim.Status.Allocation; a == nil || len(a.Devices.Results) != 1 || a.Devices.Results[0].Request != said.RequestMappings[0].RequestName ||
		len(claim.Status.ReservedFor) != 1 || claim.Status.ReservedFor[0].UID != first.UID || !metav1.IsControlledBy(claim, first) {
		t.Errorf("the claim is %+v of %v", claim.Status, claim.OwnerReferences)
	}
	second := asking("second")
	create(t, second)
	eventually(t, &corev1.Pod{}, ns, "second", "told that the device is taken", func(p *corev1.Pod) bool {
		return len(p.Status.Conditions) > 0 && p.Status.Conditions[0].Reason == corev1.PodReasonUnschedulable
	})
	if err := api.Delete(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	eventually(t, &corev1.Pod{}, ns, "second", "placed where the first was", func(p *corev1.Pod) bool { return p.Spec.NodeName == "workshop" })
	eventuallyGone(t, claim, ns, claim.Name)
	for _, o := range []client.Object{second, slice, class} {
		if err := api.Delete(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
}
