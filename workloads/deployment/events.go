package deployment

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// tellScaled writes the Event kubectl describe shows about a rollout's steps.
func tellScaled(recorder record.EventRecorder, d *appsv1.Deployment, set string, from, to int32) {
	switch {
	case to > from:
		recorder.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from %d to %d", set, from, to)
	case to < from:
		recorder.Eventf(d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled down replica set %s from %d to %d", set, from, to)
	}
}

// tellNotCreated writes the Event of a ReplicaSet the API refused, and returns what it says.
func tellNotCreated(recorder record.EventRecorder, d *appsv1.Deployment, set string, err error) string {
	why := fmt.Sprintf("Failed to create new replica set %q: %v", set, err)
	recorder.Event(d, corev1.EventTypeWarning, reasonNotCreated, why)
	return why
}

// followDeletedPods queues the Deployment of a pod that is gone: Recreate waits for the last old one, and nothing
// else about a pod reaches a Deployment but through its ReplicaSet.
func (r *Reconciler) followDeletedPods() handler.EventHandler {
	return handler.Funcs{
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			if owner, ok := r.ownerOf(ctx, e.Object.(*corev1.Pod)); ok {
				q.Add(reconcile.Request{NamespacedName: owner})
			}
		},
	}
}
