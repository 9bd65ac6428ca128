package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"knarr.dev/knarr/netstack/xt"
)

// TestAClusterWithoutNftables is about machines whose kernel has ip_tables alone: this one's has both, so they are told.
func TestAClusterWithoutNftables(t *testing.T) {
	if _, err := xt.Find(false); err != nil {
		t.Skip(err)
	}
	c := start(t, "--packet-filter", "iptables")
	m2 := c.lab.Machine("m2")
	c.join(m2, "--packet-filter", "iptables")
	server := app("serve", "8080")
	server.Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, HostPort: 8088}}
	for name, of := range map[string]corev1.Container{"server": server, "friend": app("sleep"), "stranger": app("sleep")} {
		p := pod(name, of)
		if p.Spec.NodeName = "m1"; name == "server" {
			p.Spec.NodeName = "m2"
		}
		c.create(p)
	}
	for _, name := range []string{"server", "friend", "stranger"} {
		c.awaitPod(name, "to be ready", podReady)
	}
	service, err := c.client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "server"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Selector: labels.Set{"app": "server"}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: portNumber(8080)}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	nodePort := service.Spec.Ports[0].NodePort
	for _, url := range []string{
		"http://server", "http://" + service.Spec.ClusterIP, // by name and address
		fmt.Sprintf("http://%s:%d", c.server.IP(), nodePort), fmt.Sprintf("http://%s:%d", m2.IP(), nodePort), fmt.Sprintf("http://%s:8088", m2.IP()),
	} {
		c.eventually("a pod on another machine reaches "+url, c.says("friend", url, "hello from server"))
	}

	t.Log("a policy lets friends in")
	c.policy(`{metadata: {name: friends}, spec: {podSelector: {matchLabels: {app: server}}, ingress: [{from: [{podSelector: {matchLabels: {app: friend}}}], ports: [{port: http}]}]}}`)
	c.eventually("a stranger is refused", func() error {
		if c.says("stranger", "http://server", "hello from server")() == nil {
			return fmt.Errorf("a stranger still reaches the server")
		}
		return nil
	})
	if err := c.says("friend", "http://server", "hello from server")(); err != nil {
		t.Errorf("a friend: %v", err)
	}

	t.Log("nothing of it is in nftables, and all of it goes with a reset")
	mine := func() (tables, chains []string, err error) {
		err = m2.Do(func() error {
			conn, err := nftables.New()
			if err != nil {
				return err
			}
			list, err := conn.ListTables()
			if err != nil {
				return err
			}
			for _, table := range list {
				tables = append(tables, table.Name)
			}
			program, err := xt.Find(false)
			if err != nil {
				return err
			}
			for _, table := range xt.InUse(false) {
				list, _, err := program.Dump(table)
				if err != nil {
					return err
				}
				for name, rules := range list {
					if xt.Ours(name) || len(rules) > 0 {
						chains = append(chains, table+" "+name)
					}
				}
			}
			return nil
		})
		slices.Sort(chains)
		return tables, chains, err
	}
	tables, chains, err := mine()
	if err != nil || len(tables) > 0 || len(chains) == 0 {
		t.Errorf("tables of nftables: %v, chains of ip_tables: %v, %v", tables, chains, err)
	}
	if out, err := c.onMachine(m2, append([]string{"reset", "--yes"}, m2.KnarrArgs("")[1:]...)...); err != nil {
		t.Fatalf("reset: %v\n%s", err, out)
	}
	if _, chains, err := mine(); err != nil || len(chains) > 0 {
		t.Errorf("left after the reset: %s, %v", strings.Join(chains, ", "), err)
	}
}
