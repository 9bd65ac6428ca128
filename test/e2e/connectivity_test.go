package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/netstack/nft"
	"knarr.dev/knarr/test/lab/lab"
)

// TestEveryPathIsSoonWholeAgain has each pod try each pod, Service, node port, name and node without pause, while cables
// are pulled, rules deleted, Services made, a machine loses its power and then its address. The pods' own clocks say how
// long it took: less than 2 s when the machine has time. Each also tries pods that a policy closes, and must never come through.
func TestEveryPathIsSoonWholeAgain(t *testing.T) {
	c := start(t)
	first := c.server
	second := c.lab.Machine("m2")
	knarr := c.join(second, "--node-ip", "") // found, and so followed
	c.askElsewhere(first, second)
	m := c.newMatrix(first, second)
	m.tryAll()
	m.awaitWhole("at first", time.Now())

	t.Log("a cable is pulled, and back before anybody else takes notice")
	m.cut(second)
	m.heal(second, "a moment without cable")

	t.Log("the rules of Services are deleted on both machines")
	flushed := time.Now()
	for _, machine := range m.machines {
		if err := machine.Do(func() error { return nft.Remove(nftables.TableFamilyINet, "knarr-services") }); err != nil {
			t.Fatal(err)
		}
	}
	m.awaitWhole("rules deleted", flushed)

	t.Log("a thousand Services come and go")
	began := time.Now()
	m.churn(1000)
	m.awaitWhole("a thousand Services came and went", began)

	t.Log("a cable is pulled until the node has been given up")
	m.cut(second)
	m.giveUp(second)
	m.heal(second, "a node that was given up")

	t.Log("a machine loses its power")
	off := time.Now()
	if err := second.PowerOff(); err != nil {
		t.Fatal(err)
	}
	m.awaitWhole("the other machine lost its power", off, second.Name())
	before := m.containers(second)
	on := time.Now()
	if err := errors.Join(second.PowerOn(), knarr.Start()); err != nil {
		t.Fatal(err)
	}
	m.awaitOthers(second, before)
	m.tryAll()
	m.awaitWhole("the power was back", on)

	t.Log("a machine gets another address")
	old, moved := second.IP(), time.Now()
	if err := second.Readdress(); err != nil {
		t.Fatal(err)
	}
	m.awaitWhole("another address", moved, old.String())
	m.tryAll()
	m.awaitWhole("the paths by that address", time.Now())
	c.eventually("the API server reaches the node at its new address", func() error {
		_, err := c.tryKubectl("logs", m.on(second)[0])
		return err
	})
}

// askElsewhere sends questions about names outside the cluster to another resolver, and waits until each machine has been
// told.
func (c *cluster) askElsewhere(machines ...*lab.Machine) {
	c.t.Helper()
	settings := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kube-dns"}, Data: map[string]string{"stubDomains": `{"corp.example": ["192.0.2.53"]}`}}
	c.made(c.client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Create(c.t.Context(), settings, metav1.CreateOptions{}))
	for _, machine := range machines {
		c.eventually("machine "+machine.Name()+" follows the settings of DNS", func() error {
			log, err := os.ReadFile(machine.LogFile())
			if err == nil && !strings.Contains(string(log), "are asked for as told") {
				err = errors.New("nothing is logged of them")
			}
			return err
		})
	}
}

// matrix is pods that try every path there is, two on each machine, so that there are paths within one; and one on each
// that nobody may reach.
type matrix struct {
	c        *cluster
	machines []*lab.Machine
	pods     []string
	guarded  []string
	concerns map[string][]string // by a path's target: the machines, and addresses of such, that it needs
}

// path is what a pod says of one (test/images/app): moments in ms since 1970, Since 0 while it is broken.
type path struct {
	Target, Want, Error  string
	Never                bool
	Tried, Since, Opened int64
}

const closed = `
metadata: {name: closed}
spec: {podSelector: {matchLabels: {in: vault}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {in: vault}}}]}]}
`

func (c *cluster) newMatrix(machines ...*lab.Machine) *matrix {
	c.t.Helper()
	m := &matrix{c: c, machines: machines}
	services := c.client.CoreV1().Services("default")
	c.policy(closed)
	for _, machine := range machines {
		for _, place := range []string{"0", "1", "vault"} {
			name, in := machine.Name()+"-"+place, "matrix"
			if place == "vault" {
				in = place
				m.guarded = append(m.guarded, name)
			} else {
				m.pods = append(m.pods, name)
			}
			p := pod(name, app("serve", "8080"))
			p.Labels["in"] = in
			p.Spec.NodeName, p.Spec.Hostname, p.Spec.Subdomain = machine.Name(), name, "matrix"
			c.create(p)
			c.made(services.Create(c.t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "to-" + name}, Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"app": name},
				Ports: []corev1.ServicePort{{Port: 80, TargetPort: portNumber(8080)}},
			}}, metav1.CreateOptions{}))
		}
	}
	c.made(services.Create(c.t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "matrix"}, Spec: corev1.ServiceSpec{
		ClusterIP: corev1.ClusterIPNone, Selector: map[string]string{"in": "matrix"}, Ports: []corev1.ServicePort{{Port: 8080}},
	}}, metav1.CreateOptions{}))
	return m
}

