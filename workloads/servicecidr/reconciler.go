// Package servicecidr keeps the ranges that services get their addresses from, as long as addresses of them are in use.
//
// In:       ServiceCIDRs, from a cache of its own; IPAddresses, looked up when a range is deleted.
// Out:      the finalizer and the Ready condition of each range (KEP-1880).
// Promise:  a deleted range goes when no service has an address that is in no other range.
// Not here: giving addresses away and taking them back (appliance/apiserver/allocation).
package servicecidr

import (
	"context"
	"fmt"
	"sync"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// Concerns says whether a range is one this controller is for. Nothing happens to the cluster's own, which the API
// server makes and keeps, while it is the only one.
func Concerns(o metav1.Object) bool { return o.GetName() != "kubernetes" }

// Reconciler settles ranges.
type Reconciler struct {
	client client.Client
	ranges client.Reader
	live   client.Reader
	steady clock.PassiveClock // for what is written
	clock  clock.PassiveClock // for what passes

	mu       sync.Mutex
	deleting map[types.UID]time.Time // when they were first seen to be
}

// Register adds the controller to a manager. steady is the time of day.
func Register(mgr manager.Manager, steady clock.PassiveClock) error {
	own, err := cache.New(mgr.GetConfig(), cache.Options{HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper()})
	if err != nil {
		return fmt.Errorf("make the cache of service ranges: %w", err)
	}
	if err := mgr.Add(own); err != nil {
		return fmt.Errorf("add the cache of service ranges: %w", err)
	}
	r := &Reconciler{client: mgr.GetClient(), ranges: own, live: mgr.GetAPIReader(), steady: steady, clock: clock.RealClock{}, deleting: map[types.UID]time.Time{}}
	err = ctrl.NewControllerManagedBy(mgr).
		Named("servicecidr").
		WatchesRawSource(source.Kind[client.Object](own, &networkingv1.ServiceCIDR{}, &handler.EnqueueRequestForObject{})).
		Complete(r)
	if err != nil {
		return fmt.Errorf("register the controller of service ranges: %w", err)
	}
	return nil
}

// Reconcile settles one range.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var all networkingv1.ServiceCIDRList
	if err := r.ranges.List(ctx, &all); err != nil {
		return ctrl.Result{}, fmt.Errorf("list service ranges: %w", err)
	}
	var cidr *networkingv1.ServiceCIDR
	for i := range all.Items {
		if all.Items[i].Name == req.Name {
			cidr = &all.Items[i]
		}
	}
	if cidr == nil {
		return ctrl.Result{}, nil
	}
	held := controllerutil.ContainsFinalizer(cidr, finalizer)
	if cidr.DeletionTimestamp == nil && !held {
		return ctrl.Result{}, r.hold(ctx, cidr, controllerutil.AddFinalizer)
	}
	if cidr.DeletionTimestamp != nil && !held {
		return ctrl.Result{}, nil
	}
	var addresses networkingv1.IPAddressList
	if cidr.DeletionTimestamp != nil {
		if err := r.live.List(ctx, &addresses); err != nil {
			return ctrl.Result{}, fmt.Errorf("list addresses of services: %w", err)
		}
	}
	next, gone := judge(cidr, all.Items, addresses.Items, r.since(cidr), r.steady.Now())
	switch {
	case gone:
		return ctrl.Result{}, r.hold(ctx, cidr, controllerutil.RemoveFinalizer)
	case next != nil:
		err := r.client.Status().Update(ctx, next)
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) { // our view was old; the newer object queues its own pass
			return ctrl.Result{}, fmt.Errorf("update status of service range %s: %w", cidr.Name, err)
		}
	}
	if cidr.DeletionTimestamp != nil {
		return ctrl.Result{RequeueAfter: grace}, nil
	}
	return ctrl.Result{}, nil
}

// hold sets or removes the finalizer.
func (r *Reconciler) hold(ctx context.Context, cidr *networkingv1.ServiceCIDR, change func(client.Object, string) bool) error {
	next := cidr.DeepCopy()
	change(next, finalizer)
	err := r.client.Patch(ctx, next, client.MergeFromWithOptions(cidr, client.MergeFromWithOptimisticLock{}))
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) { // our view was old; the newer object queues its own pass
		return fmt.Errorf("update finalizers of service range %s: %w", cidr.Name, err)
	}
	return nil
}

// since is how long a range has been seen to be deleted.
func (r *Reconciler) since(cidr *networkingv1.ServiceCIDR) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if cidr.DeletionTimestamp == nil {
		return 0
	}
	at, known := r.deleting[cidr.UID]
	if !known {
		at = r.clock.Now()
		r.deleting[cidr.UID] = at
	}
	return r.clock.Now().Sub(at)
}
