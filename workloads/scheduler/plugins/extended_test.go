package plugins

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

const gpu corev1.ResourceName = "gpu.example/gpu"

// wanting is a container that asks for devices.
func wanting(name string, n int64) corev1.Container {
	c := corev1.Container{Name: name}
	if n > 0 {
		c.Resources.Requests = corev1.ResourceList{gpu: *resource.NewQuantity(n, resource.DecimalSI)}
	}
	return c
}

func staying(c corev1.Container) corev1.Container {
	c.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	return c
}

func TestShare(t *testing.T) {
	type containers = []corev1.Container
	tests := map[string]struct {
		first, then containers
		want        string // devices of each request, then the requests of each container
	}{
		"a container has one request":                                {then: containers{wanting("a", 2)}, want: "2; a 0"},
		"containers have requests of their own":                      {then: containers{wanting("a", 2), wanting("b", 1)}, want: "2 1; a 0 b 1"},
		"one that asks for none has none":                            {then: containers{wanting("a", 0), wanting("b", 1)}, want: "1; b 0"},
		"an init container has what one after it has":                {first: containers{wanting("i", 1)}, then: containers{wanting("a", 1)}, want: "1; i 0 a 0"},
		"an init container that asks for less has a part of that":    {first: containers{wanting("i", 1)}, then: containers{wanting("a", 3)}, want: "1 2; i 0 a 0 a 1"},
		"an init container that asks for more has more besides":      {first: containers{wanting("i", 3)}, then: containers{wanting("a", 1)}, want: "1 2; i 0 a 0 i 1"},
		"an init container has what several after it have":           {first: containers{wanting("i", 2)}, then: containers{wanting("a", 1), wanting("b", 1)}, want: "1 1; i 0 a 0 i 1 b 1"},
		"init containers have the same one after the other":          {first: containers{wanting("i", 2), wanting("j", 1)}, want: "1 1; i 0 j 0 i 1"},
		"an init container shares nothing with a sidecar before it":  {first: containers{staying(wanting("s", 1)), wanting("i", 2)}, then: containers{wanting("a", 1)}, want: "1 1 1; s 0 i 1 a 1 i 2"},
		"an init container has what a sidecar after it has":          {first: containers{wanting("i", 1), staying(wanting("s", 1))}, then: containers{wanting("a", 1)}, want: "1 1; i 0 s 0 a 1"},
		"a pod of which only the overhead asks for it needs nothing": {then: containers{wanting("a", 0)}, want: ";"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			e := share(&corev1.Pod{Spec: corev1.PodSpec{InitContainers: tc.first, Containers: tc.then}}, gpu, "any", 0)
			var counts, parts []string
			for _, r := range e.requests {
				counts = append(counts, fmt.Sprint(r.Exactly.Count))
			}
			for _, m := range e.mappings {
				parts = append(parts, m.ContainerName, strings.TrimPrefix(m.RequestName, "resource-0-part-"))
			}
			if got := strings.TrimSpace(strings.Join(counts, " ") + "; " + strings.Join(parts, " ")); got != tc.want {
				t.Errorf("share() = %q, want %q", got, tc.want)
			}
		})
	}
}

// extendedBench is the bench with a class that stands for a resource, and pods that ask for it.
func extendedBench(t *testing.T, names ...string) (client.Client, *snapshot.Snapshot, []*snapshot.Pod) {
	t.Helper()
	_, snap := bench(t)
	class := snap.DeviceClass("any").DeepCopy()
	class.Spec.ExtendedResourceName = ptr.To(string(gpu))
	snap.SetDeviceClass(class)
	var pods []*snapshot.Pod
	var objects []client.Object
	for _, name := range names {
		p := podAsking(name)
		p.Spec.Containers[0] = wanting("app", 1)
		pods, objects = append(pods, snapshot.NewPod(p)), append(objects, p)
	}
	api := fake.NewClientBuilder().WithObjects(objects...).WithStatusSubresource(&resourcev1.ResourceClaim{}, &corev1.Pod{}).Build()
	return interceptor.NewClient(api, interceptor.Funcs{
		Create: func(ctx context.Context, inner client.WithWatch, o client.Object, options ...client.CreateOption) error {
			o.SetUID(types.UID("the one called " + o.GetName()))
			return inner.Create(ctx, o, options...)
		},
	}), snap, pods
}

// written makes a reservation true; the snapshot is told.
func written(t *testing.T, api client.Client, snap *snapshot.Snapshot, pod *snapshot.Pod, r *Reservation) *resourcev1.ResourceClaim {
	t.Helper()
	if err := r.PreBind(t.Context(), api); err != nil {
		t.Fatal(err)
	}
	claim := &resourcev1.ResourceClaim{}
	if err := api.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: extendedName(pod.Object)}, claim); err != nil {
		t.Fatal(err)
	}
	snap.SetResourceClaim(claim)
	return claim
}

func statusOf(t *testing.T, api client.Client, pod *snapshot.Pod) *corev1.PodExtendedResourceClaimStatus {
	t.Helper()
	var p corev1.Pod
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(pod.Object), &p); err != nil {
		t.Fatal(err)
	}
	return p.Status.ExtendedResourceClaimStatus
}

