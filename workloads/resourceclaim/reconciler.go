// Package resourceclaim makes claims for devices and takes back what nobody uses.
//
// In:       pods, ResourceClaims and ResourceClaimTemplates, from the shared cache.
// Out:      a claim for each of a pod's templates, named in the pod's status; pods' places in claims; devices given back
//
//	and claims deleted when their pods have ended (KEP-4381).
//
// Promise:  one claim for each pod and template, wherever we crash; no device is given back while a pod may use it.
// Not here: choosing devices (workloads/scheduler), preparing them on the node (workloads/agent).
package resourceclaim

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/workloads/events"
)

// Reconciler settles claims.
type Reconciler struct {
	client client.Client
	live   client.Reader
}

// Register adds the two controllers to a manager.
func Register(mgr manager.Manager) error {
	concerned := predicate.NewPredicateFuncs(func(o client.Object) bool {
		pod := o.(*corev1.Pod)
		return len(pod.Spec.ResourceClaims) > 0 || pod.Status.ExtendedResourceClaimStatus != nil
	})
	pods := &Pods{client: mgr.GetClient(), events: events.Recorder(mgr, "resource_claim")}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("podclaims").
		For(&corev1.Pod{}, builder.WithPredicates(concerned)).
		Watches(&resourcev1.ResourceClaimTemplate{}, handler.EnqueueRequestsFromMapFunc(pods.waiting)).
		Watches(&resourcev1.ResourceClaim{}, handler.EnqueueRequestForOwner(mgr.GetScheme(), mgr.GetRESTMapper(), &corev1.Pod{}, handler.OnlyControllerOwner())).
		Complete(pods)
	if err != nil {
		return fmt.Errorf("register the controller of pods' claims: %w", err)
	}
	err = ctrl.NewControllerManagedBy(mgr).
		Named("resourceclaim").
		For(&resourcev1.ResourceClaim{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(used), builder.WithPredicates(concerned)).
		Complete(&Reconciler{client: mgr.GetClient(), live: mgr.GetAPIReader()})
	if err != nil {
		return fmt.Errorf("register the controller of claims: %w", err)
	}
	return nil
}

// used are the claims of a pod.
func used(_ context.Context, o client.Object) []reconcile.Request {
	var out []reconcile.Request
	for _, name := range claimsOf(o.(*corev1.Pod)) {
		out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: o.GetNamespace(), Name: name}})
	}
	return out
}

// Reconcile settles one claim, one write a pass.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	claim := &resourcev1.ResourceClaim{}
	err := r.client.Get(ctx, req.NamespacedName, claim)
	if apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe resource claim %s: %w", req, err)
	}
	pods, err := r.observe(ctx, claim)
	if err != nil {
		return ctrl.Result{}, err
	}
	v := judge(claim, func(ref resourcev1.ResourceClaimConsumerReference) bool {
		return ref.APIGroup != "" || ref.Resource != "pods" || pods[ref.UID]
	}, ownerDone(claim, pods))
	return ctrl.Result{}, r.act(ctx, claim, v)
}

func (r *Reconciler) act(ctx context.Context, claim *resourcev1.ResourceClaim, v verdict) error {
	next := claim.DeepCopy()
	var err error
	if v.status != nil {
		next.Status = *v.status
		// Of this version only: a pod may have come meanwhile.
		err = r.client.Status().Update(ctx, next)
	}
	if err == nil && v.release && controllerutil.RemoveFinalizer(next, resourcev1.Finalizer) {
		err = r.client.Update(ctx, next)
	}
	if err == nil && v.delete {
		err = r.client.Delete(ctx, next, client.Preconditions{UID: &claim.UID})
	}
	if err == nil || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // our view was old; the newer object queues its own pass
	}
	return fmt.Errorf("settle resource claim %s/%s: %w", claim.Namespace, claim.Name, err)
}

// observe says of the pods a claim names, by UID, whether they may use it. One that the cache does not show is looked up:
// it may be news.
func (r *Reconciler) observe(ctx context.Context, claim *resourcev1.ResourceClaim) (map[types.UID]bool, error) {
	names := map[types.UID]string{}
	for _, ref := range claim.Status.ReservedFor {
		if ref.APIGroup == "" && ref.Resource == "pods" {
			names[ref.UID] = ref.Name
		}
	}
	if owner := owner(claim); owner != nil {
		names[owner.UID] = owner.Name
	}
	using := map[types.UID]bool{}
	for uid, name := range names {
		key := client.ObjectKey{Namespace: claim.Namespace, Name: name}
		pod := &corev1.Pod{}
		err := r.client.Get(ctx, key, pod)
		if apierrors.IsNotFound(err) || err == nil && pod.UID != uid {
			pod = &corev1.Pod{}
			err = r.live.Get(ctx, key, pod)
		}
		if client.IgnoreNotFound(err) != nil {
			return nil, fmt.Errorf("look at pod %s, which uses resource claim %s: %w", key, claim.Name, err)
		}
		using[uid] = err == nil && pod.UID == uid && !done(pod)
	}
	return using, nil
}

// ownerDone says whether the pod a claim was made for needs it no more.
func ownerDone(claim *resourcev1.ResourceClaim, using map[types.UID]bool) bool {
	owner := owner(claim)
	return owner != nil && !using[owner.UID]
}

// owner is the pod a claim was made for, nil for claims that people make.
func owner(claim *resourcev1.ResourceClaim) *metav1.OwnerReference {
	if ref := metav1.GetControllerOfNoCopy(claim); ref != nil && ref.APIVersion == "v1" && ref.Kind == "Pod" {
		return ref
	}
	return nil
}
