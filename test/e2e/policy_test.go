package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"knarr.dev/knarr/test/lab/lab"
)

// TestPoliciesDecideWhoTalksToWhom is about two machines: whoever asks runs on another one than who answers.
func TestPoliciesDecideWhoTalksToWhom(t *testing.T) {
	c := start(t)
	c.joined("m2")
	on := func(node string, p *corev1.Pod) {
		p.Spec.NodeName = node
		c.create(p)
	}
	server := app("serve", "8080")
	server.Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}
	on("m2", pod("server", server))
	for _, name := range []string{"friend", "stranger"} {
		on("m1", pod(name, app("sleep")))
	}
	at := c.awaitPod("server", "to be ready", podReady).Status.PodIP
	for _, name := range []string{"friend", "stranger"} {
		c.awaitPod(name, "to be ready", podReady)
	}
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "server"}, Spec: corev1.ServiceSpec{
		Selector: labels.Set{"app": "server"}, Ports: []corev1.ServicePort{{Port: 8080}},
	}}
	if _, err := c.client.CoreV1().Services("default").Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	reaches := func(pod, host string) error {
		got, err := c.tryKubectl("exec", pod, "--", "/app", "get", "http://"+host+":8080/")
		if err == nil && !strings.HasPrefix(got, "hello from server") {
			err = fmt.Errorf("answered %q", got)
		}
		return err
	}
	refused := func(pod, host string) error {
		if reaches(pod, host) == nil {
			return fmt.Errorf("%s still reaches %s", pod, host)
		}
		return nil
	}
	c.eventually("everybody reaches everybody", func() error { return reaches("stranger", "server") })

	t.Log("nobody comes in")
	c.policy(`{metadata: {name: deny}, spec: {podSelector: {}, policyTypes: [Ingress]}}`)
	c.eventually("a stranger is refused", func() error { return refused("stranger", at) })

	t.Log("but those with a label, to a port by its name")
	c.policy(`{metadata: {name: friends}, spec: {podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}], ports: [{port: http}]}]}}`)
	c.eventually("a friend comes in", func() error { return reaches("friend", "server") })
	if err := refused("stranger", at); err != nil {
		t.Error(err)
	}
	t.Log("a pod that is new is refused from its first packet, and a probe of its node is not")
	probed := app("serve", "8080")
	probed.ReadinessProbe = &corev1.Probe{
		ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}, PeriodSeconds: 1,
	}
	on("m2", pod("late", probed))
	late := c.awaitPod("late", "to be ready", podReady).Status.PodIP
	if err := refused("friend", late); err != nil {
		t.Error(err)
	}

	t.Log("nothing goes out but to the server, and questions to DNS")
	c.policy(`
metadata: {name: out}
spec:
  podSelector: {matchLabels: {app: friend}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: server}}}]
  - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]
    ports: [{port: 53, protocol: UDP}, {port: 53}]`)
	outside := fmt.Sprintf("%s:%d", c.server.IP(), 10250)
	c.eventually("its node is out of reach", func() error {
		began := time.Now()
		_, err := c.tryKubectl("exec", "friend", "--", "/app", "get", "http://"+outside+"/healthz")
		if err == nil || time.Since(began) < time.Second { // a refusal of HTTP over TLS comes at once
			return fmt.Errorf("answered after %s: %v", time.Since(began), err)
		}
		return nil
	})
	if err := reaches("friend", "server"); err != nil {
		t.Errorf("by name, to whom it may talk: %v", err)
	}
	c.kubectl("delete", "networkpolicy", "--all")
	c.eventually("without policies everybody reaches everybody", func() error { return reaches("stranger", at) })
}

// joined starts another machine, as a node.
func (c *cluster) joined(name string) *lab.Machine {
	c.t.Helper()
	m := c.lab.Machine(name)
	c.join(m)
	return m
}

// join makes a machine of the lab a node, and returns what runs on it.
func (c *cluster) join(m *lab.Machine, more ...string) *lab.Knarr {
	c.t.Helper()
	token, err := c.onMachine(c.server, "token", "create")
	if err != nil {
		c.t.Fatalf("token create: %v\n%s", err, token)
	}
	giveImages(c.t, m)
	args := []string{"--join", fmt.Sprintf("https://%s:6443", c.server.IP()), "--token", strings.TrimSpace(token)}
	knarr := m.StartKnarr("agent", append(args, more...)...)
	c.awaitNode(m.Name(), corev1.ConditionTrue)
	return knarr
}

func (c *cluster) policy(text string) {
	c.t.Helper()
	p := &networkingv1.NetworkPolicy{}
	if err := yaml.UnmarshalStrict([]byte(text), p); err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.client.NetworkingV1().NetworkPolicies("default").Create(c.t.Context(), p, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}
