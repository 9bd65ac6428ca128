// Package resourcequota keeps the books of what namespaces use.
//
// In:       ResourceQuotas, pods and services, from the shared cache; other kinds asked for when a quota names them;
//
//	word from the garbage collector of what is gone.
//
// Out:      the quotas' status.
// Promise:  the books are right again soon after anything went, and within minutes whatever happened.
// Not here: refusing what exceeds a quota, and counting what is created (appliance/apiserver/admission).
package resourcequota

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"knarr.dev/knarr/workloads/resourcequota/usage"
)

const (
	// resync is how long the books may be wrong for a reason that nobody told us of.
	resync = 5 * time.Minute
	// recheck is when a changed book is looked at again: admission counts what is about to be created, which we do
	// not see yet and may just have struck off.
	recheck = 10 * time.Second
	// conflict is when to try again after admission wrote first.
	conflict = 100 * time.Millisecond
)

// Reconciler settles ResourceQuotas.
type Reconciler struct {
	client client.Client
	meter  interface {
		measure(ctx context.Context, q *corev1.ResourceQuota) (corev1.ResourceList, error)
	}
}

// Controller is what Register leaves to others to feed.
type Controller struct {
	reader client.Reader
	queue  atomic.Pointer[workqueue.TypedRateLimitingInterface[reconcile.Request]]
}

// Register adds the controller to a manager. Whoever watches all kinds should call the Controller's Gone.
// steady is the time of day.
func Register(mgr manager.Manager, steady clock.PassiveClock) (*Controller, error) {
	kinds, err := discovery.NewDiscoveryClientForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return nil, fmt.Errorf("make a discovery client: %w", err)
	}
	objects, err := metadata.NewForConfigAndClient(metadata.ConfigFor(mgr.GetConfig()), mgr.GetHTTPClient())
	if err != nil {
		return nil, fmt.Errorf("make a metadata client: %w", err)
	}
	r := &Reconciler{client: mgr.GetClient(), meter: &meter{
		cache: mgr.GetClient(), live: mgr.GetAPIReader(), mapper: mgr.GetRESTMapper(), groups: kinds, objects: objects, clock: steady,
	}}
	c := &Controller{reader: mgr.GetClient()}
	pods := usage.Pods(steady.Now, nil)
	err = ctrl.NewControllerManagedBy(mgr).
		For(&corev1.ResourceQuota{}, builder.WithPredicates(asksForMore())).
		Watches(&corev1.Pod{}, c.affected(pods), builder.WithPredicates(frees(pods))).
		Watches(&corev1.Service{}, c.affected(usage.Services(nil)), builder.WithPredicates(frees(usage.Services(nil)))).
		WatchesRawSource(source.Func(func(_ context.Context, q workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
			c.queue.Store(&q)
			return nil
		})).
		Complete(r)
	if err != nil {
		return nil, fmt.Errorf("register the quota controller: %w", err)
	}
	return c, nil
}

// Reconcile settles one quota.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var q corev1.ResourceQuota
	err := r.client.Get(ctx, req.NamespacedName, &q)
	if apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe quota %s: %w", req, err)
	}
	used, failure := r.meter.measure(ctx, &q)
	if used == nil {
		return ctrl.Result{}, failure
	}
	if quota.Equals(q.Spec.Hard, q.Status.Hard) && quota.Equals(used, q.Status.Used) {
		return ctrl.Result{RequeueAfter: resync}, failure
	}
	next := q.DeepCopy()
	next.Status = corev1.ResourceQuotaStatus{Hard: next.Spec.Hard, Used: used}
	err = r.client.Status().Update(ctx, next)
	switch {
	case apierrors.IsNotFound(err):
		return ctrl.Result{}, nil
	case apierrors.IsConflict(err):
		return ctrl.Result{RequeueAfter: conflict}, failure
	case err != nil:
		return ctrl.Result{}, fmt.Errorf("update status of quota %s: %w", req, err)
	}
	return ctrl.Result{RequeueAfter: recheck}, failure
}

// asksForMore passes what changes the question, not the answers that we and admission write.
func asksForMore() predicate.Funcs {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, now := e.ObjectOld.(*corev1.ResourceQuota), e.ObjectNew.(*corev1.ResourceQuota)
		return !apiequality.Semantic.DeepEqual(before.Spec, now.Spec)
	}, DeleteFunc: func(event.DeleteEvent) bool { return false }}
}

// frees passes what may use less than before. What uses more went through admission, which counted it; counting it
// here as well would only race with that.
func frees(e quota.Evaluator) predicate.Funcs {
	return predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(u event.UpdateEvent) bool {
			before, err := e.Usage(u.ObjectOld)
			now, err2 := e.Usage(u.ObjectNew)
			return err == nil && err2 == nil && (!quota.Equals(before, now) || moved(u.ObjectOld, u.ObjectNew))
		},
	}
}

// moved says whether an object may have left a scope: only a pod's deadline ever comes later.
func moved(before, now client.Object) bool {
	old, isPod := before.(*corev1.Pod)
	return isPod && (old.Spec.ActiveDeadlineSeconds == nil) != (now.(*corev1.Pod).Spec.ActiveDeadlineSeconds == nil)
}

// affected queues the quotas of an object's namespace that bound its kind.
func (c *Controller) affected(e quota.Evaluator) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		return c.quotas(ctx, o.GetNamespace(), func(name corev1.ResourceName) bool {
			return len(e.MatchingResources([]corev1.ResourceName{name})) > 0
		})
	})
}

// Gone tells that an object went, so that quotas which count its kind are settled.
func (c *Controller) Gone(kind schema.GroupResource, namespace string) {
	queue := c.queue.Load()
	if namespace == "" || queue == nil {
		return
	}
	requests := c.quotas(context.Background(), namespace, func(name corev1.ResourceName) bool {
		if counted, is := usage.Counted(name); is {
			return counted == kind
		}
		for _, e := range []quota.Evaluator{usage.Claims(nil), usage.Devices(nil)} {
			if e.GroupResource() == kind && len(e.MatchingResources([]corev1.ResourceName{name})) > 0 {
				return true
			}
		}
		return false
	})
	for _, request := range requests {
		(*queue).Add(request)
	}
}

// quotas lists those of a namespace that bound something.
func (c *Controller) quotas(ctx context.Context, namespace string, bounds func(corev1.ResourceName) bool) []reconcile.Request {
	var list corev1.ResourceQuotaList
	if err := c.reader.List(ctx, &list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil // the cache is closing
	}
	var requests []reconcile.Request
	for i := range list.Items {
		for name := range list.Items[i].Spec.Hard {
			if bounds(name) {
				requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
				break
			}
		}
	}
	return requests
}

func quantity(n int64) resource.Quantity { return *resource.NewQuantity(n, resource.DecimalSI) }
