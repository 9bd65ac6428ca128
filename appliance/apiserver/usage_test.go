package apiserver_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistrationclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"
)

// agent plays the agent of a node of that name: pods on it use half a core since a minute ago.
func agent(t *testing.T, node string, pods ...string) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(server.PKI.NodeServer.CertFile, server.PKI.NodeServer.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	authorities := x509.NewCertPool()
	pem, err := os.ReadFile(server.PKI.ClientCA.CertFile)
	if err != nil || !authorities.AppendCertsFromPEM(pem) {
		t.Fatalf("read the client CA: %v", err)
	}
	begun := time.Now().Add(-time.Minute)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		at := time.Now()
		used := at.Sub(begun).Seconds() / 2
		fmt.Fprintf(w, "node_cpu_usage_seconds_total %g %d\nnode_memory_working_set_bytes 1048576\n", used, at.UnixMilli())
		for _, pod := range pods {
			labels := fmt.Sprintf("{container=%q,namespace=%q,pod=%q}", "main", metav1.NamespaceDefault, pod)
			fmt.Fprintf(w, "container_cpu_usage_seconds_total%s %g %d\ncontainer_memory_working_set_bytes%s 2048\ncontainer_start_time_seconds%s %d\n",
				labels, used, at.UnixMilli(), labels, labels, begun.Unix())
		}
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: authorities, MinVersion: tls.VersionTLS12}
	s.StartTLS()
	t.Cleanup(s.Close)
	host, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	nodeAt(t, node, host, port)
}

// nodeAt makes a Node object that says where its agent is.
func nodeAt(t *testing.T, name, host, port string) {
	t.Helper()
	client, ctx := admin(t), within(t)
	node, err := client.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"name": name}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := admin(t).CoreV1().Nodes().Delete(within(t), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: host}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(number)
	if _, err := client.CoreV1().Nodes().UpdateStatus(ctx, node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// runningOn makes a pod that seems to run on a node.
func runningOn(t *testing.T, name, node string) {
	t.Helper()
	client, ctx := admin(t).CoreV1().Pods(metav1.NamespaceDefault), within(t)
	p := pod(name)
	p.Labels["name"], p.Spec.NodeName = name, node
	made, err := client.Create(ctx, p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := admin(t).CoreV1().Pods(metav1.NamespaceDefault).Delete(within(t), name, *metav1.NewDeleteOptions(0)); err != nil {
			t.Error(err)
		}
	})
	made.Status.Phase = corev1.PodRunning
	made.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.Now()}}}}
	if _, err := client.UpdateStatus(ctx, made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestUsageIsMeasuredWhenAsked(t *testing.T) {
	agent(t, "busy", "used", "also-used")
	nodeAt(t, "silent", "192.0.2.99", "10250")
	runningOn(t, "used", "busy")
	runningOn(t, "also-used", "busy")
	runningOn(t, "unmeasured", "silent")
	ctx := within(t)
	client, err := metricsclient.NewForConfig(server.Admin())
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "metrics.k8s.io is registered", func() bool {
		_, err := client.NodeMetricses().List(ctx, metav1.ListOptions{LabelSelector: "none=such"})
		return err == nil
	})
	begun := time.Now()
	nodes, err := client.NodeMetricses().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("a silent node made everybody wait for %v", took)
	}
	if len(nodes.Items) != 1 || nodes.Items[0].Name != "busy" || nodes.Items[0].Labels["name"] != "busy" {
		t.Fatalf("nodes: %+v, want the one that answers", nodes.Items)
	}
	half := func(usage corev1.ResourceList, window metav1.Duration, at metav1.Time) bool {
		cpu := usage.Cpu().MilliValue()
		return cpu > 450 && cpu < 550 && window.Duration >= time.Second && window.Duration < 10*time.Second && time.Since(at.Time) < 30*time.Second
	}
	if m := nodes.Items[0]; !half(m.Usage, m.Window, m.Timestamp) || m.Usage.Memory().Value() != 1<<20 {
		t.Errorf("node: %+v", m)
	}
	pods := client.PodMetricses(metav1.NamespaceDefault)
	for what, options := range map[string]metav1.ListOptions{
		"by label": {LabelSelector: "name=used"}, "by field": {FieldSelector: "metadata.name=used"},
	} {
		list, err := pods.List(ctx, options)
		if err != nil || len(list.Items) != 1 || list.Items[0].Name != "used" {
			t.Fatalf("pods %s: %+v, %v", what, list, err)
		}
		m := list.Items[0]
		if len(m.Containers) != 1 || m.Containers[0].Name != "main" || !half(m.Containers[0].Usage, m.Window, m.Timestamp) {
			t.Errorf("pods %s: %+v", what, m)
		}
	}
	if all, err := client.PodMetricses("").List(ctx, metav1.ListOptions{}); err != nil || len(all.Items) != 2 {
		t.Errorf("all pods: %d, %v; want the two that were measured", len(all.Items), err)
	}
	if one, err := pods.Get(ctx, "also-used", metav1.GetOptions{}); err != nil || one.Namespace != metav1.NamespaceDefault {
		t.Errorf("one pod: %+v, %v", one, err)
	}
	if _, err := pods.Get(ctx, "unmeasured", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a pod nobody measured: %v, want NotFound", err)
	}
	if _, err := client.NodeMetricses().Get(ctx, "silent", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a node that does not answer: %v, want NotFound", err)
	}
	if _, err := client.NodeMetricses().Get(ctx, "busy", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	var shown metav1.Table
	if err := json.Unmarshal(get(t, "/apis/metrics.k8s.io/v1beta1/namespaces/default/pods", "application/json;as=Table;v=v1;g=meta.k8s.io"), &shown); err != nil {
		t.Fatal(err)
	}
	if len(shown.Rows) != 2 || len(shown.Rows[0].Cells) != 4 || shown.Rows[0].Cells[2] != "2Ki" {
		t.Errorf("table: %+v", shown.Rows)
	}
}

