package apiserver_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset"

	"knarr.dev/knarr/test/certs"
)

func certificateOf(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// fleet is a server of an API of its own, as somebody else would run it in the cluster. It believes whom a front proxy
// says it asks for, and nobody else.
type fleet struct {
	address string
	ca      []byte
	config  *tls.Config
	running *http.Server
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	certFile, keyFile, caFile := certs.Write(t, t.TempDir(), "fleet.default.svc")
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	proxies := x509.NewCertPool()
	proxies.AppendCertsFromPEM(server.PKI.FrontProxyCA.CertPEM)
	f := &fleet{ca: ca, address: "127.0.0.1:0", config: &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: proxies, NextProtos: []string{"h2", "http/1.1"},
	}}
	f.start(t)
	t.Cleanup(f.stop)
	return f
}

// start listens where it did before.
func (f *fleet) start(t *testing.T) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(within(t), "tcp", f.address)
	if err != nil {
		t.Fatal(err)
	}
	f.address = listener.Addr().String()
	f.running = &http.Server{Handler: f, TLSConfig: f.config, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	go func(s *http.Server) { _ = s.ServeTLS(listener, "", "") }(f.running)
}

func (f *fleet) stop() { _ = f.running.Close() }

func (f *fleet) port() int32 {
	_, port, _ := net.SplitHostPort(f.address)
	var n int32
	_, _ = fmt.Sscan(port, &n)
	return n
}

func (f *fleet) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := func(body any) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(body)
	}
	boat := func(name string) map[string]any {
		return map[string]any{"apiVersion": "fleet.knarr.dev/v1", "kind": "Boat", "metadata": map[string]any{
			"name": name, "namespace": "default", "resourceVersion": "1",
			"annotations": map[string]any{"user": r.Header.Get("X-Remote-User"), "groups": strings.Join(r.Header["X-Remote-Group"], ",")},
		}}
	}
	switch {
	case r.URL.Path == "/apis/fleet.knarr.dev/v1":
		answer(metav1.APIResourceList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "APIResourceList"}, GroupVersion: "fleet.knarr.dev/v1",
			APIResources: []metav1.APIResource{{Name: "boats", SingularName: "boat", Kind: "Boat", Namespaced: true, Verbs: metav1.Verbs{"get", "list", "watch"}}}})
	case r.URL.Path == "/apis/fleet.knarr.dev/v1/namespaces/default/boats" && r.URL.Query().Get("watch") != "":
		for _, name := range []string{"dinghy", "raft"} {
			answer(map[string]any{"type": "ADDED", "object": boat(name)})
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
	case r.URL.Path == "/apis/fleet.knarr.dev/v1/namespaces/default/boats":
		answer(map[string]any{"apiVersion": "fleet.knarr.dev/v1", "kind": "BoatList", "metadata": map[string]any{"resourceVersion": "1"}, "items": []any{boat("dinghy")}})
	default:
		http.NotFound(w, r)
	}
}

