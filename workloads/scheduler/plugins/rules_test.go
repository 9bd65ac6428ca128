package plugins

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	configv1 "k8s.io/kube-scheduler/config/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// rule is one with arguments.
func rule(t *testing.T, name string, args runtime.Object) Plugin {
	t.Helper()
	for _, r := range Rules() {
		if r.Name == name {
			p, err := r.New(args)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
	}
	t.Fatalf("there is no rule %s", name)
	return nil
}

func amountsOf(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{corev1.ResourcePods: resource.MustParse("10")}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func nodeWith(name string, pairs ...string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"zone": name, corev1.LabelHostname: name}}, Status: corev1.NodeStatus{Allocatable: amountsOf(pairs...)}}
}

func podAsking(name string, pairs ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "web"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{}}}}
	p.Spec.Containers[0].Resources.Requests = amountsOf(pairs...)
	delete(p.Spec.Containers[0].Resources.Requests, corev1.ResourcePods)
	return p
}

func placedOn(node string, p *corev1.Pod) *corev1.Pod {
	p.Spec.NodeName = node
	return p
}

func cluster(objects ...any) *snapshot.Snapshot {
	snap := snapshot.New()
	for _, o := range objects {
		switch o := o.(type) {
		case *corev1.Node:
			snap.SetNode(o)
		case *corev1.Pod:
			snap.SetPod(o)
		case *corev1.Service:
			snap.SetService(o)
		}
	}
	return snap
}

// rates are a rule's scores of all nodes, by name.
func rates(p Plugin, pod *corev1.Pod, snap *snapshot.Snapshot) map[string]int64 {
	scorer, scores := p.(Scorer), map[string]int64{}
	rate := scorer.Score(snapshot.NewPod(pod), snap, snap.Nodes())
	if rate == nil {
		return scores
	}
	rated := make([]int64, len(snap.Nodes()))
	for i, n := range snap.Nodes() {
		rated[i] = rate(n)
	}
	scorer.Normalize(rated)
	for i, n := range snap.Nodes() {
		scores[n.Name] = rated[i]
	}
	return scores
}

// refusals are what a rule says about all nodes, by name.
func refusals(p Plugin, pod *corev1.Pod, snap *snapshot.Snapshot) map[string]string {
	said := map[string]string{}
	filter, _ := p.(Filterer).Filter(snapshot.NewPod(pod), snap)
	if filter == nil {
		return said
	}
	for _, n := range snap.Nodes() {
		if r := filter(n); r != nil {
			said[n.Name] = strings.Join(r.Reasons, ", ")
		}
	}
	return said
}