// TestAnotherMetricsServerTakesOver is what installing the metrics server's manifest does, and removing it.
func TestAnotherMetricsServerTakesOver(t *testing.T) {
	ctx := within(t)
	other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var answer any = metav1.APIResourceList{
			TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: "metrics.k8s.io/v1beta1",
			APIResources: []metav1.APIResource{{Name: "nodes", Kind: "NodeMetrics", Verbs: metav1.Verbs{"get", "list"}}},
		}
		if r.URL.Path == "/apis/metrics.k8s.io/v1beta1/nodes" {
			answer = metricsv1beta1.NodeMetricsList{
				TypeMeta: metav1.TypeMeta{Kind: "NodeMetricsList", APIVersion: "metrics.k8s.io/v1beta1"},
				Items:    []metricsv1beta1.NodeMetrics{{ObjectMeta: metav1.ObjectMeta{Name: "another-server-was-here"}}},
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer)
	}))
	t.Cleanup(other.Close)
	port := int32(other.Listener.Addr().(*net.TCPAddr).Port)
	client, ns := inNamespace(t)
	if _, err := client.CoreV1().Services(ns).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "metrics-server"},
		Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost",
			Ports: []corev1.ServicePort{{Port: port, TargetPort: intstr.FromInt32(port)}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	registrations, err := apiregistrationclient.NewForConfig(server.Admin())
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := metricsclient.NewForConfig(server.Admin())
	if err != nil {
		t.Fatal(err)
	}
	var ours *apiregistrationv1.APIService
	eventually(t, "metrics.k8s.io is registered", func() bool {
		ours, err = registrations.APIServices().Get(ctx, "v1beta1.metrics.k8s.io", metav1.GetOptions{})
		return err == nil
	})
	if ours.Spec.Service != nil || len(ours.Labels) != 0 {
		t.Errorf("ours is %+v with labels %v, want a local one that the registrar leaves alone", ours.Spec, ours.Labels)
	}
	ours.Spec.Service = &apiregistrationv1.ServiceReference{Namespace: ns, Name: "metrics-server", Port: &port}
	ours.Spec.InsecureSkipTLSVerify = true
	if _, err := registrations.APIServices().Update(ctx, ours, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	answers := func(name string) func() bool {
		return func() bool {
			list, err := metrics.NodeMetricses().List(ctx, metav1.ListOptions{})
			if err != nil {
				return false
			}
			found := len(list.Items) > 0 && list.Items[0].Name == "another-server-was-here"
			return found == (name == "the other")
		}
	}
	eventually(t, "the other server answers", answers("the other"))
	if err := registrations.APIServices().Delete(ctx, ours.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "we answer again", answers("ours"))
}
