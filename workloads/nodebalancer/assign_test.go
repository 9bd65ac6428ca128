package nodebalancer

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"knarr.dev/knarr/bootstrap/heldports"
)

var (
	now  = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	http = heldports.Port{Number: 80, Protocol: corev1.ProtocolTCP}
	tls  = heldports.Port{Number: 443, Protocol: corev1.ProtocolTCP}
)

// web is a service at some ports, of a certain age in minutes.
func web(name string, age int, ports ...heldports.Port) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, CreationTimestamp: metav1.NewTime(now.Add(-time.Duration(age) * time.Minute))},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}},
	}
	for _, p := range ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: p.String(), Port: p.Number, Protocol: p.Protocol})
	}
	return s
}

// with changes a copy.
func with[T any, P interface {
	*T
	DeepCopy() P
}](o P, change func(P)) P {
	o = o.DeepCopy()
	change(o)
	return o
}

func machine(name, address string, held ...heldports.Port) *corev1.Node {
	report := heldports.Report{http: false, tls: false}
	for _, p := range held {
		report[p] = true
	}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{heldports.Annotation: report.String()}},
		Status: corev1.NodeStatus{
			Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: address}},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
}

func hosting(node string, phase corev1.PodPhase, port int32) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "proxy"},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Ports: []corev1.ContainerPort{
			{HostPort: port, Protocol: corev1.ProtocolTCP}, {ContainerPort: 443, Protocol: corev1.ProtocolTCP},
		}}}},
		Status: corev1.PodStatus{Phase: phase},
	}
}

// has lets a service have had addresses at the ports it has.
func has(s *corev1.Service, ips ...string) *corev1.Service {
	return with(s, func(s *corev1.Service) {
		for _, ip := range ips {
			i := corev1.LoadBalancerIngress{IP: ip}
			for _, p := range s.Spec.Ports {
				i.Ports = append(i.Ports, corev1.PortStatus{Port: p.Port, Protocol: p.Protocol})
			}
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, i)
		}
	})
}

