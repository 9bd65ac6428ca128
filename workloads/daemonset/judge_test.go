package daemonset

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

type option func(*appsv1.DaemonSet)

func agent(options ...option) *appsv1.DaemonSet {
	labels := map[string]string{"app": "agent"}
	ds := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "agent", UID: "ds", Generation: 4},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}},
		},
	}
	rolling(intstr.FromInt32(1), intstr.FromInt32(0))(ds)
	for _, o := range options {
		o(ds)
	}
	return ds
}

func rolling(unavailable, surge intstr.IntOrString) option {
	return func(ds *appsv1.DaemonSet) {
		ds.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{
			Type: appsv1.RollingUpdateDaemonSetStrategyType, RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &unavailable, MaxSurge: &surge},
		}
	}
}

func onDelete(ds *appsv1.DaemonSet) {
	ds.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType}
}

func ripening(ds *appsv1.DaemonSet) { ds.Spec.MinReadySeconds = 30 }

func deleted(ds *appsv1.DaemonSet) { ds.DeletionTimestamp = ptr.To(metav1.NewTime(now)) }

func on(labels string) option {
	key, value, _ := strings.Cut(labels, "=")
	return func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.NodeSelector = map[string]string{key: value} }
}

// nodes reads "a b:NoSchedule": names, and the effects of a taint nobody tolerates.
func nodes(described string) []*corev1.Node {
	var all []*corev1.Node
	for word := range strings.FieldsSeq(described) {
		name, effect, tainted := strings.Cut(word, ":")
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if tainted {
			node.Spec.Taints = []corev1.Taint{{Key: "dedicated", Effect: corev1.TaintEffect(effect)}}
		}
		all = append(all, node)
	}
	return all
}

// pods reads "a:new:ready b:old:ending": node, revision, state.
func pods(ds *appsv1.DaemonSet, described string) []*corev1.Pod {
	var all []*corev1.Pod
	for i, word := range strings.Fields(described) {
		part := strings.Split(word, ":")
		pod := newPod(ds, part[0], part[1])
		pod.Name = fmt.Sprintf("%s-%s", part[0], part[1])
		pod.UID = types.UID(fmt.Sprint(i))
		pod.Status.Phase = corev1.PodRunning
		pod.Spec.NodeName = part[0]
		ready := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-10 * time.Second))}
		switch part[2] {
		case "ready":
			pod.Status.Conditions = []corev1.PodCondition{ready}
		case "ending":
			pod.DeletionTimestamp = ptr.To(metav1.NewTime(now))
		case "sick":
		case "unplaced":
			pod.Spec.NodeName = ""
			pod.Status.Phase = corev1.PodPending
		case "failed":
			pod.Status.Phase = corev1.PodFailed
		case "succeeded":
			pod.Status.Phase = corev1.PodSucceeded
		default:
			panic(part[2])
		}
		all = append(all, pod)
	}
	return all
}

