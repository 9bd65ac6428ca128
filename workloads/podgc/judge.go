package podgc

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/workloads/podcontrol"
)

// finding is a pod to delete, and why.
type finding struct {
	pod *corev1.Pod
	why why
}

type why int

const (
	orphaned     why = iota // its node is gone
	outOfService            // it ends on a node that was declared out of service
	unplaced                // it ends without ever having had a node
	surplus                 // it has finished, and too many have
)

// stillMissing notes the nodes that pods name and that do not exist, each since when.
func stillMissing(before map[string]time.Time, pods []corev1.Pod, nodes []corev1.Node, now time.Time) map[string]time.Time {
	there := map[string]bool{"": true}
	for i := range nodes {
		there[nodes[i].Name] = true
	}
	missing := map[string]time.Time{}
	for i := range pods {
		name := pods[i].Spec.NodeName
		if there[name] {
			continue
		}
		missing[name] = now
		if since, known := before[name]; known {
			missing[name] = since
		}
	}
	return missing
}

// judge finds the pods nobody else will delete.
func judge(pods []corev1.Pod, nodes []corev1.Node, missing map[string]time.Time, now time.Time) []finding {
	shut := map[string]bool{}
	for i := range nodes {
		shut[nodes[i].Name] = declaredOut(&nodes[i])
	}
	var found []finding
	var finished []*corev1.Pod
	for i := range pods {
		pod := &pods[i]
		since, lost := missing[pod.Spec.NodeName]
		switch {
		case lost:
			if now.Sub(since) >= quarantine {
				found = append(found, finding{pod, orphaned})
			}
		case pod.DeletionTimestamp != nil && pod.Spec.NodeName == "":
			found = append(found, finding{pod, unplaced})
		case pod.DeletionTimestamp != nil && shut[pod.Spec.NodeName]:
			found = append(found, finding{pod, outOfService})
		case pod.DeletionTimestamp == nil && podcontrol.Terminal(pod):
			finished = append(finished, pod)
		}
	}
	if over := len(finished) - finishedLimit; over > 0 {
		// Evicted ones first, as upstream: of what they did nobody asks, while a Job's pods are its record.
		slices.SortFunc(finished, func(a, b *corev1.Pod) int {
			if a, b := evicted(a), evicted(b); a != b {
				if a {
					return -1
				}
				return 1
			}
			return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
		})
		for _, pod := range finished[:over] {
			found = append(found, finding{pod, surplus})
		}
	}
	return found
}

// evicted says whether a node ended a pod to keep itself going.
func evicted(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed && pod.Status.Reason == "Evicted"
}

// declaredOut says whether a node is not ready and someone vouches that it is really off.
func declaredOut(node *corev1.Node) bool {
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.Key == corev1.TaintNodeOutOfService })
}

// failed is a copy of a pod as its owner should see it before it goes.
func failed(pod *corev1.Pod, reason why, now time.Time) *corev1.Pod {
	next := pod.DeepCopy()
	next.Status.Phase = corev1.PodFailed
	if reason != orphaned {
		return next
	}
	c := corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByPodGC", Message: "PodGC: node no longer exists",
		ObservedGeneration: pod.Generation, LastTransitionTime: metav1.NewTime(now),
	}
	if was := podcontrol.Condition(next, corev1.DisruptionTarget); was != nil {
		*was = c
	} else {
		next.Status.Conditions = append(next.Status.Conditions, c)
	}
	return next
}
