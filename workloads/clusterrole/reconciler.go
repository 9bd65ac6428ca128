// Package clusterrole fills the ClusterRoles that are made of others.
//
// In:       ClusterRoles, from the shared cache.
// Out:      the rules of those with an aggregationRule: admin, edit, view and what users add.
// Promise:  a part that is added, changed or taken away shows in every whole it belongs to.
// Not here: the roles a cluster begins with (appliance/apiserver/baseline), evaluating them (appliance/apiserver/authz/rbac).
package clusterrole

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// Reconciler settles one aggregated role at a time.
type Reconciler struct {
	client client.Client
	log    *slog.Logger
}

// Register adds the controller to a manager.
func Register(mgr manager.Manager) error {
	r := &Reconciler{client: mgr.GetClient(), log: slog.With("component", "clusterrole")}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("clusterrole").
		// A part that lost its label still changes the whole, so every role queues all wholes; there are few.
		Watches(&rbacv1.ClusterRole{}, handler.EnqueueRequestsFromMapFunc(r.wholes)).
		Complete(r)
	if err != nil {
		return fmt.Errorf("register the aggregation of cluster roles: %w", err)
	}
	return nil
}

func (r *Reconciler) wholes(ctx context.Context, _ client.Object) []reconcile.Request {
	var all rbacv1.ClusterRoleList
	if err := r.client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		r.log.Warn("aggregated roles not found; they wait for the next change of any role", "err", err)
		return nil
	}
	var out []reconcile.Request
	for i := range all.Items {
		if all.Items[i].AggregationRule != nil {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&all.Items[i])})
		}
	}
	return out
}

// Reconcile settles one aggregated role.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	role := &rbacv1.ClusterRole{}
	if err := r.client.Get(ctx, req.NamespacedName, role); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	var all rbacv1.ClusterRoleList
	if err := r.client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
		return ctrl.Result{}, fmt.Errorf("list cluster roles: %w", err)
	}
	rules, err := aggregate(role, all.Items)
	if err != nil {
		return ctrl.Result{}, reconcile.TerminalError(fmt.Errorf("aggregate cluster role %s: %w", role.Name, err))
	}
	if role.AggregationRule == nil || apiequality.Semantic.DeepEqual(rules, role.Rules) {
		return ctrl.Result{}, nil
	}
	next := role.DeepCopy()
	next.Rules = rules
	err = r.client.Update(ctx, next)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil // our view was old; the newer object queues its own pass
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("update cluster role %s: %w", role.Name, err)
	}
	return ctrl.Result{}, nil
}

// aggregate returns the rules of all parts, each once, in the order of their roles' names.
func aggregate(whole *rbacv1.ClusterRole, all []rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	if whole.AggregationRule == nil {
		return whole.Rules, nil
	}
	var parts []*rbacv1.ClusterRole
	for _, s := range whole.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&s)
		if err != nil {
			return nil, fmt.Errorf("read selector: %w", err)
		}
		for i := range all {
			part := &all[i]
			if part.Name != whole.Name && selector.Matches(labels.Set(part.Labels)) && !slices.Contains(parts, part) {
				parts = append(parts, part)
			}
		}
	}
	slices.SortFunc(parts, func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	var rules []rbacv1.PolicyRule
	for _, part := range parts {
		for _, rule := range part.Rules {
			if !slices.ContainsFunc(rules, func(have rbacv1.PolicyRule) bool { return apiequality.Semantic.DeepEqual(have, rule) }) {
				rules = append(rules, rule)
			}
		}
	}
	return rules, nil
}
