// Package namespace empties namespaces that are to go.
//
// In:       namespaces from the shared cache; what kinds exist, from discovery.
// Out:      everything inside deleted, pods first; conditions that say what is left; the finalizer removed.
// Promise:  a namespace ends only when a fresh look at every kind found nothing in it.
// Not here: refusing new objects meanwhile (the API server's admission).
package namespace

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// kinds is what discovery knows.
type kinds interface {
	ServerPreferredResources() ([]*metav1.APIResourceList, error)
}

// Reconciler settles namespaces.
type Reconciler struct {
	client   client.Client
	contents metadata.Interface
	kinds    kinds
	clock    clock.PassiveClock
}

// Register adds the controller to a manager. steady is the time of day.
func Register(mgr manager.Manager, steady clock.PassiveClock) error {
	contents, err := metadata.NewForConfigAndClient(metadata.ConfigFor(mgr.GetConfig()), mgr.GetHTTPClient())
	if err != nil {
		return fmt.Errorf("make a client for the contents of namespaces: %w", err)
	}
	kinds, err := discovery.NewDiscoveryClientForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return fmt.Errorf("make a discovery client: %w", err)
	}
	r := &Reconciler{client: mgr.GetClient(), contents: contents, kinds: kinds, clock: steady}
	err = ctrl.NewControllerManagedBy(mgr).
		For(&corev1.Namespace{}, builder.WithPredicates(predicate.NewPredicateFuncs(going))).
		Watches(&corev1.Pod{}, r.followPods()).
		WithOptions(controller.Options{MaxConcurrentReconciles: 4}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("register the namespace controller: %w", err)
	}
	return nil
}

func going(o client.Object) bool { return o.GetDeletionTimestamp() != nil }

// Reconcile settles one namespace.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var namespace corev1.Namespace
	err := r.client.Get(ctx, req.NamespacedName, &namespace)
	if apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe namespace %s: %w", req.Name, err)
	}
	if !going(&namespace) || !slices.Contains(namespace.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return ctrl.Result{}, nil
	}
	left := r.empty(ctx, req.Name)
	if ctx.Err() != nil {
		return ctrl.Result{}, nil
	}
	status := judgeStatus(&namespace, left, r.clock.Now())
	if !apiequality.Semantic.DeepEqual(status, namespace.Status) {
		next := namespace.DeepCopy()
		next.Status = status
		if err := r.client.Status().Update(ctx, next); err != nil {
			return settled(fmt.Sprintf("update status of namespace %s", req.Name), err)
		}
		namespace = *next
	}
	if !left.nothing() {
		return ctrl.Result{RequeueAfter: left.again()}, nil
	}
	next := namespace.DeepCopy()
	next.Spec.Finalizers = slices.DeleteFunc(next.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	if err := r.client.SubResource("finalize").Update(ctx, next); err != nil {
		return settled(fmt.Sprintf("finalize namespace %s", req.Name), err)
	}
	return ctrl.Result{}, nil
}

// settled sorts the outcome of a write: a conflict queues its own pass through the newer object.
func settled(act string, err error) (ctrl.Result, error) {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return ctrl.Result{}, nil
	}
	return ctrl.Result{}, fmt.Errorf("%s: %w", act, err)
}

// followPods queues a namespace that is going when one of its pods is gone: pods take longest, and all else waits
// for them.
func (r *Reconciler) followPods() handler.EventHandler {
	return handler.Funcs{
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			var namespace corev1.Namespace
			key := types.NamespacedName{Name: e.Object.GetNamespace()}
			if err := r.client.Get(ctx, key, &namespace); err == nil && going(&namespace) {
				q.Add(reconcile.Request{NamespacedName: key})
			}
		},
	}
}

// again is when to look at what is left: half of the grace it asked for, which later looks halve again.
func (l *leftovers) again() time.Duration {
	return max(l.grace/2, 2*time.Second)
}
