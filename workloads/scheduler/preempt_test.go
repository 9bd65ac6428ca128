package scheduler

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

func priority(of int32) podChange { return func(p *corev1.Pod) { p.Spec.Priority = ptr.To(of) } }

// ran says for how many minutes a pod has run.
func ran(minutes int) podChange {
	return func(p *corev1.Pod) {
		since := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).Add(-time.Duration(minutes) * time.Minute))
		p.Status.StartTime = &since
	}
}

func never(p *corev1.Pod) { p.Spec.PreemptionPolicy = ptr.To(corev1.PreemptNever) }

func nominatedFor(node string) podChange {
	return func(p *corev1.Pod) { p.Status.NominatedNodeName = node }
}

func terminating(p *corev1.Pod) {
	p.DeletionTimestamp = &metav1.Time{}
	p.Status.Conditions = []corev1.PodCondition{{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
	}}
}

// allows is a budget for the pods of an app.
func allows(disruptions int32, app string) *policyv1.PodDisruptionBudget {
	return &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: app},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}},
		Status:     policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: disruptions},
	}
}

// world is a snapshot of nodes with the pods on them; pods without a node are expected where they are nominated.
func world(nodes []*corev1.Node, pods []*corev1.Pod) *snapshot.Snapshot {
	snap := snapshot.New()
	for _, n := range nodes {
		snap.SetNode(n)
	}
	for _, p := range pods {
		if p.Spec.NodeName == "" {
			snap.Nominate(snapshot.NewPod(p), p.Status.NominatedNodeName)
		} else {
			snap.SetPod(p)
		}
	}
	return snap
}

