package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
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
// are pulled, rules deleted and Services made. The pods' own clocks say how long it took: less than 2 s when the machine has time.
func TestEveryPathIsSoonWholeAgain(t *testing.T) {
	c := start(t)
	first, second := c.server, c.joined("m2")
	m := c.newMatrix(first, second)
	m.awaitWhole("at first", time.Now())

	t.Log("a cable is pulled, and back before anybody else takes notice")
	if err := second.Cut(); err != nil {
		t.Fatal(err)
	}
	m.awaitBroken(m.pods[0])
	healed := time.Now()
	if err := second.Heal(); err != nil {
		t.Fatal(err)
	}
	m.awaitWhole("a moment without cable", healed)

	t.Log("the rules of Services are deleted on both machines")
	flushed := time.Now()
	for _, machine := range []*lab.Machine{first, second} {
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
	if err := second.Cut(); err != nil {
		t.Fatal(err)
	}
	c.awaitNode(second.Name(), corev1.ConditionUnknown)
	healed = time.Now()
	if err := second.Heal(); err != nil {
		t.Fatal(err)
	}
	m.awaitWhole("a node that was given up", healed)
}

// matrix is pods that try every path there is, two on each machine, so that there are paths within one.
type matrix struct {
	c    *cluster
	pods []string
}

// path is what a pod says of one (test/images/app): Tried and Since in ms since 1970, Since 0 while it is broken.
type path struct {
	Target, Want, Error string
	Tried, Since        int64
}

func (c *cluster) newMatrix(machines ...*lab.Machine) *matrix {
	c.t.Helper()
	m := &matrix{c: c}
	services := c.client.CoreV1().Services("default")
	for _, machine := range machines {
		for i := range 2 {
			name := fmt.Sprintf("%s-%d", machine.Name(), i)
			p := pod(name, app("serve", "8080"))
			p.Labels["in"] = "matrix"
			p.Spec.NodeName, p.Spec.Hostname, p.Spec.Subdomain = machine.Name(), name, "matrix"
			c.create(p)
			m.pods = append(m.pods, name)
		}
	}
	c.made(services.Create(c.t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "matrix"}, Spec: corev1.ServiceSpec{
		ClusterIP: corev1.ClusterIPNone, Selector: map[string]string{"in": "matrix"}, Ports: []corev1.ServicePort{{Port: 8080}},
	}}, metav1.CreateOptions{}))

	var all []path
	for _, machine := range machines {
		all = append(all, path{Target: fmt.Sprintf("tcp://%s:10250", machine.IP())})
	}
	for _, name := range m.pods {
		service, err := services.Create(c.t.Context(), &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "to-" + name}, Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeNodePort, Selector: map[string]string{"app": name},
			Ports: []corev1.ServicePort{{Port: 80, TargetPort: portNumber(8080)}},
		}}, metav1.CreateOptions{})
		if err != nil {
			c.t.Fatal(err)
		}
		at := []string{
			c.awaitPod(name, "to be ready", podReady).Status.PodIP + ":8080",
			service.Spec.ClusterIP,
			service.Name, // not the pod's: that is in its own hosts file
			name + ".matrix:8080",
		}
		for _, machine := range machines {
			at = append(at, fmt.Sprintf("%s:%d", machine.IP(), service.Spec.Ports[0].NodePort))
		}
		for _, host := range at {
			all = append(all, path{Target: "http://" + host + "/", Want: "hello from " + name + " "})
		}
	}
	for _, name := range m.pods {
		if _, err := m.ask(name, all); err != nil {
			c.t.Fatalf("have pod %s try all paths: %v", name, err)
		}
	}
	return m
}

// ask gives a pod more paths to try, and returns how all its paths fare.
func (m *matrix) ask(pod string, more []path) ([]path, error) {
	ctx, cancel := context.WithTimeout(m.c.t.Context(), 5*time.Second) // a connection may have died with the cable
	defer cancel()
	body, err := json.Marshal(more)
	if err != nil {
		return nil, err
	}
	answer, err := m.c.client.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name(pod+":8080").
		SubResource("proxy").Suffix("paths").SetHeader("Content-Type", "application/json").Body(body).Do(ctx).Raw()
	if err != nil {
		return nil, err
	}
	var all []path
	return all, json.Unmarshal(answer, &all)
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
		all, err := m.ask(pod, nil)
		if err != nil {
			return err
		}
		for _, p := range all {
			if p.Since == 0 {
				return nil
			}
		}
		return fmt.Errorf("all %d are whole", len(all))
	})
}

// awaitWhole waits until every path has answered a connection made after a moment, and logs how long after it the last
// of them began to.
func (m *matrix) awaitWhole(what string, since time.Time) {
	m.c.t.Helper()
	var paths, mended int
	var took time.Duration
	m.c.eventually("all paths whole after "+what, func() error {
		paths, mended, took = 0, 0, 0
		for _, pod := range m.pods {
			all, err := m.ask(pod, nil)
			if err != nil {
				return fmt.Errorf("ask %s: %w", pod, err)
			}
			for _, p := range all {
				if p.Since == 0 || p.Tried < since.UnixMilli() {
					return fmt.Errorf("from %s to %s: %q, last tried %s after", pod, p.Target, p.Error, time.UnixMilli(p.Tried).Sub(since))
				}
				paths++
				if after := time.UnixMilli(p.Since).Sub(since); after > 0 {
					mended++
					took = max(took, after)
				}
			}
		}
		return nil
	})
	m.c.t.Logf("%s: %d paths, %d of them broken and mended; whole after %s", what, paths, mended, took.Round(time.Millisecond))
}
