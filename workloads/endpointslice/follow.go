package endpointslice

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	endpointsliceutil "k8s.io/endpointslice/util"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// followPods queues the services of pods whose address, readiness or labels change; most news of a pod are none.
func (r *Reconciler) followPods() handler.EventHandler {
	enqueue := func(ctx context.Context, namespace string, q queue, sets ...labels.Set) {
		for _, service := range servicesOf(ctx, r.client, namespace, sets...) {
			q.Add(reconcile.Request{NamespacedName: service})
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) {
			if pod := e.Object.(*corev1.Pod); pod.Status.PodIP != "" {
				enqueue(ctx, pod.Namespace, q, pod.Labels)
			}
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			if change := endpointsliceutil.GetPodUpdateProjectionKey(e.ObjectOld, e.ObjectNew); change != nil {
				sets := []labels.Set{change.Labels}
				if change.OldLabels != nil {
					sets = append(sets, change.OldLabels)
				}
				enqueue(ctx, change.Namespace, q, sets...)
			}
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) {
			enqueue(ctx, e.Object.GetNamespace(), q, e.Object.GetLabels())
		},
	}
}

// followSlices queues the service of a slice that others touched, or whose news it waits for.
func (r *Reconciler) followSlices() handler.EventHandler {
	enqueue := func(slice *discoveryv1.EndpointSlice, q queue, foreign bool) {
		name := slice.Labels[discoveryv1.LabelServiceName]
		if name == "" || slice.Labels[discoveryv1.LabelManagedBy] != managedBy {
			return
		}
		key := types.NamespacedName{Namespace: slice.Namespace, Name: name}
		if _, waits := r.waiting.Load(key); waits || foreign {
			q.Add(reconcile.Request{NamespacedName: key})
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) {
			slice := e.Object.(*discoveryv1.EndpointSlice)
			enqueue(slice, q, r.written.ShouldSync(slice))
		},
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) {
			before, slice := e.ObjectOld.(*discoveryv1.EndpointSlice), e.ObjectNew.(*discoveryv1.EndpointSlice)
			relabeled := r.slices.ManagedByChanged(before, slice) || before.Labels[discoveryv1.LabelServiceName] != slice.Labels[discoveryv1.LabelServiceName]
			if relabeled {
				enqueue(before, q, true)
			}
			enqueue(slice, q, relabeled || r.written.ShouldSync(slice))
		},
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) {
			slice := e.Object.(*discoveryv1.EndpointSlice)
			if slice.Labels[discoveryv1.LabelManagedBy] == managedBy {
				enqueue(slice, q, !r.written.HandleDeletion(slice))
			}
		},
	}
}

// followEndpoints queues the service of Endpoints that someone deleted, and of those there at the start: their
// service may have gone while nobody watched.
func followEndpoints() handler.EventHandler {
	enqueue := func(o client.Object, q queue) {
		q.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(o)})
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, q queue) {
			if e.IsInInitialList && ours(e.Object) {
				enqueue(e.Object, q)
			}
		},
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) { enqueue(e.Object, q) },
	}
}
