package scheduler

import (
	"context"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/workloads/scheduler/plugins"
	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// ordinary is the profile nobody configured.
func ordinary() *profile { return ordinaryConfig().profiles[0] }

func ordinaryConfig() *Config {
	c, err := ParseConfig(nil)
	if err != nil {
		panic(err)
	}
	return c
}

func ready(pod *snapshot.Pod, snap *snapshot.Snapshot) []prepared {
	filters, refused := prepare(pod, snap, ordinary().filters)
	if refused != nil {
		return []prepared{{refused.plugin, func(*snapshot.Node) *plugins.Refusal { return refused.Refusal }}}
	}
	return filters
}

type nodeChange func(*corev1.Node)
type podChange func(*corev1.Pod)

func labelNode(pairs ...string) nodeChange {
	return func(n *corev1.Node) {
		for i := 0; i < len(pairs); i += 2 {
			n.Labels[pairs[i]] = pairs[i+1]
		}
	}
}

func taint(key string, effect corev1.TaintEffect) nodeChange {
	return func(n *corev1.Node) { n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect}) }
}

func cordon(n *corev1.Node) { n.Spec.Unschedulable = true }

func offers(name corev1.ResourceName, amount string) nodeChange {
	return func(n *corev1.Node) { n.Status.Allocatable[name] = resource.MustParse(amount) }
}

func with(name string, cpu string, changes ...nodeChange) *corev1.Node {
	n := node(name, cpu)
	for _, c := range changes {
		c(n)
	}
	return n
}

func like(name, cpu string, changes ...podChange) *corev1.Pod {
	p := pod(name, cpu)
	for _, c := range changes {
		c(p)
	}
	return p
}

func placed(node string) podChange { return func(p *corev1.Pod) { p.Spec.NodeName = node } }

func labeled(app string) podChange {
	return func(p *corev1.Pod) { p.Labels = map[string]string{"app": app} }
}

func tolerating(key string) podChange {
	return func(p *corev1.Pod) {
		p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists})
	}
}

func hostPort(port int32, ip string) podChange {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: port, HostIP: ip, Protocol: corev1.ProtocolTCP}}
	}
}

func term(app, key string) corev1.PodAffinityTerm {
	return corev1.PodAffinityTerm{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}, TopologyKey: key}
}

func near(app, key string) podChange {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term(app, key)}}}
	}
}

func awayFrom(app, key string) podChange {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term(app, key)}}}
	}
}

func spread(app, key string, when corev1.UnsatisfiableConstraintAction, minDomains *int32) podChange {
	return func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: key, WhenUnsatisfiable: when, MinDomains: minDomains,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}},
		}}
	}
}

func prefersNode(key, value string) podChange {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
			Weight: 10, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: key, Operator: corev1.NodeSelectorOpIn, Values: []string{value}}}},
		}}}}
	}
}

func ownedBy(kind, name string) podChange {
	return func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: name, UID: types.UID(name), Controller: ptr.To(true)}}
	}
}

func serviceFor(app string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: app}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": app}}}
}

