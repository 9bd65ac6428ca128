package statefulset

import (
	"context"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// wanting lists the StatefulSets that would have a pod nobody owns.
func (r *Reconciler) wanting(ctx context.Context, pod *corev1.Pod) []reconcile.Request {
	var sets appsv1.StatefulSetList
	if err := r.client.List(ctx, &sets, client.InNamespace(pod.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil // the cache is closing
	}
	var requests []reconcile.Request
	for i := range sets.Items {
		set := &sets.Items[i]
		selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
		_, member := ordinalOf(set, pod.Name)
		if err == nil && member && !selector.Empty() && selector.Matches(labels.Set(pod.Labels)) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(set)})
		}
	}
	return requests
}

// followNames queues the StatefulSet that may have waited for the name of a pod that is gone: a pod it released, or one
// that was never its own. Its own pods queue it as their owner.
func followNames() handler.EventHandler {
	return handler.Funcs{
		DeleteFunc: func(_ context.Context, e event.DeleteEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			name := e.Object.GetName()
			if end := strings.LastIndexByte(name, '-'); end > 0 && metav1.GetControllerOfNoCopy(e.Object) == nil {
				q.Add(reconcile.Request{NamespacedName: types.NamespacedName{Namespace: e.Object.GetNamespace(), Name: name[:end]}})
			}
		},
	}
}
