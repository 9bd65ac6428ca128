package endpoints_test

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"knarr.dev/knarr/netstack/endpoints"
	"knarr.dev/knarr/netstack/endpoints/endpointstest"
)

func service(name, ip string) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip}},
	}
}

func slice(name, of string, addresses ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{
		Namespace: "shop", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: of},
	}}
	for _, a := range addresses {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}})
	}
	return s
}

func key(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: "shop", Name: name}
}

func TestView(t *testing.T) {
	cluster, view := endpointstest.Running(t, service("web", "10.43.0.10"), slice("web-b", "web", "10.42.0.2"), slice("web-a", "web", "10.42.0.3"))

	if got := names(view.Get(key("web"))); !cmp.Equal(got, []string{"web-a", "web-b"}) {
		t.Errorf("slices of web = %v, want them complete and by name", got)
	}
	if got := view.Owners(netip.MustParseAddr("10.42.0.2")); !cmp.Equal(got, []types.NamespacedName{key("web")}) {
		t.Errorf("owners of an endpoint = %v, want web", got)
	}

	changed := make(chan types.NamespacedName, 10)
	cancel := view.Subscribe(func(k types.NamespacedName) { changed <- k })
	expect(t, changed, key("web")) // what was there already

	cluster.Put(service("api", "10.43.0.11"))
	expect(t, changed, key("api"))
	if got := view.Owners(netip.MustParseAddr("10.43.0.11")); !cmp.Equal(got, []types.NamespacedName{key("api")}) {
		t.Errorf("owners of a cluster address = %v, want api", got)
	}

	cluster.Put(slice("web-b", "api", "10.42.0.2")) // a slice changes sides
	expect(t, changed, key("web"))
	expect(t, changed, key("api"))
	if got := names(view.Get(key("web"))); !cmp.Equal(got, []string{"web-a"}) {
		t.Errorf("slices of web = %v, want the one that stayed", got)
	}

	cluster.Delete(service("web", "10.43.0.10"), slice("web-a", "web"))
	expect(t, changed, key("web"))
	expect(t, changed, key("web"))
	if got := view.Get(key("web")); got.Service != nil || len(got.Slices) != 0 {
		t.Errorf("a deleted service left %+v", got)
	}
	if got := view.Owners(netip.MustParseAddr("10.42.0.3")); len(got) != 0 {
		t.Errorf("an address of a deleted service belongs to %v", got)
	}
	if !view.HasServices("shop") || view.HasServices("empty") {
		t.Error("a namespace has services exactly while one is in it")
	}

	cancel()
	cluster.Delete(service("api", ""))
	if len(changed) != 0 {
		t.Error("a cancelled subscriber was called")
	}
}

func names(e endpoints.Entry) []string {
	var all []string
	for _, s := range e.Slices {
		all = append(all, s.Name)
	}
	return all
}

func expect(t *testing.T, changed <-chan types.NamespacedName, want types.NamespacedName) {
	t.Helper()
	select {
	case got := <-changed:
		if got != want {
			t.Errorf("change of %s, want %s", got, want)
		}
	case <-time.After(5 * time.Second):
		t.Fatalf("no change of %s", want)
	}
}