// told is a plan in words: "+a" creates on node a, "-a-old" deletes the old pod there.
func told(p Plan) string {
	var words []string
	for _, node := range p.Create {
		words = append(words, "+"+node)
	}
	for _, d := range p.Deaths {
		words = append(words, "-"+d.Pod.Name)
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}

func TestJudge(t *testing.T) {
	surging := rolling(intstr.FromInt32(0), intstr.FromInt32(1))
	tests := map[string]struct {
		ds    *appsv1.DaemonSet
		nodes string
		pods  string
		held  map[string]time.Duration
		want  string
	}{
		"every node gets a pod":                {ds: agent(), nodes: "a b", want: "+a +b"},
		"one each":                             {ds: agent(), nodes: "a b", pods: "a:new:ready", want: "+b"},
		"not before the one that ends is gone": {ds: agent(), nodes: "a", pods: "a:new:ending"},
		"an unplaced pod is that of the node it is made for":     {ds: agent(), nodes: "a", pods: "a:new:unplaced"},
		"a node that does not match gets none":                   {ds: agent(on("zone=1")), nodes: "a"},
		"and loses the one it has":                               {ds: agent(on("zone=1")), nodes: "a", pods: "a:new:ready", want: "-a-new"},
		"a tainted node gets none":                               {ds: agent(), nodes: "a:NoSchedule b:NoExecute"},
		"it keeps what it has unless the taint drives out":       {ds: agent(), nodes: "a:NoSchedule b:NoExecute", pods: "a:new:ready b:new:ready", want: "-b-new"},
		"two are one too many, and the one that is ready stays":  {ds: agent(), nodes: "a", pods: "a:new:sick a:old:ready", want: "-a-new"},
		"a pod made for a node that is gone goes":                {ds: agent(), nodes: "a", pods: "a:new:ready gone:new:unplaced", want: "-gone-new"},
		"one that ran there is left to others":                   {ds: agent(), nodes: "a", pods: "a:new:ready gone:new:ready"},
		"a failed pod is deleted":                                {ds: agent(), nodes: "a", pods: "a:new:failed", want: "-a-new"},
		"not at once if it fails all the time":                   {ds: agent(), nodes: "a", pods: "a:new:failed", held: map[string]time.Duration{"a": time.Second}},
		"a pod that ended in peace is deleted":                   {ds: agent(), nodes: "a", pods: "a:new:succeeded", want: "-a-new"},
		"an update takes one node at a time":                     {ds: agent(), nodes: "a b", pods: "a:old:ready b:old:ready", want: "-a-old"},
		"and waits for it":                                       {ds: agent(), nodes: "a b", pods: "a:new:sick b:old:ready"},
		"while it ends as well":                                  {ds: agent(), nodes: "a b", pods: "a:old:ending b:old:ready"},
		"then takes the next":                                    {ds: agent(), nodes: "a b", pods: "a:new:ready b:old:ready", want: "-b-old"},
		"two thirds at a time":                                   {ds: agent(rolling(intstr.FromString("60%"), intstr.FromInt32(0))), nodes: "a b c", pods: "a:old:ready b:old:ready c:old:ready", want: "-a-old -b-old"},
		"what is not ready goes whatever the limit":              {ds: agent(), nodes: "a b c", pods: "a:old:sick b:old:sick c:old:ready", want: "-a-old -b-old"},
		"what is not ready for long enough is waited for":        {ds: agent(ripening), nodes: "a b", pods: "a:new:ready b:old:ready"},
		"a node that lost its right is left out of an update":    {ds: agent(), nodes: "a:NoSchedule", pods: "a:old:ready"},
		"on delete nothing is deleted":                           {ds: agent(onDelete), nodes: "a", pods: "a:old:ready"},
		"but what is gone comes back":                            {ds: agent(onDelete), nodes: "a", want: "+a"},
		"a surge starts the new beside the old":                  {ds: agent(surging), nodes: "a b", pods: "a:old:ready b:old:ready", want: "+a"},
		"waits until it is ready":                                {ds: agent(surging), nodes: "a b", pods: "a:old:ready a:new:sick b:old:ready"},
		"then ends the old":                                      {ds: agent(surging), nodes: "a b", pods: "a:old:ready a:new:ready b:old:ready", want: "-a-old"},
		"then goes on":                                           {ds: agent(surging), nodes: "a b", pods: "a:old:ending a:new:ready b:old:ready", want: "+b"},
		"an old pod that serves nobody gets its successor":       {ds: agent(surging), nodes: "a b c", pods: "a:old:sick b:old:ready b:new:sick c:old:ending", want: "+a +c"},
		"a DaemonSet that goes does nothing":                     {ds: agent(deleted), nodes: "a b", pods: "a:old:ready"},
		"a pod that names its node belongs on that node":         {ds: agent(func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.NodeName = "b" }), nodes: "a b", want: "+b"},
		"a failed pod that is held does not surge into existing": {ds: agent(surging), nodes: "a", pods: "a:old:failed", held: map[string]time.Duration{"a": time.Second}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			o := observed{ds: tc.ds, nodes: nodes(tc.nodes), pods: pods(tc.ds, tc.pods), hash: "new", held: tc.held}
			before := tc.ds.DeepCopy()
			plan := judge(o, now)
			if got := told(plan); got != tc.want {
				t.Errorf("judge() = %q, want %q", got, tc.want)
			}
			if tc.held != nil && plan.Again != time.Second {
				t.Errorf("again in %v, want 1s", plan.Again)
			}
			if diff := cmp.Diff(before, tc.ds); diff != "" {
				t.Errorf("judge() changed a cached object (-before +after):\n%s", diff)
			}
		})
	}
}

