package daemonset

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// followNodes queues the DaemonSets a node matters to, when it comes, goes, or is placed on differently than before.
// A node's heartbeats change nothing of that.
func (r *Reconciler) followNodes() handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) {
			r.concerned(ctx, nil, e.Object.(*corev1.Node), q)
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			before, node := e.ObjectOld.(*corev1.Node), e.ObjectNew.(*corev1.Node)
			if !apiequality.Semantic.DeepEqual(before.Labels, node.Labels) || !apiequality.Semantic.DeepEqual(before.Spec.Taints, node.Spec.Taints) {
				r.concerned(ctx, before, node, q)
			}
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) {
			r.concerned(ctx, e.Object.(*corev1.Node), nil, q)
		},
	}
}

// concerned queues the DaemonSets that treat a node differently than before; nil is a node that is not there.
func (r *Reconciler) concerned(ctx context.Context, before, node *corev1.Node, q queue) {
	var all appsv1.DaemonSetList
	if err := r.client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return // the cache is closing
	}
	type verdict struct{ run, keep bool }
	for i := range all.Items {
		where := placementOf(&all.Items[i])
		var was, is verdict
		if before != nil {
			was.run, was.keep = where.on(before)
		}
		if node != nil {
			is.run, is.keep = where.on(node)
		}
		if was != is {
			q.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&all.Items[i])})
		}
	}
}