func aggregation(t *testing.T) *aggregatorclient.Clientset {
	t.Helper()
	client, err := aggregatorclient.NewForConfig(server.Admin())
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// lead makes a Service that leads to a port of this machine: no proxy runs here that would know cluster addresses.
func lead(t *testing.T, name string, spec corev1.ServiceSpec) {
	t.Helper()
	services := admin(t).CoreV1().Services("default")
	if _, err := services.Create(within(t), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := services.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
}

func aggregate(t *testing.T, group, service string, port int32, ca []byte) string {
	t.Helper()
	api := aggregation(t).ApiregistrationV1().APIServices()
	object := &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: "v1." + group},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: group, Version: "v1", GroupPriorityMinimum: 1000, VersionPriority: 10, CABundle: ca,
			Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: service, Port: &port},
		},
	}
	if _, err := api.Create(within(t), object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.Delete(context.Background(), object.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return object.Name
}

func availability(t *testing.T, name string) apiregistrationv1.APIServiceCondition {
	t.Helper()
	service, err := aggregation(t).ApiregistrationV1().APIServices().Get(within(t), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range service.Status.Conditions {
		if c.Type == apiregistrationv1.Available {
			return c
		}
	}
	return apiregistrationv1.APIServiceCondition{}
}

// TestAnotherServersAPI routes a group to a server beside us, which goes and comes back.
func TestAnotherServersAPI(t *testing.T) {
	f := newFleet(t)
	lead(t, "fleet", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"})
	name := aggregate(t, "fleet.knarr.dev", "fleet", f.port(), f.ca)
	eventually(t, "it is available", func() bool { return availability(t, name).Reason == "Passed" })

	boats := anything(t).Resource(schema.GroupVersionResource{Group: "fleet.knarr.dev", Version: "v1", Resource: "boats"}).Namespace("default")
	listed := func() bool {
		return slices.Contains(described(t, "/apis"), "fleet.knarr.dev/v1 boats Boat Namespaced verbs=get,list,watch")
	}
	t.Run("it is asked in the client's name", func(t *testing.T) {
		var list *unstructured.UnstructuredList
		eventually(t, "requests are routed", func() (ok bool) {
			var err error
			list, err = boats.List(within(t), metav1.ListOptions{})
			return err == nil
		})
		who := list.Items[0].GetAnnotations()
		if who["user"] != "kubernetes-admin" || !strings.Contains(who["groups"], "system:masters") {
			t.Errorf("it was told that %v asks", who)
		}
	})
	t.Run("watches stream", func(t *testing.T) {
		events, err := boats.Watch(within(t), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer events.Stop()
		for _, want := range []string{"ADDED dinghy", "ADDED raft"} {
			if got := told(<-events.ResultChan()); got != want {
				t.Errorf("watch says %s; want %s", got, want)
			}
		}
	})
	t.Run("discovery lists it", func(t *testing.T) {
		eventually(t, "the one document of all groups has it", listed)
		if _, err := admin(t).Discovery().ServerResourcesForGroupVersion("fleet.knarr.dev/v1"); err != nil {
			t.Errorf("the group's own document: %v", err)
		}
	})
	t.Run("one that is gone takes nothing else with it", func(t *testing.T) {
		f.stop()
		look(t, name)
		eventually(t, "it is unavailable", func() bool {
			c := availability(t, name)
			return c.Status == apiregistrationv1.ConditionFalse && c.Reason == "FailedDiscoveryCheck" && strings.Contains(c.Message, "connection refused")
		})
		eventually(t, "clients are told to come back later", func() bool {
			_, err := boats.List(within(t), metav1.ListOptions{})
			return apierrors.IsServiceUnavailable(err)
		})
		eventually(t, "discovery says that what it knows of it is old", func() bool { return freshness(t, "fleet.knarr.dev") == apidiscoveryv2.DiscoveryFreshnessStale })
		_, lists, err := admin(t).Discovery().ServerGroupsAndResources()
		if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(lists, func(l *metav1.APIResourceList) bool { return l.GroupVersion == "apps/v1" && len(l.APIResources) > 0 }) {
			t.Errorf("clients find no apps/v1 any more: %v", err)
		}
		if _, err := admin(t).CoreV1().ConfigMaps("default").List(within(t), metav1.ListOptions{}); err != nil {
			t.Errorf("other groups: %v", err)
		}
	})
	t.Run("it comes back", func(t *testing.T) {
		f.start(t)
		look(t, name)
		eventually(t, "it is available", func() bool { return availability(t, name).Status == apiregistrationv1.ConditionTrue })
		eventually(t, "clients are answered", func() bool {
			_, err := boats.List(within(t), metav1.ListOptions{})
			return err == nil
		})
		eventually(t, "discovery has it again", func() bool {
			return listed() && freshness(t, "fleet.knarr.dev") == apidiscoveryv2.DiscoveryFreshnessCurrent
		})
	})
}

// look makes the availability check run now; by itself it does every 30 s.
func look(t *testing.T, name string) {
	t.Helper()
	api := aggregation(t).ApiregistrationV1().APIServices()
	for {
		service, err := api.Get(within(t), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		metav1.SetMetaDataAnnotation(&service.ObjectMeta, "looked", time.Now().String())
		if _, err := api.Update(within(t), service, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
			if err != nil {
				t.Fatal(err)
			}
			return
		}
	}
}

func freshness(t *testing.T, group string) apidiscoveryv2.DiscoveryFreshness {
	t.Helper()
	for _, g := range discovered(t, "/apis") {
		if g.Name == group {
			return g.Versions[0].Freshness
		}
	}
	return ""
}

// TestWhyAnotherServersAPIIsUnavailable reads the reasons an operator is given.
func TestWhyAnotherServersAPIIsUnavailable(t *testing.T) {
	f := newFleet(t)
	lead(t, "elsewhere", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"})
	lead(t, "empty", corev1.ServiceSpec{Selector: map[string]string{"app": "nobody"}, Ports: []corev1.ServicePort{{Port: 443}}})
	tests := map[string]struct {
		service         string
		port            int32
		reason, message string
	}{
		"there is no such Service":          {"missing", 443, "ServiceNotFound", `service/missing in "default" is not present`},
		"the Service has another port":      {"empty", 444, "ServicePortError", "is not listening on port 444"},
		"the Service has no endpoints":      {"empty", 443, "EndpointsNotFound", "cannot find endpointslices"},
		"the server is for another name":    {"elsewhere", f.port(), "FailedDiscoveryCheck", "certificate is valid for fleet.default.svc, not elsewhere.default.svc"},
		"nobody listens at the other's end": {"elsewhere", 1, "FailedDiscoveryCheck", "connection refused"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			group := fmt.Sprintf("%s-%d.knarr.dev", tc.service, tc.port)
			service := aggregate(t, group, tc.service, tc.port, f.ca)
			eventually(t, "it says why", func() bool {
				c := availability(t, service)
				return c.Status == apiregistrationv1.ConditionFalse && c.Reason == tc.reason && strings.Contains(c.Message, tc.message)
			})
			eventually(t, "clients are told", func() bool {
				err := admin(t).RESTClient().Get().AbsPath("/apis/" + group + "/v1/things").Do(within(t)).Error()
				return apierrors.IsServiceUnavailable(err)
			})
		})
	}
}
