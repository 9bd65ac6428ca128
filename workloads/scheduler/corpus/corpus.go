// Package corpus is what scheduling decisions are held against: small clusters, a pod, and the nodes it may go to, each
// stated by hand from the API's documentation.
//
// In:       nothing.
// Out:      Cases, for the tests of our rules (workloads/scheduler) and for a comparison with any scheduler
// (test/decisions).
// Promise:  objects are what the API server would store, so a case means the same in a test and in a cluster. Nothing is
// left to chance: Best is all nodes the scores leave equal.
// Not here: preemption, whose victims are stated beside it.
package corpus

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Namespace is where pods live that do not say where.
const Namespace = "shop"

// Case is one decision.
type Case struct {
	Name    string
	Objects []client.Object // nodes, placed pods, whatever else the decision depends on
	Pod     *corev1.Pod
	Fits    []string // exactly these nodes will do
	Best    []string // exactly these have the highest score; nil where it is not stated
}

// Cases are all of them.
func Cases() []Case {
	all := slices.Concat(
		resourceCases(), podLevelCases(), resizeCases(), portCases(), taintCases(), nodeLabelCases(), nodeFieldCases(),
		affinityCases(), namespaceCases(), spreadCases(), spreadPolicyCases(), volumeCases(), lateVolumeCases(), limitCases(), deviceCases(), extendedCases(), declaredCases(), scoreCases(), mixedCases(),
	)
	named := map[string]bool{}
	for _, c := range all {
		if named[c.Name] {
			panic(fmt.Sprintf("two cases are called %q", c.Name))
		}
		named[c.Name] = true
	}
	return all
}

// state is a case: the pod may go to the nodes of fits, names separated by spaces.
func state(name, fits string, pod *corev1.Pod, objects ...client.Object) Case {
	pod.Name = "candidate"
	for i, o := range objects {
		if p, ok := o.(*corev1.Pod); ok && p.Name == "" {
			p.Name = fmt.Sprintf("there-%d", i)
		}
	}
	for _, o := range append([]client.Object{pod}, objects...) {
		o.SetUID(types.UID(fmt.Sprintf("%T/%s/%s", o, o.GetNamespace(), o.GetName())))
	}
	return Case{Name: name, Pod: pod, Objects: objects, Fits: strings.Fields(fits)}
}

// best states which nodes have the highest score.
func (c Case) best(nodes string) Case {
	c.Best = strings.Fields(nodes)
	return c
}

// change is part of the description of a pod or a node.
type (
	podChange  func(*corev1.Pod)
	nodeChange func(*corev1.Node)
)

// pod is one to be placed; with on it is one that is there.
func pod(changes ...podChange) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: Namespace, Labels: map[string]string{}},
		Spec: corev1.PodSpec{
			SchedulerName: corev1.DefaultSchedulerName,
			Containers:    []corev1.Container{{Name: "app", Image: "app:1"}},
		},
	}
	for _, c := range changes {
		c(p)
	}
	return p
}

// node has room for most things, unless it says otherwise.
func node(name string, changes ...nodeChange) *corev1.Node {
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status:     corev1.NodeStatus{Allocatable: list("cpu", "8", "memory", "16Gi", "ephemeral-storage", "100Gi", "pods", "110")},
	}
	for _, c := range changes {
		c(n)
	}
	n.Status.Capacity = n.Status.Allocatable
	return n
}

// clientObject is any object of a cluster.
type clientObject = client.Object

// copies are objects another case may have as well.
func copies(objects []client.Object) []client.Object {
	own := make([]client.Object, len(objects))
	for i, o := range objects {
		own[i] = o.DeepCopyObject().(client.Object)
	}
	return own
}
