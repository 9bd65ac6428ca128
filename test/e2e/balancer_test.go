package e2e

import (
	"bufio"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/test/lab/lab"
)

// TestAnAddressLeavesADeadMachine has a load balancer's address, and a pod behind it on each of two machines; with the policy
// Local the machine that speaks for the address is the one whose pod answers. Its cable is pulled.
func TestAnAddressLeavesADeadMachine(t *testing.T) {
	l := lab.New(t)
	m1, m2 := l.Machine("m1"), l.Machine("m2")
	address := inNetwork(l, 200)
	c := startOn(t, l, m1, "--load-balancer-addresses", address.String())
	c.join(m2)
	machines := map[string]*lab.Machine{"on-m1": m1, "on-m2": m2}
	for name, m := range machines {
		p := pod(name, app("serve"))
		p.Labels = map[string]string{"app": "web"}
		p.Spec.NodeName = m.Name()
		c.create(p)
		c.awaitPod(name, "to be ready", podReady)
	}
	c.balance("web", "web", 80, func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal })
	web := netip.AddrPortFrom(address, 80)
	var first string
	c.eventually("the address answers", func() (err error) {
		first, err = greeting(web)
		return err
	})
	for _, m := range machines {
		c.eventually(m.Name()+" hears the other", func() error {
			metrics, err := c.tryKubectl("get", "--raw", "/api/v1/nodes/"+m.Name()+"/proxy/metrics")
			if err == nil && !strings.Contains(metrics, `knarr_heartbeat_peers{state="heard"} 1`) {
				err = fmt.Errorf("its metrics do not say so")
			}
			return err
		})
	}

	began := time.Now()
	if err := machines[first].Cut(); err != nil {
		t.Fatal(err)
	}
	c.eventually("the other machine answers", func() error {
		got, err := greeting(web)
		if err == nil && got == first {
			err = fmt.Errorf("%s answers", got)
		}
		return err
	})
	took := time.Since(began)
	t.Logf("the address answers again %s after its machine was gone", took.Round(time.Millisecond))
	if took > 20*time.Second { // without heartbeats 40 s; with them 0.7, and this machine may be slow
		t.Errorf("that is no better than waiting for the node's lease")
	}
	if err := machines[first].Heal(); err != nil {
		t.Fatal(err)
	}
	c.eventually("the machine that is back answers", func() error {
		got, err := greeting(web)
		if err == nil && got != first {
			err = fmt.Errorf("%s answers", got)
		}
		return err
	})
}

// TestNodesOwnAddresses gives Services the addresses of nodes, where nobody has their ports. The API has an address of its own,
// by which the second machine joins.
func TestNodesOwnAddresses(t *testing.T) {
	l := lab.New(t)
	m1, m2 := l.Machine("m1"), l.Machine("m2")
	api := inNetwork(l, 201)
	c := startOn(t, l, m1, "--load-balancer-addresses", "nodes", "--api-virtual-address", api.String())
	config, err := c.restConfig()
	if err != nil {
		t.Fatal(err)
	}
	if want := "https://" + api.String() + ":6443"; config.Host != want {
		t.Errorf("the administrator is sent to %s; want %s", config.Host, want)
	}
	c.join(m2, "--join", config.Host)

	listening := make(chan net.Listener, 1)
	if err := m1.Do(func() error {
		held, err := net.Listen("tcp", ":8081")
		listening <- held
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = (<-listening).Close() }()
	c.create(pod("web", app("serve")))
	c.awaitPod("web", "to be ready", podReady)

	t.Log("a Service has the addresses of all nodes, and answers at them")
	c.balance("web", "web", 80)
	both := []string{m1.IP().String(), m2.IP().String()}
	c.awaitAddresses("web", both...)
	for _, ip := range both {
		c.eventually(ip+" answers", func() error {
			got, err := greeting(netip.AddrPortFrom(netip.MustParseAddr(ip), 80))
			if err == nil && got != "web" {
				err = fmt.Errorf("%s answers", got)
			}
			return err
		})
	}

	t.Log("a port that a program has is not taken from it")
	c.balance("beside", "web", 8081)
	c.awaitAddresses("beside", m2.IP().String())
	c.awaitEvent("beside", "m1: a program that listens on port 8081/TCP")

	t.Log("a later Service waits for its port")
	c.balance("later", "web", 80)
	c.awaitEvent("later", "service default/web has port 80/TCP")
	c.awaitAddresses("later")
	out, err := c.onMachine(m1, "why", "service/later", "--kubeconfig", m1.Kubeconfig())
	if err != nil || !strings.Contains(out, "no node gives it its own") || strings.Count(out, "service default/web has port 80/TCP") < 2 {
		t.Errorf("knarr why service/later: %v\n%s", err, out)
	}
	c.kubectl("delete", "service", "web")
	c.awaitAddresses("later", both...)
}

// inNetwork is an address that no machine has.
func inNetwork(l *lab.Lab, n byte) netip.Addr {
	a := l.Network().Addr().As4()
	a[3] = n
	return netip.AddrFrom4(a)
}

// greeting is the name of the pod that answers, asked from outside the cluster.
func greeting(at netip.AddrPort) (pod string, err error) {
	const briefly = 200 * time.Millisecond
	conn, err := net.DialTimeout("tcp", at.String(), briefly)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * briefly)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		if rest, found := strings.CutPrefix(lines.Text(), "hello from "); found {
			return strings.Fields(rest)[0], nil
		}
	}
	return "", fmt.Errorf("%s answered without a greeting (%v)", at, lines.Err())
}

// balance creates a Service of type LoadBalancer in front of pods.
func (c *cluster) balance(name, app string, port int32, changes ...func(*corev1.Service)) {
	c.t.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": app},
		Ports: []corev1.ServicePort{{Port: port, TargetPort: portNumber(8080)}},
	}}
	for _, change := range changes {
		change(s)
	}
	if _, err := c.client.CoreV1().Services("default").Create(c.t.Context(), s, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// awaitAddresses waits until a Service has these addresses.
func (c *cluster) awaitAddresses(service string, want ...string) {
	c.t.Helper()
	slices.Sort(want)
	c.eventually(fmt.Sprintf("service %s has %v", service, want), func() error {
		s, err := c.client.CoreV1().Services("default").Get(c.t.Context(), service, metav1.GetOptions{})
		if err != nil {
			return err
		}
		var got []string
		for _, i := range s.Status.LoadBalancer.Ingress {
			got = append(got, i.IP)
		}
		if !slices.Equal(got, want) {
			err = fmt.Errorf("it has %v", got)
		}
		return err
	})
}

// awaitEvent waits until somebody said something of a Service.
func (c *cluster) awaitEvent(service, words string) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("an event of service %s says %q", service, words), func() error {
		events, err := c.client.CoreV1().Events("default").List(c.t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + service})
		if err != nil {
			return err
		}
		for i := range events.Items {
			if strings.Contains(events.Items[i].Message, words) {
				return nil
			}
		}
		return fmt.Errorf("none of %d does", len(events.Items))
	})
}
