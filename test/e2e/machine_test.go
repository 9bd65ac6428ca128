package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/netstack/overlay"
	"knarr.dev/knarr/test/lab/lab"
)

// TestKilledAndStartedAgain cuts knarr off between two instructions: pods run on, and nothing acknowledged is gone.
func TestKilledAndStartedAgain(t *testing.T) {
	c := start(t)
	c.create(pod("survivor", app("serve")))
	before := c.awaitPod("survivor", "to be ready", podReady)
	pids := c.containerPids()
	if len(pids) == 0 {
		t.Fatal("no process in the pods' cgroups")
	}

	// Writes go on until the moment it is killed; each that was acknowledged has to be there afterwards.
	acknowledged := make(chan []string, 1)
	writing, stop := context.WithCancel(t.Context())
	begun := make(chan struct{})
	go func() {
		var names []string
		for i := 0; writing.Err() == nil; i++ {
			name := fmt.Sprintf("written-%d", i)
			if _, err := c.client.CoreV1().ConfigMaps("default").Create(writing, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
				break
			}
			if names = append(names, name); len(names) == 50 {
				close(begun)
			}
		}
		acknowledged <- names
	}()
	<-begun
	if err := c.knarr.Kill9(); err != nil {
		t.Fatal(err)
	}
	stop()
	written := <-acknowledged
	if got := c.containerPids(); !equal(got, pids) {
		t.Errorf("while knarr was away the pods' processes changed from %v to %v", pids, got)
	}

	if err := c.knarr.Start(); err != nil {
		t.Fatal(err)
	}
	c.connect()
	list, err := c.client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, m := range list.Items {
		have[m.Name] = true
	}
	for _, name := range written {
		if !have[name] {
			t.Errorf("%s was acknowledged and is gone", name)
		}
	}
	c.awaitNode(c.server.Name(), corev1.ConditionTrue)
	c.awaitServing()
	after := c.awaitPod("survivor", "to be ready", podReady)
	if got := c.containerPids(); !equal(got, pids) {
		t.Errorf("after the restart the pods' processes are %v; want %v", got, pids)
	}
	if b, a := before.Status.ContainerStatuses[0], after.Status.ContainerStatuses[0]; a.ContainerID != b.ContainerID || a.RestartCount != b.RestartCount {
		t.Errorf("container %s with %d restarts became %s with %d", b.ContainerID, b.RestartCount, a.ContainerID, a.RestartCount)
	}
	if got := c.exec("survivor", "get", "http://127.0.0.1:8080/"); !strings.Contains(got, "hello from survivor") {
		t.Errorf("after the restart the pod answers %q", got)
	}
	c.create(pod("newcomer", app("serve")))
	c.awaitPod("newcomer", "to be ready", podReady)
}

// awaitServing waits until knarr itself says that all of the machine serves.
func (c *cluster) awaitServing() {
	c.t.Helper()
	if out, err := c.onMachine(c.server, "status", "--wait", patience.String()); err != nil {
		c.t.Fatalf("knarr status: %v\n%s", err, out)
	}
}

