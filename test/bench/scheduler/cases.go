package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// namespace is where all pods are.
const namespace = "bench"

// workload is one case: what there is, and what waits for a node. The cases and their sizes are those of upstream's
// test/integration/scheduler_perf.
type workload struct {
	name string
	// nodes, pods that have a node already, and pods that wait for one.
	nodes, placed, waiting int

	node   func(i int, n *corev1.Node)
	on     func(i int, p *corev1.Pod)                     // the placed pods
	pod    func(i int, p *corev1.Pod)                     // the waiting pods
	beside func(i int, p *corev1.Pod) []client.Object     // what a waiting pod needs besides
	around func(i int, node *corev1.Node) []client.Object // what a node needs besides
	// meanwhile goes on while the backlog is placed, until its context ends.
	meanwhile func(ctx context.Context, api client.Client)
}

var workloads = []workload{
	{name: "basic", nodes: 5000, placed: 1000, waiting: 10000},
	{
		name: "node-affinity", nodes: 5000, placed: 5000, waiting: 10000,
		node: zones("zone1"), pod: func(_ int, p *corev1.Pod) { inZones(p, "zone1") },
	},
	{
		name: "pod-affinity", nodes: 5000, placed: 5000, waiting: 5000, node: zones("zone1"),
		on: func(_ int, p *corev1.Pod) { nearBlue(p) }, pod: func(_ int, p *corev1.Pod) { nearBlue(p) },
	},
	{
		name: "pod-anti-affinity", nodes: 5000, placed: 1000, waiting: 2000,
		on: func(_ int, p *corev1.Pod) { alone(p) }, pod: func(_ int, p *corev1.Pod) { alone(p) },
	},
	{
		name: "topology-spread", nodes: 5000, placed: 5000, waiting: 5000, node: zones("zone1", "zone2", "zone3"),
		on: func(_ int, p *corev1.Pod) { colour(p) }, pod: func(_ int, p *corev1.Pod) { evenly(p) },
	},
	// One node for each of those that arrive after the backlog besides: a node has room for one.
	{name: "preemption", nodes: 1300, placed: 5200, waiting: 1000, on: lesser, pod: important},
	{name: "preemption-async", nodes: 5000, placed: 20000, waiting: 5000, on: lesser, meanwhile: importune},
	{name: "preemption-5000", nodes: 5000, placed: 20000, waiting: 4500, on: lesser, pod: important},
	{name: "mixed-churn", nodes: 5000, placed: 0, waiting: 10000, meanwhile: churn},
	{name: "volumes", nodes: 5000, placed: 0, waiting: 5000, pod: withVolume, beside: volumeAndClaim, around: driver},
}

func names() []string {
	all := make([]string, len(workloads))
	for i, w := range workloads {
		all[i] = w.name
	}
	return all
}

func choose(list string) ([]workload, error) {
	if list == "" {
		return workloads, nil
	}
	var chosen []workload
	for _, name := range strings.Split(list, ",") {
		i := slices.IndexFunc(workloads, func(w workload) bool { return w.name == name })
		if i < 0 {
			return nil, fmt.Errorf("no case %q (there are %s)", name, strings.Join(names(), ", "))
		}
		chosen = append(chosen, workloads[i])
	}
	return chosen, nil
}

// scaled is a share of a case.
func (w workload) scaled(by float64) workload {
	w.nodes, w.placed, w.waiting = int(float64(w.nodes)*by), int(float64(w.placed)*by), int(float64(w.waiting)*by)
	return w
}

func (w workload) nodeAt(i int) *corev1.Node {
	amounts := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("32Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	name := fmt.Sprintf("node-%05d", i)
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status: corev1.NodeStatus{
			Capacity: amounts, Allocatable: amounts,
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "Bench"}},
		},
	}
	if w.node != nil {
		w.node(i, n)
	}
	return n
}

func (w workload) placedAt(i int) *corev1.Pod {
	p := basicPod(fmt.Sprintf("placed-%05d", i))
	p.Spec.NodeName = fmt.Sprintf("node-%05d", i%w.nodes)
	if w.on != nil {
		w.on(i, p)
	}
	return p
}

func (w workload) waitingAt(i int) *corev1.Pod {
	p := basicPod(fmt.Sprintf("pod-%05d", i))
	if w.pod != nil {
		w.pod(i, p)
	}
	return p
}

func basicPod(name string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PodSpec{
			Containers:                    []corev1.Container{{Name: "pause", Image: "registry.k8s.io/pause:3.10"}},
			AutomountServiceAccountToken:  ptr.To(false),
			TerminationGracePeriodSeconds: ptr.To[int64](0), // there is no node agent to wait for
		},
	}
	ask(p, "100m", "500Mi")
	return p
}

func ask(p *corev1.Pod, cpu, memory string) {
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory),
	}
}

// lesser is one of the four pods of a node of which three have to go for an important one.
func lesser(_ int, p *corev1.Pod) { ask(p, "900m", "500Mi") }

func important(_ int, p *corev1.Pod) {
	ask(p, "3000m", "500Mi")
	p.Spec.PriorityClassName = importantClass
}

func zones(names ...string) func(int, *corev1.Node) {
	return func(i int, n *corev1.Node) { n.Labels[corev1.LabelTopologyZone] = names[i%len(names)] }
}

func inZones(p *corev1.Pod, names ...string) {
	p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelTopologyZone, Operator: corev1.NodeSelectorOpIn, Values: names}},
		}}},
	}}
}

var blue = &metav1.LabelSelector{MatchLabels: map[string]string{"colour": "blue"}}

func colour(p *corev1.Pod) { p.Labels = blue.MatchLabels }

func nearBlue(p *corev1.Pod) {
	colour(p)
	p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{LabelSelector: blue, TopologyKey: corev1.LabelTopologyZone}},
	}}
}

func alone(p *corev1.Pod) {
	colour(p)
	p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{LabelSelector: blue, TopologyKey: corev1.LabelHostname}},
	}}
}

func evenly(p *corev1.Pod) {
	colour(p)
	p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
		MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: blue,
	}}
}

const driverName = "bench.example"

func withVolume(i int, p *corev1.Pod) {
	p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: fmt.Sprintf("claim-%05d", i)},
	}}}
}

// volumeAndClaim are bound to each other already.
func volumeAndClaim(i int, _ *corev1.Pod) []client.Object {
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	claim, volume := fmt.Sprintf("claim-%05d", i), fmt.Sprintf("volume-%05d", i)
	return []client.Object{
		&corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: volume},
			Spec: corev1.PersistentVolumeSpec{
				Capacity: size, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				ClaimRef:               &corev1.ObjectReference{Namespace: namespace, Name: claim},
				PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: driverName, VolumeHandle: volume}},
			},
		},
		&corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: claim, Annotations: map[string]string{"pv.kubernetes.io/bind-completed": "yes"}},
			Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, VolumeName: volume, StorageClassName: ptr.To(""),
				Resources: corev1.VolumeResourceRequirements{Requests: size},
			},
		},
	}
}

// driver says that a node can hold 39 of its volumes.
func driver(_ int, n *corev1.Node) []client.Object {
	return []client.Object{&storagev1.CSINode{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name},
		Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{
			{Name: driverName, NodeID: n.Name, Allocatable: &storagev1.VolumeNodeResources{Count: ptr.To[int32](39)}},
		}},
	}}
}