func TestADeviceForAnExtendedResource(t *testing.T) {
	api, snap, pods := extendedBench(t, "one", "two")
	rule := devicesRule(t)
	if got := refusals(rule, pods[0].Object, snap); len(got) != 1 || got["b"] != "cannot allocate all claims" {
		t.Fatalf("the first pod is refused by %v", got)
	}
	r, err := rule.Reserve(pods[0], snap, snap.Node("a"))
	if err != nil {
		t.Fatal(err)
	}
	if got := refusals(rule, pods[1].Object, snap); len(got) != 2 {
		t.Errorf("the device is taken, a second pod is refused by %v", got)
	}
	claim := written(t, api, snap, pods[0], r)
	if claim.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" || len(claim.OwnerReferences) != 1 || claim.OwnerReferences[0].UID != pods[0].Object.UID ||
		len(claim.Finalizers) != 1 || claim.Status.Allocation == nil || len(claim.Status.ReservedFor) != 1 {
		t.Errorf("the claim is %+v", claim)
	}
	want := &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: claim.Name, RequestMappings: []corev1.ContainerExtendedResourceRequest{
		{ContainerName: "app", ResourceName: string(gpu), RequestName: claim.Spec.Devices.Requests[0].Name},
	}}
	if diff := cmp.Diff(want, statusOf(t, api, pods[0])); diff != "" {
		t.Errorf("what the pod says (-want +got):\n%s", diff)
	}
	if may, err := r.Permit(snap); !may || err != nil {
		t.Errorf("Permit() = %v, %v with the device allocated", may, err)
	}
	if got := refusals(rule, pods[1].Object, snap); len(got) != 2 {
		t.Errorf("the claim is there, a second pod is refused by %v", got)
	}
}

func TestAnAttemptFindsTheClaimOfTheLast(t *testing.T) {
	api, snap, pods := extendedBench(t, "one")
	rule := devicesRule(t)
	first, err := rule.Reserve(pods[0], snap, snap.Node("a"))
	if err != nil {
		t.Fatal(err)
	}
	claim := written(t, api, snap, pods[0], first)
	pods[0].Object.Status.ExtendedResourceClaimStatus = statusOf(t, api, pods[0])
	first.Undo(snap)
	if got := refusals(rule, pods[0].Object, snap); len(got) != 1 || got["b"] == "" {
		t.Errorf("the pod has its device on a and is refused by %v", got)
	}
	again, err := rule.Reserve(pods[0], snap, snap.Node("a"))
	if err != nil {
		t.Fatal(err)
	}
	if again.PreBind != nil {
		t.Error("there is something to write, though all is as it should be")
	}

	// Another driver reports the resource on b, where the pod goes instead: the claim is in the way.
	b := snap.Node("b").Object.DeepCopy()
	b.Status.Allocatable[gpu] = resource.MustParse("1")
	snap.SetNode(b)
	if got := refusals(rule, pods[0].Object, snap); len(got) != 0 {
		t.Errorf("b reports the resource, the pod is refused by %v", got)
	}
	moved, err := rule.Reserve(pods[0], snap, snap.Node("b"))
	if err != nil {
		t.Fatal(err)
	}
	if err := moved.PreBind(t.Context(), api); err != nil {
		t.Fatal(err)
	}
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); !apierrors.IsNotFound(err) {
		t.Errorf("the claim is there still (%v)", err)
	}
	if said := statusOf(t, api, pods[0]); said != nil {
		t.Errorf("the pod says %v", said)
	}
}

func TestAClaimForExtendedResourcesThatIsOfNoUseIsDeleted(t *testing.T) {
	api, snap, pods := extendedBench(t, "one")
	rule := devicesRule(t)
	if rule.PostFilter(pods[0], snap) != nil {
		t.Error("there is nothing to give back")
	}
	r, err := rule.Reserve(pods[0], snap, snap.Node("a"))
	if err != nil {
		t.Fatal(err)
	}
	claim := written(t, api, snap, pods[0], r)
	r.Undo(snap)
	act := rule.PostFilter(pods[0], snap)
	if act == nil {
		t.Fatal("the device is not given back")
	}
	if err := act(t.Context(), api); err != nil {
		t.Fatal(err)
	}
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(claim), claim); !apierrors.IsNotFound(err) {
		t.Errorf("the claim is there still (%v)", err)
	}
	if said := statusOf(t, api, pods[0]); said != nil {
		t.Errorf("the pod says %v", said)
	}
}

func TestKindsAreFollowedWhenAPodNeedsThem(t *testing.T) {
	_, snap, pods := extendedBench(t, "one")
	rule := devicesRule(t)
	if got := len(rule.Needs(snapshot.NewPod(podAsking("plain")), snap)); got != 0 {
		t.Errorf("a pod that asks for nothing needs %d kinds", got)
	}
	if got := len(rule.Needs(podWanting("claim"), snapshot.New())); got != len(deviceKinds) {
		t.Errorf("a pod with a claim needs %d kinds", got)
	}
	if got := len(rule.Needs(pods[0], snapshot.New())); got != 1 {
		t.Errorf("a pod with an extended resource needs %d kinds", got)
	}
	if got := len(rule.Needs(pods[0], snap)); got != len(deviceKinds) {
		t.Errorf("a pod with an extended resource that a class stands for needs %d kinds", got)
	}
}