func TestDecide(t *testing.T) {
	zone := corev1.LabelTopologyZone
	tests := map[string]struct {
		nodes   []*corev1.Node
		there   []*corev1.Pod
		service *corev1.Service
		pod     *corev1.Pod
		want    string // node
		why     string // when none
	}{
		"no nodes": {pod: like("p", "1"), why: "no nodes available to schedule pods"},
		"a node with room": {
			nodes: []*corev1.Node{with("a", "1"), with("b", "4")}, pod: like("p", "2"), want: "b",
		},
		"every reason is counted": {
			nodes: []*corev1.Node{with("a", "1"), with("b", "4", taint("own", corev1.TaintEffectNoSchedule)), with("c", "4", taint("own", corev1.TaintEffectNoExecute))},
			pod:   like("p", "2"), why: "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s).",
		},
		"what is there counts": {
			nodes: []*corev1.Node{with("a", "2")}, there: []*corev1.Pod{like("q", "1500m", placed("a"))},
			pod: like("p", "1"), why: "0/1 nodes are available: 1 Insufficient cpu.",
		},
		"too little of several things": {
			nodes: []*corev1.Node{with("a", "1", offers(corev1.ResourcePods, "1"))}, there: []*corev1.Pod{like("q", "0", placed("a"))},
			pod: like("p", "2"), why: "0/1 nodes are available: 1 Insufficient cpu, 1 Too many pods.",
		},
		"a device the node does not have": {
			nodes: []*corev1.Node{with("a", "4"), with("b", "4", offers("vendor.example/gpu", "1"))},
			pod: like("p", "1", func(p *corev1.Pod) {
				p.Spec.Containers[0].Resources.Requests["vendor.example/gpu"] = resource.MustParse("1")
			}), want: "b",
		},
		"the largest init container counts": {
			nodes: []*corev1.Node{with("a", "2")},
			pod: like("p", "1", func(p *corev1.Pod) {
				p.Spec.InitContainers = []corev1.Container{{Name: "i", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("3")}}}}
			}), why: "0/1 nodes are available: 1 Insufficient cpu.",
		},
		"a sidecar counts on top": {
			nodes: []*corev1.Node{with("a", "2")},
			pod: like("p", "1500m", func(p *corev1.Pod) {
				p.Spec.InitContainers = []corev1.Container{{
					Name: "s", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways),
					Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}},
				}}
			}), why: "0/1 nodes are available: 1 Insufficient cpu.",
		},
		"overhead counts": {
			nodes: []*corev1.Node{with("a", "2")},
			pod: like("p", "1500m", func(p *corev1.Pod) {
				p.Spec.Overhead = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("600m")}
			}),
			why: "0/1 nodes are available: 1 Insufficient cpu.",
		},
		"a cordoned node": {
			nodes: []*corev1.Node{with("a", "4", cordon)}, pod: like("p", "1"), why: "0/1 nodes are available: 1 node(s) were unschedulable.",
		},
		"a cordoned node and a pod that tolerates it": {
			nodes: []*corev1.Node{with("a", "4", cordon)}, pod: like("p", "1", tolerating(corev1.TaintNodeUnschedulable)), want: "a",
		},
		"a tolerated taint": {
			nodes: []*corev1.Node{with("a", "4", taint("own", corev1.TaintEffectNoSchedule))}, pod: like("p", "1", tolerating("own")), want: "a",
		},
		"a soft taint is avoided": {
			nodes: []*corev1.Node{with("a", "4", taint("own", corev1.TaintEffectPreferNoSchedule)), with("b", "4")}, pod: like("p", "1"), want: "b",
		},
		"a soft taint does not keep anyone out": {
			nodes: []*corev1.Node{with("a", "4", taint("own", corev1.TaintEffectPreferNoSchedule))}, pod: like("p", "1"), want: "a",
		},
		"a node selector": {
			nodes: []*corev1.Node{with("a", "4"), with("b", "4", labelNode("disk", "fast"))},
			pod:   like("p", "1", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "fast"} }), want: "b",
		},
		"a node selector nobody matches": {
			nodes: []*corev1.Node{with("a", "4")},
			pod:   like("p", "1", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "fast"} }),
			why:   "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.",
		},
		"a preferred label": {
			nodes: []*corev1.Node{with("a", "4"), with("b", "4", labelNode("disk", "fast"))}, pod: like("p", "1", prefersNode("disk", "fast")), want: "b",
		},
		"a host port that is taken": {
			nodes: []*corev1.Node{with("a", "4")}, there: []*corev1.Pod{like("q", "1", placed("a"), hostPort(80, ""))},
			pod: like("p", "1", hostPort(80, "10.0.0.1")), why: "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.",
		},
		"the same host port on another address": {
			nodes: []*corev1.Node{with("a", "4")}, there: []*corev1.Pod{like("q", "1", placed("a"), hostPort(80, "10.0.0.2"))},
			pod: like("p", "1", hostPort(80, "10.0.0.1")), want: "a",
		},
		"near its friend": {
			nodes: []*corev1.Node{with("a", "4", labelNode(zone, "1")), with("b", "4", labelNode(zone, "2"))},
			there: []*corev1.Pod{like("q", "1", placed("b"), labeled("db"))}, pod: like("p", "1", near("db", zone)), want: "b",
		},
		"near nobody": {
			nodes: []*corev1.Node{with("a", "4", labelNode(zone, "1"))}, pod: like("p", "1", near("db", zone)),
			why: "0/1 nodes are available: 1 node(s) didn't match pod affinity rules.",
		},
		"the first of a group that stands together": {
			nodes: []*corev1.Node{with("a", "4", labelNode(zone, "1"))}, pod: like("p", "1", labeled("db"), near("db", zone)), want: "a",
		},
		"near a friend in another namespace is not near": {
			nodes: []*corev1.Node{with("a", "4", labelNode(zone, "1"))},
			there: []*corev1.Pod{like("q", "1", placed("a"), labeled("db"), func(p *corev1.Pod) { p.Namespace = "else" })},
			pod:   like("p", "1", near("db", zone)), why: "0/1 nodes are available: 1 node(s) didn't match pod affinity rules.",
		},
		"away from its kind": {
			nodes: []*corev1.Node{with("a", "4"), with("b", "1")},
			there: []*corev1.Pod{like("q", "1", placed("a"), labeled("db"))}, pod: like("p", "1", labeled("db"), awayFrom("db", corev1.LabelHostname)), want: "b",
		},
		"away from everywhere": {
			nodes: []*corev1.Node{with("a", "4")}, there: []*corev1.Pod{like("q", "1", placed("a"), labeled("db"))},
			pod: like("p", "1", awayFrom("db", corev1.LabelHostname)), why: "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.",
		},
		"one that is there wants nobody like it": {
			nodes: []*corev1.Node{with("a", "4")}, there: []*corev1.Pod{like("q", "1", placed("a"), awayFrom("web", corev1.LabelHostname))},
			pod: like("p", "1", labeled("web")), why: "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.",
		},
		"spread over zones": {
			nodes: []*corev1.Node{with("a", "9", labelNode(zone, "1")), with("b", "1", labelNode(zone, "2"))},
			there: []*corev1.Pod{like("q", "1", placed("a"), labeled("web"))},
			pod:   like("p", "1", labeled("web"), spread("web", zone, corev1.DoNotSchedule, nil)), want: "b",
		},
		"spread over zones, one of them full": {
			nodes: []*corev1.Node{with("a", "9", labelNode(zone, "1")), with("b", "0", labelNode(zone, "2"))},
			there: []*corev1.Pod{like("q", "1", placed("a"), labeled("web"))},
			pod:   like("p", "1", labeled("web"), spread("web", zone, corev1.DoNotSchedule, nil)),
			why:   "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't match pod topology spread constraints.",
		},
		"spread over more zones than there are": {
			nodes: []*corev1.Node{with("a", "9", labelNode(zone, "1"))},
			there: []*corev1.Pod{like("q", "1", placed("a"), labeled("web"))},
			pod:   like("p", "1", labeled("web"), spread("web", zone, corev1.DoNotSchedule, ptr.To[int32](2))),
			why:   "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints.",
		},
		"a node outside the topology": {
			nodes: []*corev1.Node{with("a", "9")}, pod: like("p", "1", labeled("web"), spread("web", zone, corev1.DoNotSchedule, nil)),
			why: "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label).",
		},
		"spread as far as possible": {
			nodes: []*corev1.Node{with("a", "4", labelNode(zone, "1")), with("b", "4", labelNode(zone, "2"))},
			there: []*corev1.Pod{like("q", "0", placed("a"), labeled("web"))},
			pod:   like("p", "1", labeled("web"), spread("web", zone, corev1.ScheduleAnyway, nil)), want: "b",
		},
		"replicas stand apart": {
			nodes: []*corev1.Node{with("a", "4"), with("b", "4")},
			there: []*corev1.Pod{like("q", "0", placed("a"), ownedBy("ReplicaSet", "web")), like("r", "500m", placed("b"), ownedBy("ReplicaSet", "db"))},
			pod:   like("p", "1", ownedBy("ReplicaSet", "web")), want: "b",
		},
		"replicas stand in different zones first": {
			nodes: []*corev1.Node{with("a", "4", labelNode(zone, "1")), with("b", "4", labelNode(zone, "1")), with("c", "4", labelNode(zone, "2"))},
			there: []*corev1.Pod{like("q", "0", placed("a"), ownedBy("ReplicaSet", "web")), like("r", "500m", placed("c"), ownedBy("ReplicaSet", "db"))},
			pod:   like("p", "1", ownedBy("ReplicaSet", "web")), want: "c",
		},
		"a node without a zone is no worse for it": {
			nodes: []*corev1.Node{with("a", "4", labelNode(zone, "1")), with("b", "4")},
			there: []*corev1.Pod{like("q", "0", placed("a"), ownedBy("ReplicaSet", "web")), like("r", "500m", placed("b"), ownedBy("ReplicaSet", "db"))},
			pod:   like("p", "1", ownedBy("ReplicaSet", "web")), want: "b",
		},
		"what a service selects stands apart": {
			nodes: []*corev1.Node{with("a", "4"), with("b", "4")}, service: serviceFor("web"),
			there: []*corev1.Pod{like("q", "0", placed("a"), labeled("web")), like("r", "500m", placed("b"), labeled("db"))},
			pod:   like("p", "1", labeled("web")), want: "b",
		},
		"a job's pods need not stand apart": {
			nodes: []*corev1.Node{with("a", "4"), with("b", "4")},
			there: []*corev1.Pod{like("q", "0", placed("a"), ownedBy("Job", "sum")), like("r", "500m", placed("b"))},
			pod:   like("p", "1", ownedBy("Job", "sum")), want: "a",
		},
		"a node outside the topology is the last choice": {
			nodes: []*corev1.Node{with("a", "4", labelNode(zone, "1")), with("b", "8")},
			there: []*corev1.Pod{like("q", "2", placed("a"), labeled("web"))},
			pod:   like("p", "1", labeled("web"), spread("web", zone, corev1.ScheduleAnyway, nil)), want: "a",
		},
		"the emptier node": {
			nodes: []*corev1.Node{with("a", "4"), with("b", "4")}, there: []*corev1.Pod{like("q", "2", placed("a"))}, pod: like("p", "1"), want: "b",
		},
		"the node that has the image": {
			nodes: []*corev1.Node{with("a", "4"), with("b", "4", func(n *corev1.Node) {
				n.Status.Images = []corev1.ContainerImage{{Names: []string{"app:latest"}, SizeBytes: 900 << 20}}
			})}, pod: like("p", "1"), want: "b",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			snap := snapshot.New()
			for _, n := range tc.nodes {
				snap.SetNode(n)
			}
			for _, p := range tc.there {
				snap.SetPod(p)
			}
			if tc.service != nil {
				snap.SetService(tc.service)
			}
			for start := range max(len(tc.nodes), 1) { // wherever the walk begins
				d := decide(context.Background(), snapshot.NewPod(tc.pod), snap, ordinary(), start, func(n int) int { return n - 1 })
				if d.node != tc.want {
					t.Fatalf("decide() = %q (%s), want %q", d.node, d.explain(), tc.want)
				}
				if tc.want == "" && d.explain() != tc.why {
					t.Errorf("decide() says\n%s\nwant\n%s", d.explain(), tc.why)
				}
			}
		})
	}
}