func TestPreempt(t *testing.T) {
	zone := corev1.LabelTopologyZone
	one := func(changes ...nodeChange) []*corev1.Node { return []*corev1.Node{with("a", "2", changes...)} }
	two := []*corev1.Node{with("a", "2"), with("b", "2")}
	tests := map[string]struct {
		nodes   []*corev1.Node
		there   []*corev1.Pod
		budgets []*policyv1.PodDisruptionBudget
		pod     *corev1.Pod
		want    string // node
		victims string
		why     string // when no node
	}{
		"a less important pod leaves": {
			nodes: one(), there: []*corev1.Pod{like("low", "2", placed("a"))}, pod: like("p", "1", priority(10)),
			want: "a", victims: "low",
		},
		"equals stay": {
			nodes: one(), there: []*corev1.Pod{like("equal", "2", placed("a"), priority(10))}, pod: like("p", "1", priority(10)),
			why: "0/1 nodes are available: 1 No preemption victims found for incoming pod.",
		},
		"nobody leaves a node that would not do anyhow": {
			nodes: one(labelNode("disk", "slow")), there: []*corev1.Pod{like("low", "2", placed("a"))},
			pod: like("p", "1", priority(10), func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "fast"} }),
			why: "0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
		},
		"nobody leaves a node that is too small": {
			nodes: one(), there: []*corev1.Pod{like("low", "2", placed("a"))}, pod: like("p", "3", priority(10)),
			why: "0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
		},
		"nobody leaves when that would not be enough": {
			nodes: one(), there: []*corev1.Pod{like("low", "1", placed("a")), like("equal", "1", placed("a"), priority(10))},
			pod: like("p", "2", priority(10)), why: "0/1 nodes are available: 1 Insufficient cpu.",
		},
		"each node has its reason": {
			nodes: []*corev1.Node{with("a", "2"), with("b", "2", taint("own", corev1.TaintEffectNoSchedule)), with("c", "1"), with("d", "2")},
			there: []*corev1.Pod{like("equal", "2", placed("a"), priority(10)), like("alike", "2", placed("d"), priority(10))},
			pod:   like("p", "2", priority(10)),
			why:   "0/4 nodes are available: 2 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling.",
		},
		"no more leave than must": {
			nodes: one(), there: []*corev1.Pod{like("x", "1", placed("a"), priority(1)), like("y", "1", placed("a"), priority(2))},
			pod: like("p", "1", priority(10)), want: "a", victims: "x",
		},
		"among equals those leave that started last": {
			nodes: one(), there: []*corev1.Pod{like("old", "1", placed("a"), ran(20)), like("young", "1", placed("a"), ran(10))},
			pod: like("p", "1", priority(10)), want: "a", victims: "young",
		},
		"one large pod stays where several small ones make room": {
			nodes: one(), there: []*corev1.Pod{like("x", "500m", placed("a")), like("y", "500m", placed("a")), like("z", "1", placed("a"), priority(5))},
			pod: like("p", "1", priority(10)), want: "a", victims: "x y",
		},
		"a port is freed": {
			nodes: one(), there: []*corev1.Pod{like("web", "0", placed("a"), hostPort(80, "")), like("other", "0", placed("a"), hostPort(81, ""))},
			pod: like("p", "1", priority(10), hostPort(80, "")), want: "a", victims: "web",
		},
		"one that keeps others away leaves": {
			nodes: one(), there: []*corev1.Pod{like("hermit", "0", placed("a"), awayFrom("p", corev1.LabelHostname)), like("other", "0", placed("a"))},
			pod: like("p", "1", priority(10)), want: "a", victims: "hermit",
		},
		"one that the pod avoids leaves": {
			nodes: one(), there: []*corev1.Pod{like("noisy", "0", placed("a")), like("other", "0", placed("a"))},
			pod: like("p", "1", priority(10), awayFrom("noisy", corev1.LabelHostname)), want: "a", victims: "noisy",
		},
		"one avoided in the whole zone cannot be sent away from another node": {
			nodes: []*corev1.Node{with("a", "2", labelNode(zone, "1")), with("b", "2", labelNode(zone, "1"))},
			there: []*corev1.Pod{like("noisy1", "0", placed("a"), labeled("noisy")), like("noisy2", "0", placed("b"), labeled("noisy"))},
			pod:   like("p", "1", priority(10), awayFrom("noisy", zone)),
			why:   "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.",
		},
		"the friend a pod came for stays": {
			nodes: one(labelNode(zone, "1")), there: []*corev1.Pod{like("db", "1", placed("a")), like("x", "1", placed("a"), priority(1))},
			pod: like("p", "1", priority(10), near("db", zone)), why: "0/1 nodes are available: 1 node(s) didn't match pod affinity rules.",
		},
		"a group is evened out": {
			nodes: []*corev1.Node{with("a", "2", labelNode(zone, "1")), with("b", "2", labelNode(zone, "2"))},
			there: []*corev1.Pod{
				like("web1", "1", placed("a"), labeled("web")), like("web2", "1", placed("a"), labeled("web"), ran(5)),
				like("big", "2", placed("b"), priority(10)),
			},
			pod:  like("p", "1", priority(10), labeled("web"), spread("web", zone, corev1.DoNotSchedule, nil)),
			want: "a", victims: "web1 web2",
		},
		"a budget moves the choice to another node": {
			nodes: two, there: []*corev1.Pod{like("db", "2", placed("a")), like("x", "2", placed("b"), priority(5))},
			budgets: []*policyv1.PodDisruptionBudget{allows(0, "db")}, pod: like("p", "1", priority(10)), want: "b", victims: "x",
		},
		"a budget does not save the last resort": {
			nodes: one(), there: []*corev1.Pod{like("db", "2", placed("a"))},
			budgets: []*policyv1.PodDisruptionBudget{allows(0, "db")}, pod: like("p", "1", priority(10)), want: "a", victims: "db",
		},
		"on one node a budget saves the less important": {
			nodes: one(), there: []*corev1.Pod{like("db", "1", placed("a")), like("x", "1", placed("a"), priority(5))},
			budgets: []*policyv1.PodDisruptionBudget{allows(0, "db")}, pod: like("p", "1", priority(10)), want: "a", victims: "x",
		},
		"what a budget allows is no harm": {
			nodes: two, there: []*corev1.Pod{like("db", "2", placed("a")), like("x", "2", placed("b"), priority(5))},
			budgets: []*policyv1.PodDisruptionBudget{allows(1, "db")}, pod: like("p", "1", priority(10)), want: "a", victims: "db",
		},
		"a disruption is allowed once": {
			nodes: two, there: []*corev1.Pod{
				like("db1", "1", placed("a"), labeled("db")), like("db2", "1", placed("a"), labeled("db")), like("x", "2", placed("b"), priority(5)),
			},
			budgets: []*policyv1.PodDisruptionBudget{allows(1, "db")}, pod: like("p", "2", priority(10)), want: "b", victims: "x",
		},
		"a pod the budget has counted as disrupted is free": {
			nodes: two, there: []*corev1.Pod{like("db", "2", placed("a")), like("x", "2", placed("b"), priority(5))},
			budgets: []*policyv1.PodDisruptionBudget{func() *policyv1.PodDisruptionBudget {
				b := allows(0, "db")
				b.Status.DisruptedPods = map[string]metav1.Time{"db": {}}
				return b
			}()}, pod: like("p", "1", priority(10)), want: "a", victims: "db",
		},
		"another namespace's budget says nothing": {
			nodes: two, there: []*corev1.Pod{like("db", "2", placed("a")), like("x", "2", placed("b"), priority(5))},
			budgets: []*policyv1.PodDisruptionBudget{func() *policyv1.PodDisruptionBudget {
				b := allows(0, "db")
				b.Namespace = "else"
				return b
			}()}, pod: like("p", "1", priority(10)), want: "a", victims: "db",
		},
		"the least important worst victim": {
			nodes: two, there: []*corev1.Pod{like("x", "2", placed("a"), priority(5)), like("y", "1", placed("b"), priority(4)), like("z", "1", placed("b"), priority(4))},
			pod: like("p", "2", priority(10)), want: "b", victims: "y z",
		},
		"the smallest sum": {
			nodes: two, there: []*corev1.Pod{
				like("w", "1", placed("a"), priority(5)), like("x", "1", placed("a"), priority(4)),
				like("y", "1", placed("b"), priority(5)), like("z", "1", placed("b"), priority(3)),
			},
			pod: like("p", "2", priority(10)), want: "b", victims: "y z",
		},
		"fewer victims, also of negative priority": {
			nodes: two, there: []*corev1.Pod{
				like("w", "1", placed("a"), priority(-5)), like("x", "1", placed("a"), priority(-5)), like("y", "2", placed("b"), priority(-5)),
			},
			pod: like("p", "2", priority(10)), want: "b", victims: "y",
		},
		"the one that started last": {
			nodes: two, there: []*corev1.Pod{like("old", "2", placed("a"), ran(20)), like("young", "2", placed("b"), ran(10))},
			pod: like("p", "2", priority(10)), want: "b", victims: "young",
		},
		"room another waits for is not given twice": {
			nodes: one(), there: []*corev1.Pod{like("low", "2", placed("a")), like("waits", "1", nominatedFor("a"), priority(10))},
			pod: like("p", "2", priority(10)), why: "0/1 nodes are available: 1 Insufficient cpu.",
		},
		"one less important that waits is passed": {
			nodes: one(), there: []*corev1.Pod{like("low", "2", placed("a")), like("waits", "1", nominatedFor("a"), priority(5))},
			pod: like("p", "2", priority(10)), want: "a", victims: "low",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			snap := world(tc.nodes, tc.there)
			var budgets []budget
			for _, b := range tc.budgets {
				budgets = append(budgets, newBudget(b))
			}
			pod := snapshot.NewPod(tc.pod)
			for start := range len(tc.nodes) {
				d := decide(context.Background(), pod, snap, ordinary(), start, func(int) int { return 0 })
				if d.node != "" {
					t.Fatalf("%s has room already", d.node)
				}
				open, against := clearable(pod, snap, &d, start)
				got := leastHarm(clearings(trying(pod, snap, ready(pod, snap), budgets), open, against, ordinary().candidates))
				if got == nil {
					if why := tally(d.total, against); tc.want != "" || why != tc.why {
						t.Fatalf("preempt() found no node: %s\nwant %q %s", why, tc.want, tc.why)
					}
					continue
				}
				var victims []string
				for _, v := range got.victims {
					victims = append(victims, v.Object.Name)
				}
				slices.Sort(victims)
				if diff := cmp.Diff([]string{tc.want, tc.victims}, []string{got.node, strings.Join(victims, " ")}); diff != "" {
					t.Errorf("preempt() (-want +got):\n%s", diff)
				}
			}
		})
	}
}