// onMachine runs a knarr command that looks at the machine it is on.
func (c *cluster) onMachine(m *lab.Machine, args ...string) (string, error) {
	c.t.Helper()
	binary, err := lab.Binary()
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := m.Command(c.t.Context(), binary, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/root", "KNARR_DATA_DIR=" + m.DataDir(), "KNARR_RUN_DIR=" + m.RunDir()}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// containerPids are the processes in pods' cgroups, in order.
func (c *cluster) containerPids() []int {
	c.t.Helper()
	pids, err := pidsBelow(filepath.Join(c.server.CgroupRoot(), "kubepods"))
	if err != nil {
		c.t.Fatal(err)
	}
	return pids
}

func equal(a, b []int) bool {
	return fmt.Sprint(a) == fmt.Sprint(b)
}

// TestTwoMachines joins a second machine, lets pods talk across, and pulls its cable. What they say is encrypted; the other
// tests of two machines are about VXLAN.
func TestTwoMachines(t *testing.T) {
	c := start(t, "--overlay", config.WireGuard)
	out, err := c.onMachine(c.server, "token", "create")
	if err != nil {
		t.Fatalf("token create: %v\n%s", err, out)
	}
	token := strings.TrimSpace(out)
	second := c.lab.Machine("m2")
	giveImages(t, second)
	join := []string{"--join", fmt.Sprintf("https://%s:6443", c.server.IP()), "--token", token}
	agent := second.StartKnarr("agent", join...)
	c.awaitNode(second.Name(), corev1.ConditionTrue)

	t.Log("the node has an identity of its own")
	for _, file := range []string{"ca.key", "client-ca.key", "admin.key", "service-account.key"} {
		if _, err := os.Stat(filepath.Join(second.DataDir(), "pki", file)); !os.IsNotExist(err) {
			t.Errorf("the node holds %s (%v)", file, err)
		}
	}

	t.Log("pods, services and names reach across")
	for name, node := range map[string]string{"near": c.server.Name(), "far": second.Name()} {
		p := pod(name, app("serve"))
		p.Spec.NodeName = node
		c.create(p)
		if _, err := c.client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 80, TargetPort: portNumber(8080)}}},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for from, to := range map[string]string{"near": "far", "far": "near"} {
		c.awaitPod(from, "to be ready", podReady)
		target := c.awaitPod(to, "to be ready", podReady)
		for _, url := range []string{"http://" + target.Status.PodIP + ":8080/", "http://" + to + "/", "http://" + to + ".default.svc.cluster.local/"} {
			c.eventually(from+" reaches "+url, func() error {
				got, err := c.tryKubectl("exec", from, "--", "/app", "get", url)
				if err == nil && !strings.Contains(got, "hello from "+to) {
					err = fmt.Errorf("answered %q", got)
				}
				return err
			})
		}
	}
	for _, m := range []*lab.Machine{c.server, second} {
		if err := m.Do(func() error { _, err := netlink.LinkByName(overlay.Tunnel); return err }); err != nil {
			t.Errorf("machine %s has no way into WireGuard: %v", m.Name(), err)
		}
	}
	if got := c.kubectl("logs", "far"); !strings.Contains(got, "serving on 8080") {
		t.Errorf("logs of a pod on the second machine: %q", got)
	}

	t.Log("a machine that is cut off turns NotReady, and comes back")
	if err := second.Cut(); err != nil {
		t.Fatal(err)
	}
	c.awaitNode(second.Name(), corev1.ConditionUnknown)
	if err := second.Heal(); err != nil {
		t.Fatal(err)
	}
	c.awaitNode(second.Name(), corev1.ConditionTrue)
	c.eventually("near reaches far again", func() error {
		_, err := c.tryKubectl("exec", "near", "--", "/app", "get", "http://far/")
		return err
	})

	t.Log("it needs no token to start again")
	if err := agent.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.onMachine(c.server, "token", "revoke", token); err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	if out, err := c.onMachine(second, "status", "--wait", patience.String()); err != nil {
		t.Errorf("second machine after its restart: %v\n%s", err, out)
	}

	t.Log("a revoked token opens nothing")
	third := c.lab.Machine("m3")
	refused, err := third.Knarr("agent", join...)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-refused.Ended():
		if refused.Err() == nil {
			t.Error("knarr agent with a revoked token ended with exit code 0")
		}
	case <-time.After(patience):
		t.Errorf("knarr agent with a revoked token still tries after %s", patience)
	}
}

// TestResetLeavesNothing compares the machine before its first start with the machine after the reset.
func TestResetLeavesNothing(t *testing.T) {
	c := start(t)
	c.create(pod("passenger", app("serve")))
	c.awaitPod("passenger", "to be ready", podReady)
	c.deploy("crew", 2)
	c.awaitDeployment("crew", 2)

	out, err := c.onMachine(c.server, append([]string{"reset", "--yes"}, c.server.KnarrArgs("")[1:]...)...)
	if err != nil {
		t.Fatalf("reset: %v\n%s", err, out)
	}
	<-c.knarr.Ended()
	if processes, err := processesOf(c.server.Dir()); err != nil || len(processes) > 0 {
		t.Errorf("processes left: %v (%v)", processes, err)
	}
	for _, dir := range []string{c.server.DataDir(), c.server.RunDir()} {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is left (%v)", dir, err)
		}
	}
	if pids := c.containerPids(); len(pids) > 0 {
		t.Errorf("processes left in pods' cgroups: %v", pids)
	}
	if err := c.server.Do(func() error { return leftInTheKernel(c.server.Dir()) }); err != nil {
		t.Error(err)
	}
}

