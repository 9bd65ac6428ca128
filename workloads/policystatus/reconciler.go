// Package policystatus tells authors of ValidatingAdmissionPolicies where their expressions cannot mean what they wrote.
//
// In:       ValidatingAdmissionPolicies, from a cache of its own; the schemas the API server publishes.
// Out:      their status: what type checking found, and of which generation.
// Promise:  a finding changes nothing about what a policy does.
// Not here: evaluating policies, refusing expressions that do not compile (appliance/apiserver).
package policystatus

import (
	"context"
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/cel/openapi/resolver"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/restmapper"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/source"
)

// checker finds expressions that do not fit the types they are about.
type checker interface {
	Check(policy *admissionregistrationv1.ValidatingAdmissionPolicy) []admissionregistrationv1.ExpressionWarning
}

// Reconciler settles policies.
type Reconciler struct {
	client   client.Client
	policies client.Reader
	checker  checker
}

// Register adds the controller to a manager.
func Register(mgr manager.Manager) error {
	server, err := discovery.NewDiscoveryClientForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return fmt.Errorf("make a discovery client: %w", err)
	}
	own, err := cache.New(mgr.GetConfig(), cache.Options{HTTPClient: mgr.GetHTTPClient(), Scheme: mgr.GetScheme(), Mapper: mgr.GetRESTMapper()})
	if err != nil {
		return fmt.Errorf("make the cache of admission policies: %w", err)
	}
	if err := mgr.Add(own); err != nil {
		return fmt.Errorf("add the cache of admission policies: %w", err)
	}
	r := &Reconciler{client: mgr.GetClient(), policies: own, checker: &validating.TypeChecker{
		SchemaResolver: &resolver.ClientDiscoveryResolver{Discovery: server},
		// Policies may be about custom resources, which the manager's own mapper does not know.
		RestMapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(server)),
	}}
	err = ctrl.NewControllerManagedBy(mgr).
		Named("policystatus").
		WatchesRawSource(source.Kind[client.Object](own, &admissionregistrationv1.ValidatingAdmissionPolicy{}, &handler.EnqueueRequestForObject{})).
		Complete(r)
	if err != nil {
		return fmt.Errorf("register the controller of admission policies' status: %w", err)
	}
	return nil
}

// Reconcile settles one policy. Each generation is checked once: a check reads schemas of whole API groups.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	policy := &admissionregistrationv1.ValidatingAdmissionPolicy{}
	err := r.policies.Get(ctx, req.NamespacedName, policy)
	if apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe admission policy %s: %w", req.Name, err)
	}
	if policy.DeletionTimestamp != nil || checked(policy) {
		return ctrl.Result{}, nil
	}
	next := policy.DeepCopy()
	next.Status.ObservedGeneration = policy.Generation
	next.Status.TypeChecking = &admissionregistrationv1.TypeChecking{ExpressionWarnings: r.checker.Check(policy)}
	err = r.client.Status().Update(ctx, next)
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) { // our view was old; the newer object queues its own pass
		return ctrl.Result{}, fmt.Errorf("update status of admission policy %s: %w", req.Name, err)
	}
	return ctrl.Result{}, nil
}

// checked says whether a policy's status is about the policy as it is.
func checked(policy *admissionregistrationv1.ValidatingAdmissionPolicy) bool {
	return policy.Status.TypeChecking != nil && policy.Status.ObservedGeneration >= policy.Generation
}