func TestAssign(t *testing.T) {
	a, b := machine("a", "192.0.2.1"), machine("b", "192.0.2.2")
	label := func(key, value string) func(*corev1.Node) {
		return func(n *corev1.Node) { n.Labels = map[string]string{key: value} }
	}
	class := "example.com/theirs"
	tests := map[string]struct {
		services []*corev1.Service
		nodes    []*corev1.Node
		pods     []*corev1.Pod
		behind   map[string]bool // nodes, of the first service
		want     map[string]string
	}{
		"all nodes": {
			services: []*corev1.Service{web("x", 1, http, tls)}, nodes: []*corev1.Node{a, b}, want: map[string]string{"x": "192.0.2.1 192.0.2.2"},
		},
		"the older of two gets a port, the later is told who has it": {
			services: []*corev1.Service{web("x", 1, http), web("y", 2, http, tls)}, nodes: []*corev1.Node{a},
			want: map[string]string{"x": " | a: service shop/y has port 80/TCP", "y": "192.0.2.1"},
		},
		"what a service has it keeps against an older one": {
			services: []*corev1.Service{has(web("x", 1, http), "192.0.2.1"), web("y", 2, http)}, nodes: []*corev1.Node{a},
			want: map[string]string{"x": "192.0.2.1", "y": " | a: service shop/x has port 80/TCP"},
		},
		"a port it has only now wanted is not what it has": {
			services: []*corev1.Service{
				has(web("x", 2, http), "192.0.2.1"),
				with(has(web("y", 3, tls), "192.0.2.1"), func(s *corev1.Service) { s.Spec.Ports[0].Port = 80 }),
			}, nodes: []*corev1.Node{a},
			want: map[string]string{"x": "192.0.2.1", "y": " | a: service shop/x has port 80/TCP"},
		},
		"one port of two protocols is two": {
			services: []*corev1.Service{web("x", 1, http), web("y", 2, heldports.Port{Number: 80, Protocol: corev1.ProtocolUDP})},
			nodes: []*corev1.Node{with(a, func(n *corev1.Node) {
				n.Annotations[heldports.Annotation] = heldports.Report{http: false, {Number: 80, Protocol: corev1.ProtocolUDP}: false}.String()
			})},
			want: map[string]string{"x": "192.0.2.1", "y": "192.0.2.1"},
		},
		"a program on one node": {
			services: []*corev1.Service{web("x", 1, http)}, nodes: []*corev1.Node{machine("a", "192.0.2.1", http), b},
			want: map[string]string{"x": "192.0.2.2 | a: a program that listens on port 80/TCP"},
		},
		"a program that came later": {
			services: []*corev1.Service{has(web("x", 1, http), "192.0.2.1")}, nodes: []*corev1.Node{machine("a", "192.0.2.1", http)},
			want: map[string]string{"x": "192.0.2.1"},
		},
		"a pod's host port": {
			services: []*corev1.Service{web("x", 1, http)}, nodes: []*corev1.Node{a, b}, pods: []*corev1.Pod{hosting("b", corev1.PodRunning, 80)},
			want: map[string]string{"x": "192.0.2.1 | b: pod shop/proxy has port 80/TCP"},
		},
		"a pod that is over, or nowhere yet, has no port": {
			services: []*corev1.Service{web("x", 1, http)}, nodes: []*corev1.Node{a},
			pods: []*corev1.Pod{hosting("a", corev1.PodSucceeded, 80), hosting("", corev1.PodPending, 80)},
			want: map[string]string{"x": "192.0.2.1"},
		},
		"a node port of another service, not one's own": {
			services: []*corev1.Service{
				with(web("x", 1, tls), func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 443 }),
				with(web("y", 2, http), func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 443 }),
				with(web("z", 3, http), func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 80 }),
			}, nodes: []*corev1.Node{a},
			want: map[string]string{"x": " | a: service shop/y (node port) has port 443/TCP", "z": "192.0.2.1"},
		},
		"a node's address that leads elsewhere already": {
			services: []*corev1.Service{
				web("x", 3, http),
				with(web("y", 2, http), func(s *corev1.Service) {
					s.Spec.Type, s.Spec.ExternalIPs = corev1.ServiceTypeClusterIP, []string{"192.0.2.1"}
				}),
				with(has(web("z", 1, tls), "192.0.2.2"), func(s *corev1.Service) { s.Spec.LoadBalancerClass = &class }),
			}, nodes: []*corev1.Node{a, b},
			want: map[string]string{"x": "192.0.2.2 | a: service shop/y (by an address from elsewhere) has port 80/TCP"},
		},
		"a node that has not looked yet is waited for": {
			services: []*corev1.Service{web("x", 1, http)}, nodes: []*corev1.Node{with(a, func(n *corev1.Node) { n.Annotations = nil }), b},
			want: map[string]string{"x": "192.0.2.2 (waits)"},
		},
		"a service of another class is another's": {
			services: []*corev1.Service{with(web("x", 1, http), func(s *corev1.Service) { s.Spec.LoadBalancerClass = &class })}, nodes: []*corev1.Node{a},
			want: map[string]string{},
		},
		"nodes that are lost, going or excluded": {
			services: []*corev1.Service{web("x", 1, http)},
			nodes: []*corev1.Node{
				with(a, func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }),
				with(a, func(n *corev1.Node) { n.DeletionTimestamp = &metav1.Time{Time: now} }),
				with(a, label(corev1.LabelNodeExcludeBalancers, "")), b,
			},
			want: map[string]string{"x": "192.0.2.2"},
		},
		"nodes that are meant to": {
			services: []*corev1.Service{web("x", 1, http)}, nodes: []*corev1.Node{a, with(b, label(Label, "true"))}, want: map[string]string{"x": "192.0.2.2"},
		},
		"with the policy Local, nodes with an endpoint": {
			services: []*corev1.Service{with(web("x", 1, http), func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal })},
			nodes:    []*corev1.Node{a, b}, behind: map[string]bool{"b": true}, want: map[string]string{"x": "192.0.2.2"},
		},
		"external addresses before internal ones, in each family": {
			services: []*corev1.Service{with(web("x", 1, http), func(s *corev1.Service) { s.Spec.IPFamilies = []corev1.IPFamily{"IPv4", "IPv6"} })},
			nodes: []*corev1.Node{with(a, func(n *corev1.Node) {
				n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "198.51.100.1"},
					corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "2001:db8::1"}, corev1.NodeAddress{Type: corev1.NodeHostName, Address: "a"})
			})},
			want: map[string]string{"x": "198.51.100.1 2001:db8::1"},
		},
		"the one address it asks for": {
			services: []*corev1.Service{with(web("x", 1, http), func(s *corev1.Service) { s.Spec.LoadBalancerIP = "192.0.2.2" })},
			nodes:    []*corev1.Node{a, b}, want: map[string]string{"x": "192.0.2.2"},
		},
		"a service that is being deleted frees its ports": {
			services: []*corev1.Service{
				with(has(web("x", 2, http), "192.0.2.1"), func(s *corev1.Service) { s.DeletionTimestamp = &metav1.Time{Time: now} }), web("y", 1, http),
			}, nodes: []*corev1.Node{a},
			want: map[string]string{"y": "192.0.2.1"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			w := world{services: tc.services, nodes: tc.nodes, pods: tc.pods, behind: map[types.NamespacedName]map[string]bool{key(tc.services[0]): tc.behind}}
			got := map[string]string{}
			for name, g := range assign(w) {
				var ips []string
				for _, i := range g.ingress {
					ips = append(ips, i.IP)
				}
				text := strings.Join(ips, " ")
				if len(g.refused) > 0 {
					text += " | " + strings.Join(g.refused, "; ")
				}
				if g.waiting {
					text += " (waits)"
				}
				got[name.Name] = text
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("assign() (-want +got):\n%s", diff)
			}
		})
	}
}

