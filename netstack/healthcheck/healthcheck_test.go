package healthcheck

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/netstack/endpoints/endpointstest"
)

func service(port int32) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal, HealthCheckNodePort: port,
	}}
}

func slice(node string, ready bool) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "shop", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.42.0.2"}, NodeName: ptr.To(node), Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(ready)}},
			{Addresses: []string{"10.42.1.2"}, NodeName: ptr.To("there")},
		},
	}
}

// free is a port nobody has.
func free(t *testing.T) int32 {
	t.Helper()
	listener, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return int32(listener.Addr().(*net.TCPAddr).Port)
}

// says waits until a port answers with a status; 0 is no answer at all.
func says(t *testing.T, port int32, want int) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	deadline := time.Now().Add(5 * time.Second)
	for {
		got := 0
		if response, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/healthz", port)); err == nil {
			got = response.StatusCode
			response.Body.Close()
		}
		if got == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("port %d says %d; want %d", port, got, want)
		}
	}
}

func TestAPortFollowsItsService(t *testing.T) {
	first, second := free(t), free(t)
	cluster, view := endpointstest.Running(t, service(first), slice("here", true))
	endpointstest.Run(t, New("here", view, slog.New(slog.DiscardHandler)))
	says(t, first, http.StatusOK)
	cluster.Put(slice("here", false))
	says(t, first, http.StatusServiceUnavailable)
	cluster.Put(slice("elsewhere", true))
	says(t, first, http.StatusServiceUnavailable)
	cluster.Put(service(second), slice("here", true))
	says(t, second, http.StatusOK)
	says(t, first, 0)
	everywhere := service(second)
	everywhere.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	cluster.Put(everywhere)
	says(t, second, 0)
	cluster.Put(service(second))
	says(t, second, http.StatusOK)
	cluster.Delete(service(second))
	says(t, second, 0)
}
