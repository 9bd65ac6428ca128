package scheduler

import (
	"fmt"
	"math/rand/v2"
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
		snap := world(nodes, pods)
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
				nodes[i].Labels[corev1.LabelTopologyZone] = fmt.Sprint(random.IntN(3))
				snap.SetNode(nodes[i])
			}
			pod := kinds[random.IntN(len(kinds))]
			got, want := outlook(pod, snap), outlook(pod, world(nodes, pods))
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

// outlook is what the rules say about each node: a refusal, or the score.
func outlook(pod *corev1.Pod, snap *snapshot.Snapshot) map[string]string {
	p, says := snapshot.NewPod(pod), map[string]string{}
	filters := ready(p, snap)
	totals := score(p, snap, ordinary().scorers, snap.Nodes())
	for i, n := range snap.Nodes() {
		says[n.Name] = fmt.Sprint("0 ", totals[i])
		if r, ok := judge(p, n, snap, filters); !ok {
			says[n.Name] = r.plugin
		}
	}
	return says
}
