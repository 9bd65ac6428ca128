package endpointslice

//lint:file-ignore SA1019 Endpoints are deprecated, and served to those who still read them.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	clientsetfake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

func service(change func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "svc", Labels: map[string]string{"team": "a"}},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": "web"}, ClusterIP: "10.43.0.9", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromString("http")}},
		},
	}
	if change != nil {
		change(s)
	}
	return s
}

func pod(n int, ready bool, change func(*corev1.Pod)) *corev1.Pod {
	name := fmt.Sprintf("web-%d", n)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{NodeName: "n", Containers: []corev1.Container{{Ports: []corev1.ContainerPort{
			{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP},
		}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: fmt.Sprintf("10.42.0.%d", n), PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.42.0.%d", n)}, {IP: fmt.Sprintf("fd00::%d", n)}}},
	}
	if ready {
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	if change != nil {
		change(p)
	}
	return p
}

func TestSubsets(t *testing.T) {
	ending := func(p *corev1.Pod) { p.DeletionTimestamp = ptr.To(metav1.Now()) }
	tests := map[string]struct {
		service *corev1.Service
		pods    []*corev1.Pod
		want    []string // "port: ready | not ready"
	}{
		"ready and unready apart": {
			service: service(nil), pods: []*corev1.Pod{pod(2, true, nil), pod(1, true, nil), pod(3, false, nil)},
			want: []string{"8080: 10.42.0.1 10.42.0.2 | 10.42.0.3"},
		},
		"unready ones published": {
			service: service(func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }), pods: []*corev1.Pod{pod(3, false, nil)},
			want: []string{"8080: 10.42.0.3 |"},
		},
		"pods that end are left out": {service: service(nil), pods: []*corev1.Pod{pod(1, true, ending)}},
		"pods without an address are left out": {
			service: service(nil), pods: []*corev1.Pod{pod(1, true, func(p *corev1.Pod) { p.Status.PodIP, p.Status.PodIPs = "", nil })},
		},
		"a name that means other numbers in other pods": {
			service: service(nil), pods: []*corev1.Pod{pod(1, true, nil), pod(2, true, func(p *corev1.Pod) { p.Spec.Containers[0].Ports[0].ContainerPort = 9090 })},
			want: []string{"8080: 10.42.0.1 |", "9090: 10.42.0.2 |"},
		},
		"a pod that has no such port": {
			service: service(nil), pods: []*corev1.Pod{pod(1, true, func(p *corev1.Pod) { p.Spec.Containers[0].Ports = nil })},
		},
		"the service's family": {
			service: service(func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol} }), pods: []*corev1.Pod{pod(1, true, nil)},
			want: []string{"8080: fd00::1 |"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, s := range subsets(tc.service, tc.pods) {
				line := fmt.Sprintf("%d:", s.Ports[0].Port)
				for _, a := range s.Addresses {
					line += " " + a.IP
				}
				line += " |"
				for _, a := range s.NotReadyAddresses {
					line += " " + a.IP
				}
				got = append(got, line)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("subsets (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLimitKeepsReadyAddresses(t *testing.T) {
	three := []corev1.EndpointAddress{{IP: "1"}, {IP: "2"}, {IP: "3"}}
	cut, whole := limit([]corev1.EndpointSubset{{NotReadyAddresses: three}, {Addresses: three}}, 4)
	if whole || len(cut) != 2 || len(cut[0].NotReadyAddresses) != 1 || len(cut[1].Addresses) != 3 {
		t.Errorf("limit() = %v, %v; want all ready addresses and one more", cut, whole)
	}
}

// cached shows a controller the slices its clientset holds, as the shared cache would once it has caught up.
func cached(objects ...client.Object) (*Reconciler, client.Client, kubernetes.Interface) {
	c := fake.NewClientBuilder().WithObjects(objects...).Build()
	slices := clientsetfake.NewClientset()
	return New(c, slices, record.NewFakeRecorder(10)), c, slices
}

func TestReconcilePublishesBothWays(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelTopologyZone: "z1"}}}
	r, c, clients := cached(service(nil), node, pod(1, true, nil), pod(2, false, nil))
	request := ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "web"}}
	for range 2 { // the cache shows no slice yet; the second pass must not make another
		if _, err := r.Reconcile(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	list, err := clients.DiscoveryV1().EndpointSlices("shop").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Items) != 1 || len(list.Items[0].Endpoints) != 2 {
		t.Fatalf("slices %v, want one of two", list.Items)
	}
	slice := list.Items[0]
	if slice.Labels[discoveryv1.LabelServiceName] != "web" || slice.Labels["team"] != "a" || *slice.Ports[0].Port != 8080 {
		t.Errorf("labels %v, ports %v", slice.Labels, slice.Ports)
	}
	for _, e := range slice.Endpoints {
		if want := e.TargetRef.Name == "web-1"; *e.Conditions.Ready != want || *e.Zone != "z1" || *e.NodeName != "n" {
			t.Errorf("endpoint %+v", e)
		}
	}
	var endpoints corev1.Endpoints
	if err := c.Get(t.Context(), request.NamespacedName, &endpoints); err != nil {
		t.Fatal(err)
	}
	if len(endpoints.Subsets) != 1 || len(endpoints.Subsets[0].Addresses) != 1 || len(endpoints.Subsets[0].NotReadyAddresses) != 1 {
		t.Errorf("endpoints %v", endpoints.Subsets)
	}
}

func TestReconcileTellsOfWhatItCannotPublish(t *testing.T) {
	refused := errors.New("refused")
	tests := map[string]struct {
		refuse func(*Reconciler, kubernetes.Interface)
		want   string
	}{
		"slices": {
			refuse: func(_ *Reconciler, clients kubernetes.Interface) {
				clients.(*clientsetfake.Clientset).PrependReactor("create", "endpointslices", func(clienttesting.Action) (bool, runtime.Object, error) {
					return true, nil, refused
				})
			},
			want: "Warning FailedToUpdateEndpointSlices Error updating Endpoint Slices for Service shop/web: ",
		},
		"endpoints": {
			refuse: func(r *Reconciler, _ kubernetes.Interface) {
				r.client = interceptor.NewClient(r.client.(client.WithWatch), interceptor.Funcs{
					Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error { return refused },
				})
			},
			want: "Warning FailedToCreateEndpoint Failed to create endpoint for service shop/web: refused",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r, _, clients := cached(service(nil), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, pod(1, true, nil))
			tc.refuse(r, clients)
			if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "web"}}); err == nil {
				t.Error("Reconcile() = nil, want an error that brings the next attempt")
			}
			if got := <-r.events.(*record.FakeRecorder).Events; !strings.HasPrefix(got, tc.want) {
				t.Errorf("event %q, want %q", got, tc.want)
			}
		})
	}
}

func TestReconcileDropsOnlyItsOwnEndpoints(t *testing.T) {
	owned := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "owned", Labels: map[string]string{ownerLabel: ownerName}}}
	foreign := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "foreign"}}
	r, c, _ := cached(owned, foreign)
	for _, name := range []string{"owned", "foreign"} {
		if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: name}}); err != nil {
			t.Fatal(err)
		}
	}
	var left corev1.EndpointsList
	if err := c.List(t.Context(), &left); err != nil {
		t.Fatal(err)
	}
	if len(left.Items) != 1 || left.Items[0].Name != "foreign" {
		t.Errorf("left %v, want the foreign one", left.Items)
	}
}