func TestStrategies(t *testing.T) {
	// a is half full of CPU and empty of memory, b the other way round.
	snap := cluster(nodeWith("a", "cpu", "10", "memory", "10Gi", "gpu.example/x", "4"), nodeWith("b", "cpu", "10", "memory", "10Gi"),
		placedOn("a", podAsking("1", "cpu", "4", "memory", "1Gi", "gpu.example/x", "1")), placedOn("b", podAsking("2", "cpu", "1", "memory", "5Gi")))
	pod := podAsking("p", "cpu", "1", "memory", "1Gi")
	shape := func(points ...configv1.UtilizationShapePoint) *configv1.RequestedToCapacityRatioParam {
		return &configv1.RequestedToCapacityRatioParam{Shape: points}
	}
	fit := func(s configv1.ScoringStrategy) *configv1.NodeResourcesFitArgs {
		return &configv1.NodeResourcesFitArgs{ScoringStrategy: &s}
	}
	cpu := []configv1.ResourceSpec{{Name: "cpu", Weight: 1}}
	tests := map[string]struct {
		rule string
		args runtime.Object
		pod  *corev1.Pod
		want map[string]int64
	}{
		"what is left, of CPU and memory alike": {rule: "NodeResourcesFit", want: map[string]int64{"a": (50 + 80) / 2, "b": (80 + 40) / 2}},
		"what is left of CPU":                   {rule: "NodeResourcesFit", args: fit(configv1.ScoringStrategy{Resources: cpu}), want: map[string]int64{"a": 50, "b": 80}},
		"what is left, CPU three times as much": {
			rule: "NodeResourcesFit", args: fit(configv1.ScoringStrategy{Resources: []configv1.ResourceSpec{{Name: "cpu", Weight: 3}, {Name: "memory", Weight: 1}}}),
			want: map[string]int64{"a": (3*50 + 80) / 4, "b": (3*80 + 40) / 4},
		},
		"what is taken": {rule: "NodeResourcesFit", args: fit(configv1.ScoringStrategy{Type: configv1.MostAllocated}), want: map[string]int64{"a": (50 + 20) / 2, "b": (20 + 60) / 2}},
		"a device nobody asks for does not count": {
			rule: "NodeResourcesFit", args: fit(configv1.ScoringStrategy{Type: configv1.MostAllocated, Resources: []configv1.ResourceSpec{{Name: "cpu", Weight: 1}, {Name: "gpu.example/x", Weight: 1}}}),
			want: map[string]int64{"a": 50, "b": 20},
		},
		"a device that is asked for counts where there is one": {
			rule: "NodeResourcesFit", args: fit(configv1.ScoringStrategy{Type: configv1.MostAllocated, Resources: []configv1.ResourceSpec{{Name: "cpu", Weight: 1}, {Name: "gpu.example/x", Weight: 1}}}),
			pod: podAsking("p", "cpu", "1", "gpu.example/x", "1"), want: map[string]int64{"a": (50 + 50) / 2, "b": 20},
		},
		"a line from empty to full": {
			rule: "NodeResourcesFit", args: fit(configv1.ScoringStrategy{Type: configv1.RequestedToCapacityRatio, Resources: cpu, RequestedToCapacityRatio: shape(
				configv1.UtilizationShapePoint{Utilization: 0, Score: 0}, configv1.UtilizationShapePoint{Utilization: 100, Score: 10})}),
			want: map[string]int64{"a": 50, "b": 20},
		},
		"a line that peaks at half": {
			rule: "NodeResourcesFit", args: fit(configv1.ScoringStrategy{Type: configv1.RequestedToCapacityRatio, Resources: cpu, RequestedToCapacityRatio: shape(
				configv1.UtilizationShapePoint{Utilization: 10, Score: 0}, configv1.UtilizationShapePoint{Utilization: 50, Score: 10}, configv1.UtilizationShapePoint{Utilization: 90, Score: 0})}),
			want: map[string]int64{"a": 100, "b": 25},
		},
		"balance of CPU and memory":   {rule: "NodeResourcesBalancedAllocation", want: map[string]int64{"a": 85, "b": 80}},
		"balance of one is no matter": {rule: "NodeResourcesBalancedAllocation", args: &configv1.NodeResourcesBalancedAllocationArgs{Resources: cpu}, want: map[string]int64{"a": 100, "b": 100}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			asking := pod
			if tc.pod != nil {
				asking = tc.pod
			}
			if diff := cmp.Diff(tc.want, rates(rule(t, tc.rule, tc.args), asking, snap)); diff != "" {
				t.Errorf("scores (-want +got):\n%s", diff)
			}
		})
	}
}

func TestArguments(t *testing.T) {
	inZone := func(zone string) []corev1.NodeSelectorRequirement {
		return []corev1.NodeSelectorRequirement{{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{zone}}}
	}
	web := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"}}}
	snap := cluster(nodeWith("a", "cpu", "4"), nodeWith("b", "cpu", "4"), placedOn("a", podAsking("1")), web)
	t.Run("an affinity for all pods keeps nodes out", func(t *testing.T) {
		p := rule(t, "NodeAffinity", &configv1.NodeAffinityArgs{AddedAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: inZone("a")}}},
		}})
		want := map[string]string{"b": "node(s) didn't match scheduler-enforced node affinity"}
		if diff := cmp.Diff(want, refusals(p, podAsking("p"), snap)); diff != "" {
			t.Errorf("refusals (-want +got):\n%s", diff)
		}
	})
	t.Run("an affinity for all pods adds to a pod's wishes", func(t *testing.T) {
		p := rule(t, "NodeAffinity", &configv1.NodeAffinityArgs{AddedAffinity: &corev1.NodeAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 1, Preference: corev1.NodeSelectorTerm{MatchExpressions: inZone("a")}}},
		}})
		pod := podAsking("p")
		pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 2, Preference: corev1.NodeSelectorTerm{MatchExpressions: inZone("b")}}},
		}}
		if diff := cmp.Diff(map[string]int64{"a": 50, "b": 100}, rates(p, pod, snap)); diff != "" {
			t.Errorf("scores (-want +got):\n%s", diff)
		}
	})
	t.Run("a device others look after is not counted", func(t *testing.T) {
		for _, args := range []*configv1.NodeResourcesFitArgs{{IgnoredResources: []string{"gpu.example/x"}}, {IgnoredResourceGroups: []string{"gpu.example"}}} {
			if got := refusals(rule(t, "NodeResourcesFit", args), podAsking("p", "gpu.example/x", "1"), snap); len(got) > 0 {
				t.Errorf("with %v refused by %v", args, got)
			}
		}
	})
	t.Run("constraints for pods that name none", func(t *testing.T) {
		p := rule(t, "PodTopologySpread", &configv1.PodTopologySpreadArgs{DefaultingType: configv1.ListDefaulting, DefaultConstraints: []corev1.TopologySpreadConstraint{
			{MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.DoNotSchedule},
		}})
		want := map[string]string{"a": "node(s) didn't match pod topology spread constraints"}
		if diff := cmp.Diff(want, refusals(p, podAsking("p"), snap)); diff != "" {
			t.Errorf("refusals (-want +got):\n%s", diff)
		}
	})
	t.Run("an empty list of constraints is none", func(t *testing.T) {
		p := rule(t, "PodTopologySpread", &configv1.PodTopologySpreadArgs{DefaultingType: configv1.ListDefaulting})
		if got := rates(p, podAsking("p"), snap); len(got) > 0 {
			t.Errorf("scores are %v, want none", got)
		}
	})
	t.Run("how much pods are welcome", func(t *testing.T) {
		host := podAsking("host")
		host.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
			{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}, TopologyKey: "zone"},
		}}}
		snap := cluster(nodeWith("a"), nodeWith("b"), placedOn("a", host))
		for weight, want := range map[int32]map[string]int64{0: {}, 5: {"a": 100, "b": 0}} {
			if diff := cmp.Diff(want, rates(rule(t, "InterPodAffinity", &configv1.InterPodAffinityArgs{HardPodAffinityWeight: &weight}), podAsking("p"), snap)); diff != "" {
				t.Errorf("scores with weight %d (-want +got):\n%s", weight, diff)
			}
		}
	})
}