func TestMayPreempt(t *testing.T) {
	low := func(changes ...podChange) *corev1.Pod { return like("low", "2", append(changes, placed("a"))...) }
	tests := map[string]struct {
		there   *corev1.Pod
		changes []nodeChange
		pod     *corev1.Pod
		leaving bool
		why     string
	}{
		"an important pod may": {there: low(), pod: like("p", "1", priority(10))},
		"a polite one never": {
			there: low(), pod: like("p", "1", priority(10), never), why: "not eligible due to preemptionPolicy=Never.",
		},
		"one that waits for others to end has done enough": {
			there: low(terminating), pod: like("p", "1", priority(10), nominatedFor("a")),
			why: "not eligible due to a terminating pod on the nominated node.",
		},
		"so has one whose victims the cache does not show as ending yet": {
			there: low(), leaving: true, pod: like("p", "1", priority(10), nominatedFor("a")),
			why: "not eligible due to a terminating pod on the nominated node.",
		},
		"one whose room was taken by others may try again": {there: low(), pod: like("p", "1", priority(10), nominatedFor("a"))},
		"one whose node is no longer for it may look elsewhere": {
			there: low(terminating), changes: []nodeChange{cordon}, pod: like("p", "1", priority(10), nominatedFor("a")),
		},
		"one whose node is gone may look elsewhere": {there: low(terminating), pod: like("p", "1", priority(10), nominatedFor("b"))},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			snap := world([]*corev1.Node{with("a", "2", tc.changes...)}, []*corev1.Pod{tc.there})
			pod := snapshot.NewPod(tc.pod)
			if node := tc.pod.Status.NominatedNodeName; node != "" {
				snap.Nominate(pod, node)
			}
			s := &Scheduler{leaving: map[types.UID]bool{tc.there.UID: tc.leaving}}
			d := decide(context.Background(), pod, snap, ordinary(), 0, nil)
			if may, why := mayPreempt(pod, snap, &d, s.going); may != (tc.why == "") || why != tc.why {
				t.Errorf("mayPreempt() = %v, %q; want %q", may, why, tc.why)
			}
		})
	}
}

