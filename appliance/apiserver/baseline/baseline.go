// Package baseline keeps the roles and bindings that every cluster has.
//
// In:       a client that may do everything.
// Out:      the default ClusterRoles, Roles and bindings under their usual names, and those of our nodes.
// Promise:  what is missing in them is added back at each start, what a user added stays, and one whose annotation
// rbac.authorization.kubernetes.io/autoupdate is "false" is left alone. A start at which nothing differs writes nothing.
// Not here: evaluating them (appliance/apiserver/authz/rbac), filling aggregated roles (workloads/clusterrole).
package baseline

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	rbacclient "k8s.io/client-go/kubernetes/typed/rbac/v1"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
)

// sideBySide is how many writes are under way: etcd puts concurrent ones into one sync of its log, and a start has
// other things to write.
const sideBySide = 16

// How long to wait after a pass that failed, doubling from the first to the last.
const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// Keep makes passes until one succeeds or ctx ends. The namespace kube-system has to exist.
func Keep(ctx context.Context, client rbacclient.RbacV1Interface, log *slog.Logger) {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		err := Settle(ctx, client)
		if err == nil || ctx.Err() != nil {
			return
		}
		log.Warn("default roles are not all in place; trying again", "err", err, "after", wait)
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// Settle makes one pass. The namespace kube-system has to exist.
func Settle(ctx context.Context, client rbacclient.RbacV1Interface) error {
	found, err := list(ctx, client)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(sideBySide)
	roleClient, bindingClient := owners{found, client, ctx}, bindings{found, client, ctx}
	settleRole := func(role reconciliation.RuleOwner) {
		group.Go(func() error {
			options := reconciliation.ReconcileRoleOptions{Role: role, Confirm: true, Client: roleClient}
			if _, err := options.Run(); err != nil {
				return fmt.Errorf("settle role %s: %w", role.GetName(), err)
			}
			return nil
		})
	}
	settleBinding := func(binding reconciliation.RoleBinding) {
		group.Go(func() error {
			options := reconciliation.ReconcileRoleBindingOptions{RoleBinding: binding, Confirm: true, Client: bindingClient}
			if _, err := options.Run(); err != nil {
				return fmt.Errorf("settle binding %s: %w", binding.GetName(), err)
			}
			return nil
		})
	}
	// Roles before bindings, so that a binding never points at nothing for long.
	for _, role := range clusterRoles() {
		settleRole(reconciliation.ClusterRoleRuleOwner{ClusterRole: role})
	}
	for _, role := range roles() {
		settleRole(reconciliation.RoleRuleOwner{Role: role})
	}
	for _, binding := range clusterRoleBindings() {
		settleBinding(reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: binding})
	}
	for _, binding := range roleBindings() {
		settleBinding(reconciliation.RoleBindingAdapter{RoleBinding: binding})
	}
	return group.Wait()
}

// existing is what four lists found, so that a pass does not have to get each object.
type existing struct {
	roles    map[types.NamespacedName]reconciliation.RuleOwner
	bindings map[types.NamespacedName]reconciliation.RoleBinding
}

func list(ctx context.Context, client rbacclient.RbacV1Interface) (*existing, error) {
	var (
		clusterRoles, roles       = map[types.NamespacedName]reconciliation.RuleOwner{}, map[types.NamespacedName]reconciliation.RuleOwner{}
		clusterBindings, bindings = map[types.NamespacedName]reconciliation.RoleBinding{}, map[types.NamespacedName]reconciliation.RoleBinding{}
		ours                      = metav1.ListOptions{} // not by label: a user may have taken it off
	)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		found, err := client.ClusterRoles().List(ctx, ours)
		for i := range found.Items {
			clusterRoles[types.NamespacedName{Name: found.Items[i].Name}] = reconciliation.ClusterRoleRuleOwner{ClusterRole: &found.Items[i]}
		}
		return err
	})
	group.Go(func() error {
		found, err := client.Roles(metav1.NamespaceSystem).List(ctx, ours)
		for i := range found.Items {
			roles[types.NamespacedName{Namespace: metav1.NamespaceSystem, Name: found.Items[i].Name}] = reconciliation.RoleRuleOwner{Role: &found.Items[i]}
		}
		return err
	})
	group.Go(func() error {
		found, err := client.ClusterRoleBindings().List(ctx, ours)
		for i := range found.Items {
			clusterBindings[types.NamespacedName{Name: found.Items[i].Name}] = reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &found.Items[i]}
		}
		return err
	})
	group.Go(func() error {
		found, err := client.RoleBindings(metav1.NamespaceSystem).List(ctx, ours)
		for i := range found.Items {
			bindings[types.NamespacedName{Namespace: metav1.NamespaceSystem, Name: found.Items[i].Name}] = reconciliation.RoleBindingAdapter{RoleBinding: &found.Items[i]}
		}
		return err
	})
	if err := group.Wait(); err != nil {
		return nil, fmt.Errorf("list roles and bindings: %w", err)
	}
	maps.Copy(roles, clusterRoles)
	maps.Copy(bindings, clusterBindings)
	return &existing{roles: roles, bindings: bindings}, nil
}

