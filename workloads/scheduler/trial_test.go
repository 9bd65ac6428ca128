package scheduler

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// randomPod asks for anything the rules know, of few enough values that rules meet each other.
func randomPod(random *rand.Rand, name string) *corev1.Pod {
	apps, zone := []string{"web", "db"}, corev1.LabelTopologyZone
	app := func() string { return apps[random.IntN(len(apps))] }
	p := like(name, fmt.Sprintf("%dm", 500*random.IntN(4)), labeled(app()), priority(random.Int32N(4)), ran(random.IntN(5)))
	switch random.IntN(6) {
	case 0:
		awayFrom(app(), zone)(p)
	case 1:
		awayFrom(app(), corev1.LabelHostname)(p)
	case 2:
		near(app(), zone)(p)
	case 3:
		spread(p.Labels["app"], zone, corev1.DoNotSchedule, nil)(p)
	case 4:
		hostPort(80, "")(p)
	}
	return p
}

// randomWorld is some nodes in some zones, and pods on them that were not asked whether they fit.
func randomWorld(random *rand.Rand) (nodes []*corev1.Node, pods []*corev1.Pod) {
	for i := range 2 + random.IntN(4) {
		nodes = append(nodes, with(fmt.Sprintf("n%d", i), "4", labelNode(corev1.LabelTopologyZone, fmt.Sprint(random.IntN(3)))))
	}
	for i := range random.IntN(16) {
		p := randomPod(random, fmt.Sprintf("p%d", i))
		p.Spec.NodeName = nodes[random.IntN(len(nodes))].Name
		pods = append(pods, p)
	}
	return nodes, pods
}

// TestATrialIsJudgedAsTheClusterItAsksAbout compares what rules say about a node some pods left and others joined in a
// trial with what they say when the cluster is really so.
func TestATrialIsJudgedAsTheClusterItAsksAbout(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	refused := 0
	for round := range 1000 {
		nodes, pods := randomWorld(random)
		pod := snapshot.NewPod(randomPod(random, "new"))
		before := world(nodes, pods)
		trial := before.Nodes()[random.IntN(len(nodes))].Trial()
		var after []*corev1.Pod
		for _, p := range pods {
			if p.Spec.NodeName == trial.Name && random.IntN(2) == 0 {
				trial.Leave(trial.Pods[p.UID])
			} else {
				after = append(after, p)
			}
		}
		if random.IntN(2) == 0 {
			joins := randomPod(random, "joins")
			joins.Spec.NodeName = trial.Name
			before.Nominate(snapshot.NewPod(joins), trial.Name) // only those who wait for room join trials
			trial.Join(snapshot.NewPod(joins))
			after = append(after, joins)
		}
		really := world(nodes, after)
		got, fits := ask(trial, ready(pod, before))
		want, would := ask(really.Node(trial.Name), ready(pod, really))
		if fits != would || got.plugin != want.plugin {
			t.Fatalf("round %d: the trial says %v %v, the cluster would say %v %v", round, fits, got, would, want)
		}
		if !fits {
			refused++
		}
	}
	if refused < 100 || refused > 900 {
		t.Errorf("%d of 1000 refused: too one-sided to show anything", refused)
	}
}

// TestPreemptTakesNoMoreThanNeeded checks every choice: the pod fits once the victims are gone, all of them matter
// less, and none of them could have stayed alone.
func TestPreemptTakesNoMoreThanNeeded(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	choices := 0
	for round := range 1000 {
		nodes, pods := randomWorld(random)
		pod := snapshot.NewPod(randomPod(random, "new"))
		snap := world(nodes, pods)
		d := decide(context.Background(), pod, snap, ordinary(), 0, func(int) int { return 0 })
		if d.node != "" {
			continue
		}
		open, against := clearable(pod, snap, &d, 0)
		room := leastHarm(clearings(trying(pod, snap, ready(pod, snap), nil), open, against, ordinary().candidates))
		if room == nil {
			continue
		}
		choices++
		gone := map[string]bool{}
		for _, v := range room.victims {
			if gone[v.Object.Name] = true; v.Priority >= pod.Priority {
				t.Fatalf("round %d: %s of priority %d leaves for %d", round, v.Object.Name, v.Priority, pod.Priority)
			}
		}
		fits := func(spared string) bool {
			var rest []*corev1.Pod
			for _, p := range pods {
				if !gone[p.Name] || p.Name == spared {
					rest = append(rest, p)
				}
			}
			after := world(nodes, rest)
			_, ok := ask(after.Node(room.node), ready(pod, after))
			return ok
		}
		if !fits("") {
			t.Fatalf("round %d: no room on %s even without %v", round, room.node, gone)
		}
		for name := range gone {
			if fits(name) {
				t.Fatalf("round %d: %s need not have left %s", round, name, room.node)
			}
		}
	}
	if choices < 50 {
		t.Errorf("only %d choices in 1000 rounds", choices)
	}
}
