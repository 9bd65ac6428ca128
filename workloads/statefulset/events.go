package statefulset

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// The wording is what kubectl describe shows of every StatefulSet, and scripts look for.

func (r *Reconciler) tellCreated(set *appsv1.StatefulSet, pod string, err error) {
	if err != nil {
		r.pods.Events.Eventf(set, corev1.EventTypeWarning, "FailedCreate", "create Pod %s in StatefulSet %s failed error: %v", pod, set.Name, err)
		return
	}
	r.pods.Events.Eventf(set, corev1.EventTypeNormal, "SuccessfulCreate", "create Pod %s in StatefulSet %s successful", pod, set.Name)
}

func (r *Reconciler) tellClaimed(set *appsv1.StatefulSet, claim, pod string, err error) {
	if err != nil {
		r.pods.Events.Eventf(set, corev1.EventTypeWarning, "FailedCreate", "create Claim %s for Pod %s in StatefulSet %s failed error: %v", claim, pod, set.Name, err)
		return
	}
	r.pods.Events.Eventf(set, corev1.EventTypeNormal, "SuccessfulCreate", "create Claim %s Pod %s in StatefulSet %s success", claim, pod, set.Name)
}

func (r *Reconciler) tellDeleted(set *appsv1.StatefulSet, pod string, err error) {
	if err != nil {
		r.pods.Events.Eventf(set, corev1.EventTypeWarning, "FailedDelete", "delete Pod %s in StatefulSet %s failed error: %v", pod, set.Name, err)
		return
	}
	r.pods.Events.Eventf(set, corev1.EventTypeNormal, "SuccessfulDelete", "delete Pod %s in StatefulSet %s successful", pod, set.Name)
}

// tellEnded says why a pod nobody deleted is.
func (r *Reconciler) tellEnded(set *appsv1.StatefulSet, pod *corev1.Pod) {
	if pod.Status.Phase == corev1.PodSucceeded {
		r.pods.Events.Eventf(set, corev1.EventTypeNormal, "RecreatingTerminatedPod", "StatefulSet %s/%s is recreating terminated Pod %s", set.Namespace, set.Name, pod.Name)
		return
	}
	r.pods.Events.Eventf(set, corev1.EventTypeWarning, "RecreatingFailedPod", "StatefulSet %s/%s is recreating failed Pod %s", set.Namespace, set.Name, pod.Name)
}