// owners lets the library read what was listed and write through the client.
type owners struct {
	found  *existing
	client rbacclient.RbacV1Interface
	ctx    context.Context // of one pass; the library's interface has no place for it
}

func (o owners) Get(namespace, name string) (reconciliation.RuleOwner, error) {
	if role, ok := o.found.roles[types.NamespacedName{Namespace: namespace, Name: name}]; ok {
		return role, nil
	}
	return nil, apierrors.NewNotFound(rbacv1.Resource("roles"), name)
}

func (o owners) Create(role reconciliation.RuleOwner) (reconciliation.RuleOwner, error) {
	var err error
	switch r := role.GetObject().(type) {
	case *rbacv1.ClusterRole:
		_, err = o.client.ClusterRoles().Create(o.ctx, r, metav1.CreateOptions{})
	case *rbacv1.Role:
		_, err = o.client.Roles(r.Namespace).Create(o.ctx, r, metav1.CreateOptions{})
	}
	return role, there(err)
}

func (o owners) Update(role reconciliation.RuleOwner) (reconciliation.RuleOwner, error) {
	var err error
	switch r := role.GetObject().(type) {
	case *rbacv1.ClusterRole:
		_, err = o.client.ClusterRoles().Update(o.ctx, r, metav1.UpdateOptions{})
	case *rbacv1.Role:
		_, err = o.client.Roles(r.Namespace).Update(o.ctx, r, metav1.UpdateOptions{})
	}
	return role, err
}

// there takes an object that another server of the cluster made at the same moment for ours.
func there(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// bindings does for bindings what owners does for roles.
type bindings struct {
	found  *existing
	client rbacclient.RbacV1Interface
	ctx    context.Context
}

func (b bindings) Get(namespace, name string) (reconciliation.RoleBinding, error) {
	if binding, ok := b.found.bindings[types.NamespacedName{Namespace: namespace, Name: name}]; ok {
		return binding, nil
	}
	return nil, apierrors.NewNotFound(rbacv1.Resource("rolebindings"), name)
}

func (b bindings) Create(binding reconciliation.RoleBinding) (reconciliation.RoleBinding, error) {
	var err error
	switch o := binding.GetObject().(type) {
	case *rbacv1.ClusterRoleBinding:
		_, err = b.client.ClusterRoleBindings().Create(b.ctx, o, metav1.CreateOptions{})
	case *rbacv1.RoleBinding:
		_, err = b.client.RoleBindings(o.Namespace).Create(b.ctx, o, metav1.CreateOptions{})
	}
	return binding, there(err)
}

func (b bindings) Update(binding reconciliation.RoleBinding) (reconciliation.RoleBinding, error) {
	var err error
	switch o := binding.GetObject().(type) {
	case *rbacv1.ClusterRoleBinding:
		_, err = b.client.ClusterRoleBindings().Update(b.ctx, o, metav1.UpdateOptions{})
	case *rbacv1.RoleBinding:
		_, err = b.client.RoleBindings(o.Namespace).Update(b.ctx, o, metav1.UpdateOptions{})
	}
	return binding, err
}

// Delete makes way for a binding whose role changed, which cannot be updated.
func (b bindings) Delete(namespace, name string, uid types.UID) error {
	options := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}
	if namespace == "" {
		return b.client.ClusterRoleBindings().Delete(b.ctx, name, options)
	}
	return b.client.RoleBindings(namespace).Delete(b.ctx, name, options)
}
