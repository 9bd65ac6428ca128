package endpointslice

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
)

func zoned(name, zone string, change func(*corev1.Node)) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone}},
		Status: corev1.NodeStatus{
			Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")},
			Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
	if change != nil {
		change(n)
	}
	return n
}

// hinted counts the zones that a service's endpoints are said to be for.
func hinted(t *testing.T, s *corev1.Service, nodes ...*corev1.Node) (zonesOf map[string]int, queued []string) {
	t.Helper()
	objects := []client.Object{s}
	for _, n := range nodes {
		objects = append(objects, n)
	}
	for i := range 6 { // all in the first node's zone or the second's
		objects = append(objects, pod(i+1, true, func(p *corev1.Pod) { p.Spec.NodeName = fmt.Sprintf("n%d", i%2+1) }))
	}
	r, c, clients := cached(objects...)
	shifted := make(chan event.GenericEvent, 1)
	if _, err := (&zones{client: c, shares: r.zones, shifted: shifted}).Reconcile(t.Context(), everyNode); err != nil {
		t.Fatal(err)
	}
	close(shifted)
	for e := range shifted {
		queued = append(queued, e.Object.GetName())
	}
	request := ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "web"}}
	if _, err := r.Reconcile(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	list, err := clients.DiscoveryV1().EndpointSlices("shop").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	zonesOf = map[string]int{}
	for _, slice := range list.Items {
		for _, e := range slice.Endpoints {
			if e.Hints == nil {
				continue
			}
			for _, zone := range e.Hints.ForZones {
				zonesOf["zone "+zone.Name]++
			}
			for _, node := range e.Hints.ForNodes {
				zonesOf["node "+node.Name]++
			}
		}
	}
	return zonesOf, queued
}

func TestEndpointsAreForTheirZones(t *testing.T) {
	auto := service(func(s *corev1.Service) { s.Annotations = map[string]string{corev1.AnnotationTopologyMode: "Auto"} })
	prefers := func(how string) *corev1.Service {
		return service(func(s *corev1.Service) { s.Spec.TrafficDistribution = &how })
	}
	lost := func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }
	tests := map[string]struct {
		service *corev1.Service
		nodes   []*corev1.Node
		want    map[string]int
		queued  []string
	}{
		"mode Auto divides them by the zones' CPU": {
			service: auto, nodes: []*corev1.Node{zoned("n1", "a", nil), zoned("n2", "b", nil)},
			want: map[string]int{"zone a": 3, "zone b": 3}, queued: []string{"web"},
		},
		"a zone that has none of its own gets some of another's": {
			service: auto, nodes: []*corev1.Node{zoned("n1", "a", nil), zoned("n2", "a", nil), zoned("n3", "b", nil), zoned("n4", "b", nil)},
			want: map[string]int{"zone a": 3, "zone b": 3}, queued: []string{"web"},
		},
		"one zone is not divided": {
			service: auto, nodes: []*corev1.Node{zoned("n1", "a", nil), zoned("n2", "a", nil)}, want: map[string]int{}, queued: []string{"web"},
		},
		"a zone whose node is lost is none": {
			service: auto, nodes: []*corev1.Node{zoned("n1", "a", nil), zoned("n2", "b", lost)}, want: map[string]int{}, queued: []string{"web"},
		},
		"a service that asks for nothing gets no hints": {
			service: service(nil), nodes: []*corev1.Node{zoned("n1", "a", nil), zoned("n2", "b", nil)}, want: map[string]int{},
		},
		"PreferSameZone is the endpoint's own zone": {
			service: prefers(corev1.ServiceTrafficDistributionPreferSameZone), nodes: []*corev1.Node{zoned("n1", "a", nil), zoned("n2", "b", nil)},
			want: map[string]int{"zone a": 3, "zone b": 3},
		},
		"PreferSameNode is its node as well": {
			service: prefers(corev1.ServiceTrafficDistributionPreferSameNode), nodes: []*corev1.Node{zoned("n1", "a", nil), zoned("n2", "a", nil)},
			want: map[string]int{"zone a": 6, "node n1": 3, "node n2": 3},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, queued := hinted(t, tc.service, tc.nodes...)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("hints (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.queued, queued); diff != "" {
				t.Errorf("services to look at again (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOnlySomeNewsOfANodeShiftsShares(t *testing.T) {
	tests := map[string]struct {
		change func(*corev1.Node)
		want   bool
	}{
		"it is lost":            {func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionFalse }, true},
		"it moves":              {func(n *corev1.Node) { n.Labels[corev1.LabelTopologyZone] = "b" }, true},
		"it has more CPU":       {func(n *corev1.Node) { n.Status.Allocatable[corev1.ResourceCPU] = resource.MustParse("8") }, true},
		"it is a control plane": {func(n *corev1.Node) { n.Labels["node-role.kubernetes.io/control-plane"] = "" }, true},
		"it says it is alive":   {func(n *corev1.Node) { n.Status.Conditions[0].LastHeartbeatTime = metav1.Now() }, false},
	}
	for name, tc := range tests {
		if got := shareOf(zoned("n", "a", nil)) != shareOf(zoned("n", "a", tc.change)); got != tc.want {
			t.Errorf("%s: shifts shares: %v, want %v", name, got, tc.want)
		}
	}
}
