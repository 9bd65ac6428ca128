package podcontrol

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// Follow queues the owners of pods as the cache shows pods come, change and go, and settles what those owners
// expected; a pod nobody owns queues those that want it.
func (c *Control[T]) Follow() handler.EventHandler {
	kind, expected := c.Kind, c.Expected
	queueOwner := func(pod *corev1.Pod, q queue, in time.Duration) bool {
		ref := ownerRef(pod, kind)
		if ref != nil {
			q.AddAfter(reconcile.Request{NamespacedName: types.NamespacedName{Namespace: pod.Namespace, Name: ref.Name}}, in)
		}
		return ref != nil
	}
	gather := func(calm bool) time.Duration {
		if calm {
			return c.Gather
		}
		return 0
	}
	queueWanting := func(ctx context.Context, pod *corev1.Pod, q queue) {
		if metav1.GetControllerOfNoCopy(pod) != nil || pod.DeletionTimestamp != nil {
			return
		}
		for _, request := range c.Wanting(ctx, pod) {
			q.Add(request)
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) {
			pod := e.Object.(*corev1.Pod)
			if ref := ownerRef(pod, kind); ref != nil {
				expected.Created(ref.UID, pod.Name)
				if pod.DeletionTimestamp != nil {
					expected.Deleted(ref.UID, pod.Name)
				}
			}
			if !queueOwner(pod, q, gather(Active(pod))) {
				queueWanting(ctx, pod, q)
			}
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			before, pod := e.ObjectOld.(*corev1.Pod), e.ObjectNew.(*corev1.Pod)
			if before.ResourceVersion == pod.ResourceVersion {
				return
			}
			was, is := metav1.GetControllerOfNoCopy(before), metav1.GetControllerOfNoCopy(pod)
			moved := !apiequality.Semantic.DeepEqual(was, is)
			if moved {
				queueOwner(before, q, 0)
			}
			if ref := ownerRef(pod, kind); ref != nil {
				if before.UID != pod.UID {
					expected.Gone(ref.UID, pod.Name) // a restarted watch shows one pod in place of another of its name
				}
				if pod.DeletionTimestamp != nil {
					expected.Deleted(ref.UID, pod.Name)
				}
			}
			if !queueOwner(pod, q, gather(!moved && Active(pod))) && (moved || !apiequality.Semantic.DeepEqual(before.Labels, pod.Labels)) {
				queueWanting(ctx, pod, q)
			}
		},
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q queue) {
			pod := e.Object.(*corev1.Pod)
			if ref := ownerRef(pod, kind); ref != nil {
				expected.Gone(ref.UID, pod.Name)
			}
			queueOwner(pod, q, 0)
		},
	}
}

func ownerRef(o client.Object, kind schema.GroupVersionKind) *metav1.OwnerReference {
	ref := metav1.GetControllerOfNoCopy(o)
	if ref == nil || ref.Kind != kind.Kind {
		return nil
	}
	if group, err := schema.ParseGroupVersion(ref.APIVersion); err != nil || group.Group != kind.Group {
		return nil
	}
	return ref
}