// tryAll has every pod try every path there is now, and none there was before.
func (m *matrix) tryAll() {
	m.c.t.Helper()
	var all []path
	m.concerns = map[string][]string{}
	add := func(p path, needs ...string) {
		m.concerns[p.Target] = needs
		all = append(all, p)
	}
	for _, machine := range m.machines {
		add(path{Target: fmt.Sprintf("tcp://%s:10250", machine.IP())}, machine.Name(), machine.IP().String())
	}
	for _, name := range slices.Concat(m.pods, m.guarded) {
		ready := m.c.awaitPod(name, "to be ready", podReady)
		service, err := m.c.client.CoreV1().Services("default").Get(m.c.t.Context(), "to-"+name, metav1.GetOptions{})
		if err != nil {
			m.c.t.Fatal(err)
		}
		if slices.Contains(m.guarded, name) {
			for _, host := range []string{ready.Status.PodIP + ":8080", service.Spec.ClusterIP} {
				add(path{Target: "http://" + host + "/", Never: true}, ready.Spec.NodeName)
			}
			continue
		}
		for _, host := range []string{
			ready.Status.PodIP + ":8080",
			service.Spec.ClusterIP,
			service.Name, // not the pod's: that is in its own hosts file
			name + ".matrix:8080",
		} {
			add(path{Target: "http://" + host + "/", Want: "hello from " + name + " "}, ready.Spec.NodeName)
		}
		for _, machine := range m.machines {
			target := fmt.Sprintf("http://%s:%d/", machine.IP(), service.Spec.Ports[0].NodePort)
			add(path{Target: target, Want: "hello from " + name + " "}, ready.Spec.NodeName, machine.Name(), machine.IP().String())
		}
	}
	for _, name := range m.pods {
		m.c.eventually("pod "+name+" tries all paths", func() error {
			_, err := m.ask(http.MethodPut, name, all)
			return err
		})
	}
}

// ask has a pod say how all its paths fare, by PUT after it was given these.
func (m *matrix) ask(verb, pod string, paths []path) ([]path, error) {
	ctx, cancel := context.WithTimeout(m.c.t.Context(), 5*time.Second) // a connection may have died with the cable
	defer cancel()
	body, err := json.Marshal(paths)
	if err != nil {
		return nil, err
	}
	answer, err := m.c.client.CoreV1().RESTClient().Verb(verb).Namespace("default").Resource("pods").Name(pod+":8080").
		SubResource("proxy").Suffix("paths").SetHeader("Content-Type", "application/json").Body(body).Do(ctx).Raw()
	if err != nil {
		return nil, err
	}
	var all []path
	return all, json.Unmarshal(answer, &all)
}

// on are the pods of a machine, without the one that is closed.
func (m *matrix) on(machine *lab.Machine) []string {
	return slices.DeleteFunc(slices.Clone(m.pods), func(pod string) bool { return !strings.HasPrefix(pod, machine.Name()+"-") })
}

// cut pulls a machine's cable, and waits until another one's pods have noticed.
func (m *matrix) cut(machine *lab.Machine) {
	m.c.t.Helper()
	if err := machine.Cut(); err != nil {
		m.c.t.Fatal(err)
	}
	m.awaitBroken(m.pods[0])
}

func (m *matrix) heal(machine *lab.Machine, what string) {
	m.c.t.Helper()
	healed := time.Now()
	if err := machine.Heal(); err != nil {
		m.c.t.Fatal(err)
	}
	m.awaitWhole(what, healed)
}