func TestArgumentsThatAreRefused(t *testing.T) {
	tests := map[string]struct {
		rule string
		args runtime.Object
		want string
	}{
		"a rule without arguments":     {"NodePorts", &configv1.NodeAffinityArgs{}, "takes no arguments"},
		"arguments of another rule":    {"NodeAffinity", &configv1.VolumeBindingArgs{}, "takes *v1.NodeAffinityArgs"},
		"an unknown strategy":          {"NodeResourcesFit", &configv1.NodeResourcesFitArgs{ScoringStrategy: &configv1.ScoringStrategy{Type: "Best"}}, `scoringStrategy.type: "Best"`},
		"a shape that is missing":      {"NodeResourcesFit", &configv1.NodeResourcesFitArgs{ScoringStrategy: &configv1.ScoringStrategy{Type: configv1.RequestedToCapacityRatio}}, "needs a shape"},
		"a shape that goes back":       {"NodeResourcesFit", &configv1.NodeResourcesFitArgs{ScoringStrategy: &configv1.ScoringStrategy{Type: configv1.RequestedToCapacityRatio, RequestedToCapacityRatio: &configv1.RequestedToCapacityRatioParam{Shape: []configv1.UtilizationShapePoint{{Utilization: 5}, {Utilization: 5}}}}}, "shape[1].utilization"},
		"a weight out of range":        {"NodeResourcesFit", &configv1.NodeResourcesFitArgs{ScoringStrategy: &configv1.ScoringStrategy{Resources: []configv1.ResourceSpec{{Name: "cpu", Weight: 101}}}}, "scoringStrategy.resources[0].weight"},
		"a welcome out of range":       {"InterPodAffinity", &configv1.InterPodAffinityArgs{HardPodAffinityWeight: ptr.To[int32](101)}, "hardPodAffinityWeight"},
		"a default with a selector":    {"PodTopologySpread", &configv1.PodTopologySpreadArgs{DefaultingType: configv1.ListDefaulting, DefaultConstraints: []corev1.TopologySpreadConstraint{{LabelSelector: &metav1.LabelSelector{}}}}, "defaultConstraints[0].labelSelector"},
		"defaults beside the system's": {"PodTopologySpread", &configv1.PodTopologySpreadArgs{DefaultingType: configv1.SystemDefaulting, DefaultConstraints: []corev1.TopologySpreadConstraint{{}}}, "defaultingType List"},
		"a time that is negative":      {"VolumeBinding", &configv1.VolumeBindingArgs{BindTimeoutSeconds: ptr.To[int64](-1)}, "bindTimeoutSeconds"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			for _, r := range Rules() {
				if r.Name != tc.rule {
					continue
				}
				if _, err := r.New(tc.args); err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("New() = %v, want %q in it", err, tc.want)
				}
			}
		})
	}
}
