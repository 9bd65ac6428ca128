package nodelifecycle

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
)

// tellRegistered writes the Event of a node that is watched over from now on. Each term of leadership begins with it.
func tellRegistered(recorder record.EventRecorder, node *corev1.Node) {
	tellNode(recorder, node, "RegisteredNode", "Registered Node "+node.Name+" in Controller")
}

// tellRemoved writes the Event of a node that was deleted.
func tellRemoved(recorder record.EventRecorder, node *corev1.Node) {
	tellNode(recorder, node, "RemovingNode", "Removing Node "+node.Name+" from Controller")
}

func tellNode(recorder record.EventRecorder, node *corev1.Node, reason, what string) {
	recorder.Eventf(node, corev1.EventTypeNormal, reason, "Node %s event: %s", node.Name, what)
}

// tellNotReady writes the Event of a node that was healthy until now, whether it says so itself or says nothing.
func tellNotReady(recorder record.EventRecorder, node *corev1.Node) {
	recorder.Eventf(node, corev1.EventTypeNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", node.Name)
}

// tellLost writes the Event of a pod that is out of service with its node.
func tellLost(recorder record.EventRecorder, pod *corev1.Pod) {
	recorder.Event(pod, corev1.EventTypeWarning, "NodeNotReady", "Node is not ready")
}

// tellDriven writes the Event of a pod that goes because of a taint.
func tellDriven(recorder record.EventRecorder, pod *corev1.Pod) {
	recorder.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s/%s", pod.Namespace, pod.Name)
}

// tellSpared writes the Event of a pod that was to go and now may stay.
func tellSpared(recorder record.EventRecorder, pod *corev1.Pod) {
	recorder.Eventf(pod, corev1.EventTypeNormal, "TaintManagerEviction", "Cancelling deletion of Pod %s/%s", pod.Namespace, pod.Name)
}