// giveUp says of a node that is cut off what the control plane would say 40 s later, and waits for what follows from it.
func (m *matrix) giveUp(machine *lab.Machine) {
	m.c.t.Helper()
	nodes := m.c.client.CoreV1().Nodes()
	m.c.eventually("the node is given up", func() error {
		node, err := nodes.Get(m.c.t.Context(), machine.Name(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		for i := range node.Status.Conditions {
			if ready := &node.Status.Conditions[i]; ready.Type == corev1.NodeReady {
				ready.Status, ready.LastTransitionTime = corev1.ConditionUnknown, metav1.Now()
			}
		}
		_, err = nodes.UpdateStatus(m.c.t.Context(), node, metav1.UpdateOptions{})
		return err
	})
	for _, name := range m.on(machine) {
		m.c.awaitPod(name, "not to be counted on", func(p *corev1.Pod) bool { return !podReady(p) })
	}
}

// containers of a machine's pods, those that are closed included.
func (m *matrix) containers(machine *lab.Machine) map[string]string {
	m.c.t.Helper()
	ids := map[string]string{}
	for _, name := range append(m.on(machine), machine.Name()+"-vault") {
		ids[name] = m.c.awaitPod(name, "to have a container", podReady).Status.ContainerStatuses[0].ContainerID
	}
	return ids
}

// awaitOthers waits until each pod has another container.
func (m *matrix) awaitOthers(machine *lab.Machine, before map[string]string) {
	m.c.t.Helper()
	for name, id := range before {
		m.c.awaitPod(name, "to run again", func(p *corev1.Pod) bool { return podReady(p) && p.Status.ContainerStatuses[0].ContainerID != id })
	}
}

// churn creates so many Services with endpoints, and deletes each at some time after.
func (m *matrix) churn(n int) {
	m.c.t.Helper()
	const atOnce = 8
	services := m.c.client.CoreV1().Services("default")
	group, ctx := errgroup.WithContext(m.c.t.Context())
	for worker := range atOnce {
		group.Go(func() error {
			dice := rand.New(rand.NewPCG(uint64(worker), 0))
			var there []string
			for made := 0; made < n/atOnce || len(there) > 0; {
				if made < n/atOnce && (len(there) == 0 || dice.IntN(2) == 0) {
					name := fmt.Sprintf("passing-%d-%d", worker, made)
					service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
						Selector: map[string]string{"app": m.pods[dice.IntN(len(m.pods))]},
						Ports:    []corev1.ServicePort{{Port: 80, TargetPort: portNumber(8080)}},
					}}
					if _, err := services.Create(ctx, service, metav1.CreateOptions{}); err != nil {
						return err
					}
					made, there = made+1, append(there, name)
					continue
				}
				at := dice.IntN(len(there))
				if err := services.Delete(ctx, there[at], metav1.DeleteOptions{}); err != nil {
					return err
				}
				there = slices.Delete(there, at, at+1)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		m.c.t.Fatalf("create and delete Services: %v", err)
	}
}

func (m *matrix) awaitBroken(pod string) {
	m.c.t.Helper()
	m.c.eventually("paths of "+pod+" break", func() error {
		all, err := m.ask(http.MethodGet, pod, nil)
		if err != nil {
			return err
		}
		for _, p := range all {
			if p.Since == 0 && !p.Never {
				return nil
			}
		}
		return fmt.Errorf("all %d are whole", len(all))
	})
}

// awaitWhole waits until every path has answered a connection made after a moment, but for those that need something
// that is not there; and logs how long after it the last of them began to. No path may lead where a policy forbids.
func (m *matrix) awaitWhole(what string, since time.Time, without ...string) {
	m.c.t.Helper()
	needs := func(target string) bool {
		return slices.ContainsFunc(m.concerns[target], func(need string) bool { return slices.Contains(without, need) })
	}
	var paths, mended, shut int
	var took time.Duration
	last := "none broke"
	m.c.eventually("all paths whole after "+what, func() error {
		paths, mended, shut, took = 0, 0, 0, 0
		for _, machine := range m.machines {
			if slices.Contains(without, machine.Name()) {
				continue
			}
			for _, pod := range m.on(machine) {
				all, err := m.ask(http.MethodGet, pod, nil)
				if err != nil {
					return fmt.Errorf("ask %s: %w", pod, err)
				}
				for _, p := range all {
					if p.Opened != 0 {
						m.c.t.Fatalf("%s reached %s %s after %s: a policy forbids it", pod, p.Target, time.UnixMilli(p.Opened).Sub(since), what)
					}
					if needs(p.Target) {
						continue
					}
					if p.Tried < since.UnixMilli() || p.Since == 0 && !p.Never {
						return fmt.Errorf("from %s to %s: %q, last tried %s after", pod, p.Target, p.Error, time.UnixMilli(p.Tried).Sub(since))
					}
					if p.Never {
						shut++
						continue
					}
					paths++
					if after := time.UnixMilli(p.Since).Sub(since); after > 0 {
						mended++
						if after > took {
							took, last = after, pod+" to "+p.Target
						}
					}
				}
			}
		}
		return nil
	})
	m.c.t.Logf("%s: %d paths, %d of them broken and mended; whole after %s (last: %s); %d closed ones stayed closed", what, paths, mended, took.Round(time.Millisecond), last, shut)
}
