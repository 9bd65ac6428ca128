package why

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/bootstrap/heldports"
)

func service(name string, changes ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}}, Selector: map[string]string{"app": "web"},
	}}
	for _, change := range changes {
		change(s)
	}
	return s
}

// given lets a service have an address, at the port it has.
func given(ip string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ip, Ports: []corev1.PortStatus{{Port: 80, Protocol: corev1.ProtocolTCP}}}}
	}
}

func clusterIP(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }

// lending is a node with an address, that has looked who holds port 80.
func lending(name, address string, held bool, changes ...func(*corev1.Node)) corev1.Node {
	return node(name, "4", append(changes, func(n *corev1.Node) {
		n.Annotations = map[string]string{heldports.Annotation: heldports.Report{{Number: 80, Protocol: corev1.ProtocolTCP}: held}.String()}
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}}
	})...)
}

func behind(ready bool) []discoveryv1.EndpointSlice {
	return []discoveryv1.EndpointSlice{{Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.42.0.9"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}}}}
}

func TestExplainService(t *testing.T) {
	nodes, pool := map[string]string{balancers: "nodes"}, map[string]string{balancers: "192.0.2.50"}
	tests := map[string]struct {
		facts     ServiceFacts
		want, not []string
	}{
		"none of that name": {want: []string{"There is no service web in namespace shop"}},
		"no addresses to give": {
			facts: ServiceFacts{Service: service("web"), Cluster: map[string]string{}},
			want:  []string{"this cluster has none to give", "Set load-balancer-addresses"},
		},
		"another's class": {
			facts: ServiceFacts{Service: service("web", func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr.To("example.com/theirs") })},
			want:  []string{"whoever serves the load balancer class example.com/theirs"},
		},
		"a cloud's": {
			facts: ServiceFacts{Service: service("web"), Cluster: map[string]string{"cloud-provider": "external"}},
			want:  []string{"the cloud's controller manager"},
		},
		"nodes whose port a pod, a program and a Service have": {
			facts: ServiceFacts{
				Facts: Facts{
					Nodes: []corev1.Node{lending("a", "192.0.2.1", true), lending("b", "192.0.2.2", false), lending("c", "192.0.2.3", false)},
					Pods:  []corev1.Pod{*pod("proxy", "1", on("b"), hostPort)},
				},
				Service: service("web"), Services: []corev1.Service{*service("web"), *service("other", given("192.0.2.3"))}, Cluster: nodes,
			},
			want: []string{"no node gives it its own", "a program that listens on port 80/TCP", "pod shop/proxy has port 80/TCP", "service shop/other has port 80/TCP", "Free the ports"},
		},
		"nodes that give nothing": {
			facts: ServiceFacts{
				Facts: Facts{Nodes: []corev1.Node{
					lending("a", "192.0.2.1", false, func(n *corev1.Node) { n.Status.Conditions = nil }),
					lending("b", "192.0.2.2", false, func(n *corev1.Node) { n.Labels[corev1.LabelNodeExcludeBalancers] = "" }),
					lending("c", "2001:db8::1", false),
				}},
				Service: service("web"), Services: []corev1.Service{*service("web")}, Cluster: nodes,
			},
			want: []string{"a  is not ready", "b  has the label node.kubernetes.io/exclude-from-external-load-balancers", "c  has no address of the service's families"},
		},
		"nodes that have yet to look": {
			facts: ServiceFacts{
				Facts: Facts{Nodes: []corev1.Node{lending("a", "192.0.2.1", false, func(n *corev1.Node) {}), node("b", "4", func(n *corev1.Node) {
					n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.2"}}
				})}},
				Service: service("web"), Services: []corev1.Service{*service("web")}, Cluster: nodes,
			},
			want: []string{"looking who has its ports"},
		},
		"at some nodes, not at all": {
			facts: ServiceFacts{
				Facts:   Facts{Nodes: []corev1.Node{lending("a", "192.0.2.1", false), lending("b", "192.0.2.2", true)}},
				Service: service("web", given("192.0.2.1")), Services: []corev1.Service{*service("web", given("192.0.2.1"))}, Endpoints: behind(true), Cluster: nodes,
			},
			want: []string{"has 1 ready endpoints", "Not at every node", "b  a program"}, not: []string{"a  "},
		},
		"a pool that is used up": {
			facts: ServiceFacts{Service: service("web"), Services: []corev1.Service{*service("web"), *service("other", given("192.0.2.50"))}, Cluster: pool},
			want:  []string{"no free IPv4 address is left: add to load-balancer-addresses", "192.0.2.50"},
		},
		"a pool that is not": {
			facts: ServiceFacts{Service: service("web"), Services: []corev1.Service{*service("web")}, Cluster: pool},
			want:  []string{"there is one free"},
		},
		"what could not be read is not guessed": {
			facts: ServiceFacts{Facts: Facts{Unknown: []string{"nodes could not be read: forbidden"}}, Service: service("web"), Cluster: nodes},
			want:  []string{"waits for an address of its own.", "nodes could not be read"}, not: []string{"no node gives"},
		},
		"nor of a pool": {
			facts: ServiceFacts{Facts: Facts{Unknown: []string{"the services of all namespaces could not be read: forbidden"}}, Service: service("web"), Cluster: pool},
			want:  []string{"waits for an address of its own."}, not: []string{"there is one free"},
		},
		"nobody with its labels": {
			facts: ServiceFacts{Service: service("web", clusterIP)}, want: []string{"no pod in its namespace has the labels of its selector (app=web)"},
		},
		"nobody who is ready": {
			facts: ServiceFacts{Service: service("web", clusterIP), Behind: []corev1.Pod{*pod("web-1", "1")}, Endpoints: behind(false)},
			want:  []string{"of 1 pods", "none is ready", "knarr why pod/web-1 -n shop"},
		},
		"one that is well": {
			facts: ServiceFacts{Service: service("web", clusterIP), Endpoints: behind(true)}, want: []string{"has 1 ready endpoints"}, not: []string{"What to do"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tc.facts.Now, tc.facts.Namespace, tc.facts.Name = now, "shop", "web"
			var out strings.Builder
			if err := ExplainService(&tc.facts).Print(&out); err != nil {
				t.Fatal(err)
			}
			for _, words := range tc.want {
				if !strings.Contains(out.String(), words) {
					t.Errorf("%q is not said", words)
				}
			}
			for _, words := range tc.not {
				if strings.Contains(out.String(), words) {
					t.Errorf("%q is said", words)
				}
			}
			if t.Failed() {
				t.Logf("it says\n%s", out.String())
			}
		})
	}
}
