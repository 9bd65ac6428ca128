package e2e

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// berth is something the machine has few of.
const berth = "harbour.example/berth"

// moored is a pod that takes one berth.
func moored(name, class string) *corev1.Pod {
	p := pod(name, app("sleep"))
	p.Spec.PriorityClassName = class
	one := corev1.ResourceList{berth: resource.MustParse("1")}
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: one, Limits: one}
	return p
}

func podCondition(p *corev1.Pod, of corev1.PodConditionType) corev1.PodCondition {
	for _, condition := range p.Status.Conditions {
		if condition.Type == of {
			return condition
		}
	}
	return corev1.PodCondition{}
}

// makesLeave creates a pod and returns another as it is told to end because of it.
func (c *cluster) makesLeave(comes *corev1.Pod, leaves string) *corev1.Pod {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	w, err := c.client.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", leaves).String()})
	if err != nil {
		c.t.Fatal(err)
	}
	defer w.Stop()
	c.create(comes)
	for e := range w.ResultChan() {
		if p, ok := e.Object.(*corev1.Pod); ok && p.DeletionTimestamp != nil {
			return p
		}
	}
	c.t.Fatalf("pod %s did not leave for pod %s", leaves, comes.Name)
	return nil
}

// TestAnImportantPodIsMadeRoomFor: the least important leave, those with a disruption budget last.
func TestAnImportantPodIsMadeRoomFor(t *testing.T) {
	c := start(t)
	for name, value := range map[string]int32{"freight": 10, "flagship": 1000} {
		class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value}
		if _, err := c.client.SchedulingV1().PriorityClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	berths := []byte(`{"status":{"capacity":{"` + berth + `":"2"}}}`)
	if _, err := c.client.CoreV1().Nodes().Patch(t.Context(), c.server.Name(), types.MergePatchType, berths, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	budget := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "database"},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: &intstr.IntOrString{IntVal: 1},
			Selector:     &metav1.LabelSelector{MatchLabels: map[string]string{"app": "database"}},
		},
	}
	if _, err := c.client.PolicyV1().PodDisruptionBudgets("default").Create(t.Context(), budget, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.create(moored("database", ""))
	c.create(moored("cargo", "freight"))
	c.awaitPod("database", "to be ready", podReady)
	c.awaitPod("cargo", "to be ready", podReady)

	cargo := c.makesLeave(moored("first", "flagship"), "cargo") // more important than the database, but nobody's budget
	c.awaitPod("first", "to be ready", podReady)
	if condition := podCondition(cargo, corev1.DisruptionTarget); condition.Reason != corev1.PodReasonPreemptionByScheduler {
		t.Errorf("the pod that left says %q %q", condition.Reason, condition.Message)
	}
	database := c.awaitPod("database", "to be ready still", podReady)
	if database.DeletionTimestamp != nil {
		t.Error("the database left although another pod could")
	}
	c.makesLeave(moored("second", "flagship"), "database") // a budget does not hold up what is more important
	c.awaitPod("second", "to be ready", podReady)
	c.create(moored("third", "flagship"))
	c.awaitPod("third", "to say that nobody can leave for it", func(p *corev1.Pod) bool {
		return podCondition(p, corev1.PodScheduled).Message == "0/1 nodes are available: 1 Insufficient "+berth+". "+
			"preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
	})
}
