package endpointslicemirroring

//lint:file-ignore SA1019 Endpoints are deprecated, and mirrored for those who still write them.

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

func service(change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "db"}}
	for _, c := range change {
		c(s)
	}
	return s
}

func endpoints(subsets ...corev1.EndpointSubset) *corev1.Endpoints {
	return &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "db", UID: "e1", Labels: map[string]string{"team": "a"},
			Annotations: map[string]string{"note": "b", corev1.LastAppliedConfigAnnotation: "{}"},
		},
		Subsets: subsets,
	}
}

func subset(port int32, ready, notReady []string) corev1.EndpointSubset {
	s := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Port: port, Protocol: corev1.ProtocolTCP}}}
	for _, ip := range ready {
		s.Addresses = append(s.Addresses, corev1.EndpointAddress{IP: ip})
	}
	for _, ip := range notReady {
		s.NotReadyAddresses = append(s.NotReadyAddresses, corev1.EndpointAddress{IP: ip})
	}
	return s
}

// lines are slices as "family ports: addresses", with ! before one that is not ready.
func lines(slices []*discoveryv1.EndpointSlice) map[string]bool {
	all := map[string]bool{}
	for _, s := range slices {
		line := string(s.AddressType)
		for _, p := range s.Ports {
			line += fmt.Sprint(" ", *p.Port)
		}
		line += ":"
		for _, e := range s.Endpoints {
			line += " " + strings.Repeat("!", map[bool]int{false: 1}[*e.Conditions.Ready]) + e.Addresses[0]
		}
		all[line] = true
	}
	return all
}

func TestMirror(t *testing.T) {
	many := make([]string, 1200)
	for i := range many {
		many[i] = fmt.Sprintf("10.0.%d.%d", i/200, i%200+1)
	}
	one := endpoints(subset(80, []string{"10.1.2.3"}, nil))
	skip := one.DeepCopy()
	skip.Labels[discoveryv1.LabelSkipMirror] = "true"
	elects := one.DeepCopy()
	elects.Annotations[leaderAnnotation] = ""
	tests := map[string]struct {
		service   *corev1.Service
		endpoints *corev1.Endpoints
		want      []string
	}{
		"one subset is one slice":               {service(), one, []string{"IPv4 80: 10.1.2.3"}},
		"unready addresses say so":              {service(), endpoints(subset(80, []string{"10.1.2.3"}, []string{"10.1.2.4"})), []string{"IPv4 80: 10.1.2.3 !10.1.2.4"}},
		"a slice for each family":               {service(), endpoints(subset(80, []string{"10.1.2.3", "fd00::3"}, nil)), []string{"IPv4 80: 10.1.2.3", "IPv6 80: fd00::3"}},
		"a slice for each list of ports":        {service(), endpoints(subset(80, []string{"10.1.2.3"}, nil), subset(81, []string{"10.1.2.3"}, nil)), []string{"IPv4 80: 10.1.2.3", "IPv4 81: 10.1.2.3"}},
		"subsets with the same ports share one": {service(), endpoints(subset(80, []string{"10.1.2.3"}, nil), subset(80, []string{"10.1.2.4", "10.1.2.3"}, nil)), []string{"IPv4 80: 10.1.2.3 10.1.2.4"}},
		"an empty object is an empty slice":     {service(), endpoints(), []string{"IPv4:"}},
		"a service with a selector has its own": {service(func(s *corev1.Service) { s.Spec.Selector = map[string]string{"a": "b"} }), one, nil},
		"no service, no mirror":                 {nil, one, nil},
		"no endpoints, no mirror":               {service(), nil, nil},
		"those that ask not to be":              {service(), skip, nil},
		"an election leads nowhere":             {service(), elects, nil},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, whole := mirror(tc.service, tc.endpoints)
			want := map[string]bool{}
			for _, line := range tc.want {
				want[line] = true
			}
			if diff := cmp.Diff(want, lines(got)); diff != "" || !whole {
				t.Errorf("mirror() whole %v (-want +got):\n%s", whole, diff)
			}
		})
	}
	t.Run("a thousand addresses of a subset, ready ones first", func(t *testing.T) {
		got, whole := mirror(service(), endpoints(subset(80, many[:900], many[900:])))
		if len(got) != 1 || len(got[0].Endpoints) != addressLimit || whole {
			t.Errorf("mirror() = %d slices, whole %v; want one of %d that is not whole", len(got), whole, addressLimit)
		}
	})
	t.Run("labels, annotations and owner", func(t *testing.T) {
		got, _ := mirror(service(), one)
		want := metav1.ObjectMeta{
			Namespace: "shop", Name: got[0].Name,
			Labels:      map[string]string{"team": "a", discoveryv1.LabelServiceName: "db", discoveryv1.LabelManagedBy: managedBy},
			Annotations: map[string]string{"note": "b"},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: "v1", Kind: "Endpoints", Name: "db", UID: "e1", Controller: ptr.To(true), BlockOwnerDeletion: ptr.To(true),
			}},
		}
		if diff := cmp.Diff(want, got[0].ObjectMeta); diff != "" {
			t.Errorf("slice's metadata (-want +got):\n%s", diff)
		}
	})
}

func TestReconcileFollowsEndpoints(t *testing.T) {
	object := endpoints(subset(80, []string{"10.1.2.3"}, nil))
	foreign := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "mine", Labels: map[string]string{discoveryv1.LabelServiceName: "db"}}}
	c := fake.NewClientBuilder().WithObjects(service(), object, foreign).Build()
	r := New(c, record.NewFakeRecorder(10))
	settle := func(want ...string) {
		t.Helper()
		for range 2 { // the second pass finds nothing to do
			if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: "shop", Name: "db"}}); err != nil {
				t.Fatal(err)
			}
		}
		var list discoveryv1.EndpointSliceList
		if err := c.List(t.Context(), &list, client.MatchingLabels{discoveryv1.LabelManagedBy: managedBy}); err != nil {
			t.Fatal(err)
		}
		var all []*discoveryv1.EndpointSlice
		for i := range list.Items {
			all = append(all, &list.Items[i])
		}
		wanted := map[string]bool{}
		for _, line := range want {
			wanted[line] = true
		}
		if diff := cmp.Diff(wanted, lines(all)); diff != "" {
			t.Fatalf("slices (-want +got):\n%s", diff)
		}
	}
	settle("IPv4 80: 10.1.2.3")
	change := func(subsets ...corev1.EndpointSubset) {
		t.Helper()
		if err := c.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
			t.Fatal(err)
		}
		object.Subsets = subsets
		if err := c.Update(t.Context(), object); err != nil {
			t.Fatal(err)
		}
	}
	change(subset(80, []string{"10.2.3.4"}, nil))
	settle("IPv4 80: 10.2.3.4")
	change(subset(81, []string{"10.2.3.4"}, nil))
	settle("IPv4 81: 10.2.3.4")
	if err := c.Delete(t.Context(), object); err != nil {
		t.Fatal(err)
	}
	settle()
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(foreign), foreign); err != nil {
		t.Errorf("a slice of somebody else: %v", err)
	}
}