// TestJudgeArrives plays updates against a world that does what judge says, and holds every moment to the limits.
func TestJudgeArrives(t *testing.T) {
	for name, tc := range map[string]struct {
		ds               *appsv1.DaemonSet
		unready, doubles int
	}{
		"one unavailable":   {ds: agent(), unready: 1},
		"three unavailable": {ds: agent(rolling(intstr.FromInt32(3), intstr.FromInt32(0))), unready: 3},
		"two surging":       {ds: agent(rolling(intstr.FromInt32(0), intstr.FromInt32(2))), doubles: 2},
	} {
		t.Run(name, func(t *testing.T) {
			type key struct{ node, revision string }
			world := map[key]string{}
			names := strings.Fields("a b c d e f g")
			for _, node := range names {
				world[key{node, "old"}] = "ready"
			}
			for range 60 {
				var described []string
				for k, state := range world {
					described = append(described, k.node+":"+k.revision+":"+state)
				}
				slices.Sort(described)
				plan := judge(observed{ds: tc.ds, nodes: nodes(strings.Join(names, " ")), pods: pods(tc.ds, strings.Join(described, " ")), hash: "new"}, now)
				for k, state := range world { // time passes
					switch state {
					case "ending":
						delete(world, k)
					case "sick":
						world[k] = "ready"
					}
				}
				for _, node := range plan.Create {
					world[key{node, "new"}] = "sick"
				}
				for _, d := range plan.Deaths {
					world[key{d.Node, d.Pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]}] = "ending"
				}
				unready, doubles := 0, 0
				for _, node := range names {
					if world[key{node, "old"}] != "ready" && world[key{node, "new"}] != "ready" {
						unready++
					}
					if old := world[key{node, "old"}]; old != "" && old != "ending" && world[key{node, "new"}] != "" {
						doubles++
					}
				}
				if unready > tc.unready || doubles > tc.doubles {
					t.Fatalf("%d nodes without a ready pod, %d with two; want at most %d and %d", unready, doubles, tc.unready, tc.doubles)
				}
			}
			for _, node := range names {
				if world[key{node, "new"}] != "ready" || world[key{node, "old"}] != "" {
					t.Errorf("node %s ends with %v", node, world)
				}
			}
		})
	}
}

func TestStatus(t *testing.T) {
	ds := agent(ripening)
	o := observed{ds: ds, nodes: nodes("a b c d e:NoExecute"), pods: pods(ds, "a:new:ready b:old:ready c:new:sick e:old:ready"), hash: "new"}
	o.pods[0].Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-time.Hour))
	plan := judge(o, now)
	want := appsv1.DaemonSetStatus{
		ObservedGeneration: 4, DesiredNumberScheduled: 4, CurrentNumberScheduled: 3, NumberMisscheduled: 1,
		NumberReady: 2, NumberAvailable: 1, NumberUnavailable: 3, UpdatedNumberScheduled: 2,
	}
	if diff := cmp.Diff(want, plan.Status); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	if plan.Again != 20*time.Second {
		t.Errorf("next pod available in %v, want 20s", plan.Again)
	}
}

func TestNewPodIsMadeForItsNode(t *testing.T) {
	ds := agent()
	ds.Annotations = map[string]string{appsv1.DeprecatedTemplateGeneration: "7"}
	preferred := []corev1.PreferredSchedulingTerm{{Weight: 1}}
	ds.Spec.Template.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		PreferredDuringSchedulingIgnoredDuringExecution: preferred,
		RequiredDuringSchedulingIgnoredDuringExecution:  &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{}}},
	}}
	ds.Spec.Template.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}}
	before := ds.DeepCopy()
	pod := newPod(ds, "a", "5f")
	if got := nodeOf(pod); got != "a" {
		t.Errorf("made for node %q, want a", got)
	}
	if got := pod.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution; len(got) != 1 {
		t.Errorf("preferences %v are lost", got)
	}
	if got := len(pod.Spec.Tolerations); got != 6 {
		t.Errorf("%d tolerations, want 6: %v", got, pod.Spec.Tolerations)
	}
	want := map[string]string{"app": "agent", "controller-revision-hash": "5f", "pod-template-generation": "7"}
	if diff := cmp.Diff(want, pod.Labels); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, ds); diff != "" {
		t.Errorf("newPod() changed the DaemonSet (-before +after):\n%s", diff)
	}
}

func TestPlacement(t *testing.T) {
	taint := func(key string, effect corev1.TaintEffect) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: key, Effect: effect}}}}
	}
	hostNetwork := func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.HostNetwork = true }
	tests := map[string]struct {
		ds        *appsv1.DaemonSet
		node      *corev1.Node
		run, keep bool
	}{
		"a cordoned node runs daemons":                       {ds: agent(), node: taint(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule), run: true, keep: true},
		"an unreachable node keeps them":                     {ds: agent(), node: taint(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute), run: true, keep: true},
		"a node short of memory runs them":                   {ds: agent(), node: taint(corev1.TaintNodeMemoryPressure, corev1.TaintEffectNoSchedule), run: true, keep: true},
		"a node without a network runs those that need none": {ds: agent(hostNetwork), node: taint(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule), run: true, keep: true},
		"and no others":                                      {ds: agent(), node: taint(corev1.TaintNodeNetworkUnavailable, corev1.TaintEffectNoSchedule), keep: true},
		"a wish is no law":                                   {ds: agent(), node: taint("quiet", corev1.TaintEffectPreferNoSchedule), run: true, keep: true},
		"a master is left alone":                             {ds: agent(), node: taint("node-role.kubernetes.io/control-plane", corev1.TaintEffectNoSchedule), keep: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if run, keep := placementOf(tc.ds).on(tc.node); run != tc.run || keep != tc.keep {
				t.Errorf("run %v, keep %v; want %v, %v", run, keep, tc.run, tc.keep)
			}
		})
	}
}