func TestDecideLooksAtEnoughNodesAndStartsWhereTheLastOneEnded(t *testing.T) {
	snap := snapshot.New()
	for i := range 1000 {
		snap.SetNode(with(fmt.Sprintf("n%d", i), "4"))
	}
	start := 0
	used := map[string]bool{}
	for i := range 300 {
		p := snapshot.NewPod(like(fmt.Sprint(i), "1"))
		d := decide(context.Background(), p, snap, ordinary(), start, func(int) int { return 0 })
		if d.node == "" {
			t.Fatal(d.explain())
		}
		snap.Assume(p, d.node)
		used[d.node] = true
		start = (start + d.looked) % d.total
	}
	if len(used) < 290 {
		t.Errorf("300 pods on %d nodes, want them spread over all", len(used))
	}
}

func BenchmarkDecideOn5000Nodes(b *testing.B) {
	snap := snapshot.New()
	for i := range 5000 {
		snap.SetNode(with(fmt.Sprintf("n%d", i), "32"))
	}
	start := 0
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		p := like(fmt.Sprint(i), "10m")
		p.UID = types.UID(fmt.Sprint(i))
		entry := snapshot.NewPod(p)
		d := decide(context.Background(), entry, snap, ordinary(), start, func(int) int { return 0 })
		start = (start + d.looked) % d.total
		snap.Assume(entry, d.node)
	}
}

func TestRefusedByNamesTheRules(t *testing.T) {
	snap := snapshot.New()
	snap.SetNode(with("a", "1"))
	snap.SetNode(with("b", "4", cordon))
	d := decide(context.Background(), snapshot.NewPod(like("p", "2")), snap, ordinary(), 0, nil)
	var names []string
	for name := range d.refusedBy() {
		names = append(names, name)
	}
	slices.Sort(names)
	if fmt.Sprint(names) != "[NodeResourcesFit NodeUnschedulable]" {
		t.Errorf("refused by %v", names)
	}
}