func TestReconcileSettlesOnceAndTellsOnce(t *testing.T) {
	pooled := with(web("x", 2, http), func(s *corev1.Service) { s.Finalizers = []string{ofPool} })
	c := fake.NewClientBuilder().WithObjects(machine("a", "192.0.2.1"), pooled, web("y", 1, http)).WithStatusSubresource(&corev1.Service{}).Build()
	told := record.NewFakeRecorder(8)
	r := &Reconciler{client: c, events: told, said: map[types.NamespacedName]string{}}
	get := func(name string) *corev1.Service {
		t.Helper()
		var s corev1.Service
		if err := c.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: name}, &s); err != nil {
			t.Fatal(err)
		}
		return &s
	}
	settle := func() {
		t.Helper()
		for range 3 {
			if _, err := r.Reconcile(t.Context(), ctrl.Request{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	settle()
	x := get("x")
	if len(x.Finalizers) > 0 || len(x.Status.LoadBalancer.Ingress) != 1 || x.Status.LoadBalancer.Ingress[0].IP != "192.0.2.1" {
		t.Errorf("the service has finalizers %v and %+v", x.Finalizers, x.Status.LoadBalancer)
	}
	if want := "Warning PortsTaken No node has all ports free; a: service shop/x has port 80/TCP"; len(told.Events) != 1 || <-told.Events != want {
		t.Errorf("not told once: %q", want)
	}
	version := x.ResourceVersion
	settle()
	if get("x").ResourceVersion != version {
		t.Error("a pass with nothing new wrote something")
	}
	if err := c.Delete(t.Context(), x); err != nil {
		t.Fatal(err)
	}
	settle()
	if y := get("y"); len(y.Status.LoadBalancer.Ingress) != 1 {
		t.Error("a port that is free again is not given")
	}
}
