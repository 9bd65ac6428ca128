package e2e

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"knarr.dev/knarr/test/images"
	"knarr.dev/knarr/test/lab/lab"
)

// TestTwoFamilies is about a cluster with IPv4 and IPv6: two machines, and every path between them in either.
func TestTwoFamilies(t *testing.T) {
	l := lab.New(t)
	m1, m2 := l.Machine("m1"), l.Machine("m2")
	machines := map[string][]netip.Addr{}
	with := func(m *lab.Machine) string {
		machines[m.Name()] = []netip.Addr{m.IP(), m.AddIPv6()}
		return fmt.Sprintf("%s,%s", machines[m.Name()][0], machines[m.Name()][1])
	}
	c := startOn(t, l, m1, "--node-ip", with(m1), "--cluster-cidr", "10.42.0.0/16,fd42::/48", "--service-cidr", "10.43.0.0/16,fd43::/112")
	c.join(m2, "--node-ip", with(m2))

	t.Log("nodes and pods have an address of each family")
	nodes, err := c.client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes.Items {
		var internal []netip.Addr
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP {
				internal = append(internal, netip.MustParseAddr(a.Address))
			}
		}
		if !slices.Equal(internal, machines[n.Name]) || len(n.Spec.PodCIDRs) != 2 {
			t.Errorf("node %s has addresses %v and ranges %v", n.Name, internal, n.Spec.PodCIDRs)
		}
	}
	server := app("serve")
	server.Env = []corev1.EnvVar{
		{Name: "POD_IPS", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIPs"}}},
		{Name: "HOST_IPS", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.hostIPs"}}},
	}
	far, near := pod("far", server), pod("near", app("sleep"))
	far.Spec.NodeName, near.Spec.NodeName = m2.Name(), m1.Name()
	c.create(far)
	c.create(near)
	both := corev1.IPFamilyPolicyRequireDualStack
	service, err := c.client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "far"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeNodePort, IPFamilyPolicy: &both, Selector: labels.Set{"app": "far"},
		Ports: []corev1.ServicePort{{Port: 80, TargetPort: portNumber(8080)}},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	four, six := netip.MustParsePrefix("10.43.0.0/16"), netip.MustParsePrefix("fd43::/112")
	if ips := service.Spec.ClusterIPs; len(ips) != 2 || !four.Contains(netip.MustParseAddr(ips[0])) || !six.Contains(netip.MustParseAddr(ips[1])) {
		t.Fatalf("the Service has the addresses %v", ips)
	}
	at := c.awaitPod("far", "to be ready", podReady).Status
	c.awaitPod("near", "to be ready", podReady)
	if len(at.PodIPs) != 2 || at.PodIP != at.PodIPs[0].IP || len(at.HostIPs) != 2 || at.HostIPs[1].IP != machines["m2"][1].String() {
		t.Fatalf("the pod has %v, on a machine with %v", at.PodIPs, at.HostIPs)
	}
	c.expect(c.exec("far", "env"), "POD_IPS="+at.PodIPs[0].IP+","+at.PodIPs[1].IP, "HOST_IPS="+at.HostIPs[0].IP+","+at.HostIPs[1].IP)

	t.Log("pods, Services and names are reached in either family")
	answers := func(what, got string, err error) error {
		if err == nil && !strings.Contains(got, "hello from far") {
			err = fmt.Errorf("%s answered %q", what, got)
		}
		return err
	}
	reach := func(host string) {
		t.Helper()
		c.eventually("near reaches "+host, func() error {
			got, err := c.tryKubectl("exec", "near", "--", "/app", "get", "http://"+host+"/")
			return answers(host, got, err)
		})
	}
	for i := range 2 {
		reach(net.JoinHostPort(at.PodIPs[i].IP, "8080"))
		reach(net.JoinHostPort(service.Spec.ClusterIPs[i], "80"))
		for _, m := range []*lab.Machine{m1, m2} {
			onNode := netip.AddrPortFrom(machines[m.Name()][i], uint16(service.Spec.Ports[0].NodePort)).String()
			c.eventually("m1 reaches the node port "+onNode, func() error {
				return m1.Do(func() error { return answered(onNode) })
			})
		}
	}
	names := strings.Fields(c.exec("near", "lookup", "far.default.svc.cluster.local"))
	slices.Sort(names)
	if want := slices.Sorted(slices.Values(service.Spec.ClusterIPs)); !slices.Equal(names, want) {
		t.Errorf("the Service's name leads to %v, want %v", names, want)
	}
	slices6, err := c.client.DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=far"})
	if err != nil || len(slices6.Items) != 2 {
		t.Errorf("the Service has %d EndpointSlices, %v; want one for each family", len(slices6.Items), err)
	}

	t.Log("a policy counts in either family")
	c.policy(`{metadata: {name: four}, spec: {podSelector: {matchLabels: {app: far}}, ingress: [{from: [{ipBlock: {cidr: 10.42.0.0/16}}]}]}}`)
	c.eventually("IPv6 is refused", func() error {
		if got, err := c.tryKubectl("exec", "near", "--", "/app", "get", "http://"+net.JoinHostPort(at.PodIPs[1].IP, "8080")+"/"); err == nil {
			return fmt.Errorf("answered %q", got)
		}
		return nil
	})
	reach(net.JoinHostPort(at.PodIPs[0].IP, "8080"))

	t.Log("a machine keeps both after its restart")
	if err := c.knarr.Restart(); err != nil {
		t.Fatal(err)
	}
	c.awaitServing()
	late := pod("late", app("sleep"))
	late.Spec.NodeName = m1.Name()
	c.create(late)
	c.awaitPod("late", "to have both addresses", func(p *corev1.Pod) bool { return podReady(p) && len(p.Status.PodIPs) == 2 })
}

// TestIPv6Alone has no IPv4 anywhere in the cluster. Its API is not reached from the host, which has no IPv6 in the lab.
func TestIPv6Alone(t *testing.T) {
	l := lab.New(t)
	m := l.Machine("m1")
	giveImages(t, m)
	c := &cluster{t: t, lab: l, server: m}
	c.knarr = m.StartKnarr("server", "--node-ip", m.AddIPv6().String(), "--cluster-cidr", "fd42::/48", "--service-cidr", "fd43::/112")
	c.awaitServing()
	kubectl := func(args ...string) string {
		t.Helper()
		out, err := c.onMachine(m, append([]string{"kubectl", "--kubeconfig", m.Kubeconfig()}, args...)...)
		if err != nil {
			t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return out
	}
	kubectl("run", "web", "--image", images.App, "--port", "8080", "--expose", "--", "serve")
	kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout", patience.String())
	c.eventually("a pod reaches a Service by its name", func() error {
		out, err := c.onMachine(m, "kubectl", "--kubeconfig", m.Kubeconfig(), "exec", "web", "--", "/app", "get", "http://web:8080/")
		if err == nil && !strings.Contains(out, "hello from web") {
			err = fmt.Errorf("answered %q", out)
		}
		return err
	})
	addresses := kubectl("get", "pods,services,endpointslices,nodes", "-A", "-o", "jsonpath={.items[*].status.podIPs[*].ip} {.items[*].spec.clusterIPs[*]} {.items[*].endpoints[*].addresses[*]} {.items[*].status.addresses[?(@.type=='InternalIP')].address}")
	for _, text := range strings.Fields(addresses) {
		if !netip.MustParseAddr(text).Is6() {
			t.Errorf("%s is not an address of IPv6", text)
		}
	}
}

// answered asks for a page by hand: this thread alone is on the machine.
func answered(address string) error {
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	buffer := make([]byte, 1024)
	n, err := conn.Read(buffer)
	if err == nil && !strings.Contains(string(buffer[:n]), "200 OK") {
		err = fmt.Errorf("answered %q", buffer[:n])
	}
	return err
}
