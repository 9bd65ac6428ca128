package scheduler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// TestCountsTakeInWhatMoved changes a cluster step by step and asks after each what rules say about every node, for
// pods of few kinds, so that counts are brought up to date; a picture made anew must say the same.
func TestCountsTakeInWhatMoved(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	refused := 0
	for round := range 40 {
		nodes, pods := randomWorld(random)
		snap, by := world(nodes, pods), ordinary()
		type waiter struct {
			pod  *snapshot.Pod
			node string
		}
		var waiting []waiter // for room
		var kinds []*corev1.Pod
		for i := range 3 {
			kind := randomPod(random, fmt.Sprint("new", i))
			if random.IntN(2) == 0 {
				spread(kind.Labels["app"], corev1.LabelTopologyZone, corev1.ScheduleAnyway, nil)(kind)
			}
			kinds = append(kinds, kind)
		}
		for step := range 60 {
			switch n := random.IntN(10); {
			case n < 5 || len(pods) == 0:
				p := randomPod(random, fmt.Sprintf("s%d", step))
				p.Spec.NodeName = nodes[random.IntN(len(nodes))].Name
				pods = append(pods, p)
				if n < 3 {
					snap.Assume(snapshot.NewPod(p), p.Spec.NodeName)
				}
				snap.SetPod(p)
			case n < 8:
				i := random.IntN(len(pods))
				snap.RemovePod(pods[i])
				pods = append(pods[:i:i], pods[i+1:]...)
			case n < 9:
				i := random.IntN(len(pods))
				pods[i] = pods[i].DeepCopy()
				pods[i].Labels = map[string]string{"app": []string{"web", "db"}[random.IntN(2)]}
				snap.SetPod(pods[i])
			default:
				i := random.IntN(len(nodes))
				nodes[i] = nodes[i].DeepCopy()
				switch random.IntN(3) {
				case 0:
					nodes[i].Labels[corev1.LabelTopologyZone] = fmt.Sprint(random.IntN(3))
				case 1:
					nodes[i].Spec.Unschedulable = !nodes[i].Spec.Unschedulable
				default:
					snap.RemoveNode(nodes[i].Name)
				}
				snap.SetNode(nodes[i])
			}
			if random.IntN(4) == 0 {
				w := waiter{snapshot.NewPod(randomPod(random, fmt.Sprintf("w%d", step))), nodes[random.IntN(len(nodes))].Name}
				w.pod.Priority = random.Int32N(3) - 1
				snap.Nominate(w.pod, w.node)
				waiting = append(waiting, w)
			}
			waiting = slices.DeleteFunc(waiting, func(w waiter) bool {
				goes := random.IntN(6) == 0
				if goes {
					snap.Denominate(w.pod.Object.UID)
				}
				return goes
			})
			anew := world(nodes, pods)
			for _, w := range waiting {
				anew.Nominate(w.pod, w.node)
			}
			pod := kinds[random.IntN(len(kinds))]
			got, want := outlook(pod, snap, by), outlook(pod, anew, ordinary())
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("round %d, step %d: the rules say (-made anew +kept current):\n%s", round, step, diff)
			}
			for _, says := range got {
				if says[0] != '0' {
					refused++
				}
			}
		}
	}
	if refused < 100 {
		t.Errorf("only %d refusals: too few to show anything", refused)
	}
}

// outlook is what the rules of a profile say about each node: a refusal, or the score.
func outlook(pod *corev1.Pod, snap *snapshot.Snapshot, by *profile) map[string]string {
	p, says := snapshot.NewPod(pod), map[string]string{}
	rules, _ := by.rulesFor(p, snap)
	for _, n := range snap.Nodes() {
		if r, _ := rules.judge(p, n, snap); r.Refusal != nil {
			says[n.Name] = r.plugin
		}
	}
	for i, total := range by.score(p, snap, rules, snap.Nodes()) {
		if n := snap.Nodes()[i]; says[n.Name] == "" {
			says[n.Name] = fmt.Sprint("0 ", total)
		}
	}
	return says
}