// TestRefusals shows what an operator reads when a start can't be: one line that says what to do, and nothing harmed.
func TestRefusals(t *testing.T) {
	c := start(t)
	c.create(pod("bystander", app("serve")))
	c.awaitPod("bystander", "to be ready", podReady)
	other := c.lab.Machine("other")
	small := filepath.Join(other.Dir(), "small")
	other.Exec("mkdir", "-p", small)
	other.Exec("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small)
	broken := filepath.Join(other.Dir(), "broken.yaml")
	unknown := filepath.Join(other.Dir(), "unknown.yaml")
	for file, content := range map[string]string{broken: "node-name: [\n", unknown: "node-nmae: x\n"} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	for name, tc := range map[string]struct {
		on   *lab.Machine
		args []string
		want string
	}{
		"a second instance on the same data directory": {c.server, c.server.KnarrArgs("server"), "in use by another knarr"},
		"a port in use": {c.server, replaced(c.server.KnarrArgs("server"), map[string]string{
			"--data-dir": c.server.Dir() + "/data2", "--run-dir": c.server.Dir() + "/run2"}), "port 6443 is in use by"},
		"a full disk":                   {other, replaced(other.KnarrArgs("server"), map[string]string{"--data-dir": small}), "MiB free"},
		"a broken configuration":        {other, other.KnarrArgs("server", "--config", broken), broken},
		"an unknown key":                {other, other.KnarrArgs("server", "--config", unknown), "node-name"},
		"ranges that overlap":           {other, other.KnarrArgs("server", "--service-cidr", "10.42.0.0/16", "--cluster-dns", "10.42.0.10"), "overlap"},
		"an agent without a token":      {other, other.KnarrArgs("agent", "--join", "https://127.0.0.1:1"), "token"},
		"an agent in a server's folder": {c.server, c.server.KnarrArgs("agent", "--join", "https://127.0.0.1:1"), "a cluster of its own"},
		"a server that is to join":      {other, other.KnarrArgs("server", "--join", "https://127.0.0.1:1"), "join is for agents"},
		"an agent without a server":     {other, other.KnarrArgs("agent"), "join"},
		"a flag that does not exist":    {other, []string{"server", "--nod-name", "x"}, "nod-name"},
	} {
		t.Run(name, func(t *testing.T) {
			own := *c
			own.t = t
			out, err := own.onMachineWithin(tc.on, 30*time.Second, tc.args...)
			if err == nil {
				t.Fatalf("exit code 0; it said:\n%s", out)
			}
			last := out[strings.LastIndex(strings.TrimSpace(out), "\n")+1:]
			if !strings.HasPrefix(last, "knarr: ") || !strings.Contains(last, tc.want) {
				t.Errorf("the last line is %q; want one that begins with knarr: and says %q", last, tc.want)
			}
			if strings.Contains(out, "goroutine ") {
				t.Errorf("a stack trace:\n%s", out)
			}
		})
	}
	c.awaitPod("bystander", "to be unharmed", podReady)
	if got := c.exec("bystander", "echo", "fine"); got != "fine\n" {
		t.Errorf("after all refusals the running cluster says %q", got)
	}
}

// onMachineWithin runs knarr with its own flags rather than variables, for a bounded time.
func (c *cluster) onMachineWithin(m *lab.Machine, limit time.Duration, args ...string) (string, error) {
	c.t.Helper()
	binary, err := lab.Binary()
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(c.t.Context(), limit)
	defer cancel()
	cmd := m.Command(ctx, binary, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/root"}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	if ctx.Err() != nil {
		c.t.Errorf("still running after %s:\n%s", limit, out.String())
	}
	return out.String(), err
}

// replaced gives some of the flags another value.
func replaced(args []string, values map[string]string) []string {
	list := append([]string(nil), args...)
	for i := range list[:len(list)-1] {
		if v, ok := values[list[i]]; ok {
			list[i+1] = v
		}
	}
	return list
}

// TestAnotherAddress gives a machine a new one: certificates follow, the authority stays.
func TestAnotherAddress(t *testing.T) {
	c := start(t)
	authority, err := os.ReadFile(filepath.Join(c.server.DataDir(), "pki", "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.knarr.Stop(); err != nil {
		t.Fatal(err)
	}
	moved := c.server.IP().Next().Next().Next().String()
	c.server.Exec("ip", "addr", "add", moved+"/24", "dev", "eth0")
	c.knarr = c.server.StartKnarr("server", "--node-ip", moved)
	c.connect()
	c.awaitServing()
	cfg, err := c.restConfig()
	if err != nil {
		t.Fatal(err)
	}
	if want := "https://" + moved + ":6443"; cfg.Host != want {
		t.Errorf("kubeconfig points at %s; want %s", cfg.Host, want)
	}
	until(t, "the node to have its new address", c.named("nodes", "", c.server.Name()), &corev1.Node{}, func(_ watch.EventType, n *corev1.Node) bool {
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP && a.Address == moved {
				return true
			}
		}
		return false
	})
	after, err := os.ReadFile(filepath.Join(c.server.DataDir(), "pki", "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(authority, after) {
		t.Error("the cluster's authority was replaced")
	}
	c.create(pod("after-the-move", app("serve")))
	c.awaitPod("after-the-move", "to be ready", podReady)
	if got := c.exec("after-the-move", "echo", "moved"); got != "moved\n" {
		t.Errorf("exec after the move: %q", got)
	}
}
