// Package nodettl tells every node for how long it may use a Secret or ConfigMap it has read before it asks again.
//
// In:       how many nodes there are, from the shared cache.
// Out:      the annotation node.alpha.kubernetes.io/ttl of each, in seconds: the more nodes, the longer.
// Promise:  a cluster that swings about a bound does not rewrite its nodes each time.
// Not here: how our own node agent learns of changes (it watches what its pods use, and asks nobody again).
package nodettl

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

const annotation = "node.alpha.kubernetes.io/ttl"

// unhurried lets nodes that come together be counted together, and a cluster that starts do what somebody waits for.
const unhurried = 2 * time.Second

// everyNode is the one request there is: each node's time depends on how many there are.
var everyNode = reconcile.Request{NamespacedName: types.NamespacedName{Name: "every node"}}

// Reconciler settles all nodes at once.
type Reconciler struct {
	client client.Client
	at     int // of steps; a new process begins with the shortest time
}

// Register adds the controller to a manager.
func Register(mgr manager.Manager) error {
	err := ctrl.NewControllerManagedBy(mgr).
		Named("nodettl").
		Watches(&corev1.Node{}, follow()).
		Complete(&Reconciler{client: mgr.GetClient()})
	if err != nil {
		return fmt.Errorf("register the controller of nodes' time to live: %w", err)
	}
	return nil
}

// Reconcile settles every node.
func (r *Reconciler) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	var nodes corev1.NodeList
	if err := r.client.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return ctrl.Result{}, fmt.Errorf("list nodes: %w", err)
	}
	r.at = judge(r.at, len(nodes.Items))
	seconds := strconv.Itoa(steps[r.at].seconds)
	var errs []error
	for i := range nodes.Items {
		node := &nodes.Items[i]
		if node.Annotations[annotation] == seconds {
			continue
		}
		next := node.DeepCopy()
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, annotation, seconds)
		if err := r.client.Patch(ctx, next, client.MergeFrom(node)); client.IgnoreNotFound(err) != nil {
			errs = append(errs, fmt.Errorf("annotate node %s: %w", node.Name, err))
		}
	}
	return ctrl.Result{}, errors.Join(errs...)
}

// follow queues the pass when a node comes, goes, or is told otherwise. What nodes say of themselves changes nothing.
func follow() handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	return handler.Funcs{
		CreateFunc: func(_ context.Context, _ event.CreateEvent, q queue) { q.AddAfter(everyNode, unhurried) },
		DeleteFunc: func(_ context.Context, _ event.DeleteEvent, q queue) { q.AddAfter(everyNode, unhurried) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) {
			if e.ObjectOld.GetAnnotations()[annotation] != e.ObjectNew.GetAnnotations()[annotation] {
				q.AddAfter(everyNode, unhurried)
			}
		},
	}
}