func TestDecideCountsThoseThatWaitForRoom(t *testing.T) {
	nodes := []*corev1.Node{with("a", "2"), with("b", "1")}
	tests := map[string]struct {
		waiting []*corev1.Pod
		pod     *corev1.Pod
		want    string
		why     string
	}{
		"a more important pod's room is kept": {
			waiting: []*corev1.Pod{like("waits", "1", nominatedFor("a"), priority(10))}, pod: like("p", "2"),
			why: "0/2 nodes are available: 2 Insufficient cpu.",
		},
		"beside it there may be room": {
			waiting: []*corev1.Pod{like("waits", "1", nominatedFor("b"), priority(10))}, pod: like("p", "2"), want: "a",
		},
		"a less important pod's room is not kept": {
			waiting: []*corev1.Pod{like("waits", "1", nominatedFor("a"))}, pod: like("p", "2", priority(10)), want: "a",
		},
		"one that waits goes where it waits": {
			waiting: []*corev1.Pod{like("p", "1", nominatedFor("b"))}, pod: like("p", "1", nominatedFor("b")), want: "b",
		},
		"one that waits elsewhere may not come, so nobody can rely on it": {
			waiting: []*corev1.Pod{like("db", "1", nominatedFor("a"), priority(10))}, pod: like("p", "1", near("db", corev1.LabelHostname)),
			why: "0/2 nodes are available: 2 node(s) didn't match pod affinity rules.",
		},
		"one that waits and keeps others away does so already": {
			waiting: []*corev1.Pod{like("hermit", "0", nominatedFor("a"), priority(10), awayFrom("p", corev1.LabelHostname))}, pod: like("p", "1"), want: "b",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := decide(context.Background(), snapshot.NewPod(tc.pod), world(nodes, tc.waiting), ordinary(), 0, func(int) int { return 0 })
			if d.node != tc.want {
				t.Fatalf("decide() = %q, want %q", d.node, tc.want)
			}
			if d.node == "" && d.explain() != tc.why {
				t.Errorf("decide() says %s\nwant %s", d.explain(), tc.why)
			}
		})
	}
}

func BenchmarkPreemptOn5000Nodes(b *testing.B) {
	snap := snapshot.New()
	for i := range 5000 {
		host := fmt.Sprintf("n%d", i)
		snap.SetNode(with(host, "4"))
		for j := range 4 {
			low := like(fmt.Sprintf("%s-%d", host, j), "1", placed(host), ran(i+j))
			snap.SetPod(low)
		}
	}
	pod := snapshot.NewPod(like("p", "2", priority(10)))
	b.ReportAllocs()
	for b.Loop() {
		d := decide(context.Background(), pod, snap, ordinary(), 0, nil)
		open, against := clearable(pod, snap, &d, 0)
		if got := leastHarm(clearings(trying(pod, snap, ready(pod, snap), nil), open, against, ordinary().candidates)); got == nil || len(got.victims) != 2 {
			b.Fatalf("preempt() = %v", got)
		}
	}
}
