// Package serviceaccount gives every namespace its default ServiceAccount, and token Secrets their tokens.
//
// In:       namespaces and ServiceAccounts, from the shared cache; Secrets of type kubernetes.io/service-account-token.
// Out:      a ServiceAccount named default in every namespace that is not going; tokens in Secrets that are for one.
// Promise:  pods of a new namespace find it at once, and a deleted one comes back; a Secret's token goes with the account.
// Not here: signing tokens and knowing them again, the tokens of pods (appliance/apiserver/authn).
package serviceaccount

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

const name = "default"

// Reconciler settles one namespace at a time.
type Reconciler struct {
	client client.Client
}

// Register adds the controller to a manager.
func Register(mgr manager.Manager) error {
	r := &Reconciler{client: mgr.GetClient()}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("serviceaccount").
		For(&corev1.Namespace{}, builder.WithPredicates(created)).
		Watches(&corev1.ServiceAccount{}, handler.EnqueueRequestsFromMapFunc(namespaceOf), builder.WithPredicates(deletedDefault)).
		Complete(r)
	if err != nil {
		return fmt.Errorf("register the serviceaccount controller: %w", err)
	}
	return nil
}

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
	var account corev1.ServiceAccount
	err = r.client.Get(ctx, client.ObjectKey{Namespace: req.Name, Name: name}, &account)
	if client.IgnoreNotFound(err) != nil {
		return ctrl.Result{}, fmt.Errorf("observe serviceaccount %s/%s: %w", req.Name, name, err)
	}
	if exists := err == nil; !wants(&namespace, exists) {
		return ctrl.Result{}, nil
	}
	err = r.client.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: req.Name, Name: name}})
	if apierrors.IsAlreadyExists(err) || apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return ctrl.Result{}, nil // there already, or no longer wanted
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("create serviceaccount %s/%s: %w", req.Name, name, err)
	}
	return ctrl.Result{}, nil
}

// wants says whether a namespace lacks its ServiceAccount.
func wants(namespace *corev1.Namespace, exists bool) bool {
	return !exists && namespace.DeletionTimestamp == nil && namespace.Status.Phase != corev1.NamespaceTerminating
}

var (
	created        = predicate.Funcs{UpdateFunc: func(event.UpdateEvent) bool { return false }, DeleteFunc: func(event.DeleteEvent) bool { return false }}
	deletedDefault = predicate.Funcs{
		CreateFunc: func(event.CreateEvent) bool { return false },
		UpdateFunc: func(event.UpdateEvent) bool { return false },
		DeleteFunc: func(e event.DeleteEvent) bool { return e.Object.GetName() == name },
	}
)

func namespaceOf(_ context.Context, o client.Object) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: o.GetNamespace()}}}
}
