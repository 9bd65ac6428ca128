package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// service is an extender that likes one node and hates another, and remembers what it was asked.
type service struct {
	likes, hates string
	fails        bool
	whole        bool // it wants whole nodes

	mu    sync.Mutex
	asked []string
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	verb := strings.TrimPrefix(r.URL.Path, "/api/")
	s.asked = append(s.asked, verb)
	if s.fails {
		http.Error(w, "out of order", http.StatusServiceUnavailable)
		return
	}
	var answer any
	switch verb {
	case "filter":
		var args extenderv1.ExtenderArgs
		if err := json.NewDecoder(r.Body).Decode(&args); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		result := &extenderv1.ExtenderFilterResult{FailedNodes: extenderv1.FailedNodesMap{s.hates: "bad karma"}}
		if s.whole {
			result.Nodes = &corev1.NodeList{}
			for _, n := range args.Nodes.Items {
				if n.Name != s.hates {
					result.Nodes.Items = append(result.Nodes.Items, n)
				}
			}
		} else {
			left := slices.DeleteFunc(*args.NodeNames, func(name string) bool { return name == s.hates })
			result.NodeNames = &left
		}
		answer = result
	case "prioritize":
		answer = extenderv1.HostPriorityList{{Host: s.likes, Score: 10}}
	case "bind":
		var args extenderv1.ExtenderBindingArgs
		if err := json.NewDecoder(r.Body).Decode(&args); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		s.asked = append(s.asked, fmt.Sprintf("%s/%s to %s", args.PodNamespace, args.PodName, args.Node))
		answer = &extenderv1.ExtenderBindingResult{}
	case "preempt":
		var args extenderv1.ExtenderPreemptionArgs
		if err := json.NewDecoder(r.Body).Decode(&args); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		delete(args.NodeNameToMetaVictims, s.hates)
		answer = &extenderv1.ExtenderPreemptionResult{NodeNameToMetaVictims: args.NodeNameToMetaVictims}
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		panic(err)
	}
}

func extended(t *testing.T, s *service, settings string) *profile {
	t.Helper()
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	c, err := ParseConfig([]byte(header + "extenders:\n- urlPrefix: " + server.URL + "/api/\n" + settings))
	if err != nil {
		t.Fatal(err)
	}
	return c.profiles[0]
}

func TestExtenderHasItsSay(t *testing.T) {
	const verbs = "  filterVerb: filter\n  prioritizeVerb: prioritize\n  weight: 100\n"
	tests := map[string]struct {
		service  *service
		settings string
		pod      podChange
		want     string
		why      string // when there is no decision, or no node
	}{
		"it likes a node the rules like less":         {service: &service{likes: "b"}, settings: verbs + "  nodeCacheCapable: true\n", want: "b"},
		"it refuses a node":                           {service: &service{hates: "a"}, settings: verbs + "  nodeCacheCapable: true\n", want: "b"},
		"it wants to see whole nodes":                 {service: &service{hates: "a", whole: true}, settings: verbs, want: "b"},
		"it is not asked about resources of others":   {service: &service{hates: "a"}, settings: verbs + "  nodeCacheCapable: true\n  managedResources: [{name: example.com/gpu}]\n", want: "a"},
		"it is out of order":                          {service: &service{fails: true}, settings: verbs, why: "answers 503"},
		"it is out of order and does not matter much": {service: &service{fails: true}, settings: verbs + "  ignorable: true\n", want: "a"},
		"it refuses the only node there is": {service: &service{hates: "a"}, settings: verbs + "  nodeCacheCapable: true\n",
			pod: func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: "a"} },
			why: "0/2 nodes are available: 1 bad karma, 1 node(s) didn't match Pod's node affinity/selector."},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			by := extended(t, tc.service, tc.settings)
			snap := world([]*corev1.Node{with("a", "8"), with("b", "4")}, nil)
			p := like("p", "1")
			if tc.pod != nil {
				tc.pod(p)
			}
			d := decide(context.Background(), snapshot.NewPod(p), snap, by, 0, func(int) int { return 0 })
			said := d.explain()
			if d.err != nil {
				said = d.err.Error()
			}
			if d.node != tc.want || tc.want == "" && !strings.Contains(said, tc.why) {
				t.Errorf("decide() = %q (%s), want %q (%s)", d.node, said, tc.want, tc.why)
			}
		})
	}
}

func TestExtenderChoosesWhoseRoomIsTaken(t *testing.T) {
	by := extended(t, &service{hates: "a"}, "  preemptVerb: preempt\n  nodeCacheCapable: true\n")
	pod := snapshot.NewPod(like("p", "4", priority(10)))
	snap := world([]*corev1.Node{with("a", "4"), with("b", "4")}, []*corev1.Pod{like("q", "1", placed("a")), like("r", "3", placed("b"), priority(5))})
	d := decide(context.Background(), pod, snap, by, 0, nil)
	open, against := clearable(pod, snap, &d, 0)
	found, err := by.agreed(context.Background(), pod, clearings(trying(pod, snap, ready(pod, snap), nil), open, against, by.candidates))
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || found[0].node != "b" || len(found[0].victims) != 1 {
		t.Errorf("agreed() = %+v, want r to leave b", found)
	}
}

func TestExtenderBinds(t *testing.T) {
	s := &service{}
	by := extended(t, s, "  bindVerb: bind\n")
	e := by.concerned(like("p", "1"), func(e *extender) string { return e.BindVerb })
	if len(e) != 1 {
		t.Fatalf("%d extenders bind, want 1", len(e))
	}
	if err := e[0].bind(context.Background(), like("p", "1"), "a"); err != nil {
		t.Fatal(err)
	}
	if want := []string{"bind", "shop/p to a"}; !slices.Equal(s.asked, want) {
		t.Errorf("asked %v, want %v", s.asked, want)
	}
}
