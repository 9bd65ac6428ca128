// Package rbac decides by roles and bindings.
//
// In:       Roles, ClusterRoles and their bindings, from informers.
// Out:      an authorizer, the list of a user's rules, and an admission plugin against granting more than one has.
// Promise:  a decision costs what the user's own bindings cost, however many others there are.
// Not here: the roles a cluster begins with (appliance/apiserver/baseline), aggregation (workloads/clusterrole).
package rbac

import (
	"context"
	"fmt"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	rbacinformers "k8s.io/client-go/informers/rbac/v1"
	"k8s.io/client-go/tools/cache"
)

// Authorizer decides by roles and bindings. Before its informers have listed them it has no opinion of anyone.
type Authorizer struct {
	authorizer.AuthorizerFunc
	index  *index
	synced []cache.InformerSynced
}

// New follows the informers; the caller starts them.
func New(informers rbacinformers.Interface) (*Authorizer, error) {
	a := &Authorizer{index: newIndex()}
	a.AuthorizerFunc = a.decide
	for kind, informer := range map[string]cache.SharedIndexInformer{
		"roles":               informers.Roles().Informer(),
		"clusterroles":        informers.ClusterRoles().Informer(),
		"rolebindings":        informers.RoleBindings().Informer(),
		"clusterrolebindings": informers.ClusterRoleBindings().Informer(),
	} {
		registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    a.set,
			UpdateFunc: func(_, object any) { a.set(object) },
			DeleteFunc: a.drop,
		})
		if err != nil {
			return nil, fmt.Errorf("follow %s: %w", kind, err)
		}
		a.synced = append(a.synced, registration.HasSynced)
	}
	return a, nil
}

// Synced reports whether everything that existed at the start is known.
func (a *Authorizer) Synced() bool {
	for _, synced := range a.synced {
		if !synced() {
			return false
		}
	}
	return true
}

func (a *Authorizer) set(object any) {
	switch o := object.(type) {
	case *rbacv1.Role:
		a.index.setRole(place{o.Namespace, o.Name}, o.Rules)
	case *rbacv1.ClusterRole:
		a.index.setRole(place{"", o.Name}, o.Rules)
	case *rbacv1.RoleBinding:
		a.index.setBinding(newBinding(place{o.Namespace, o.Name}, o.RoleRef, o.Subjects))
	case *rbacv1.ClusterRoleBinding:
		a.index.setBinding(newBinding(place{"", o.Name}, o.RoleRef, o.Subjects))
	}
}

func (a *Authorizer) drop(object any) {
	if last, ok := object.(cache.DeletedFinalStateUnknown); ok {
		object = last.Obj
	}
	switch o := object.(type) {
	case *rbacv1.Role:
		a.index.dropRole(place{o.Namespace, o.Name})
	case *rbacv1.ClusterRole:
		a.index.dropRole(place{"", o.Name})
	case *rbacv1.RoleBinding:
		a.index.dropBinding(place{o.Namespace, o.Name})
	case *rbacv1.ClusterRoleBinding:
		a.index.dropBinding(place{"", o.Name})
	}
}

func (a *Authorizer) decide(_ context.Context, request authorizer.Attributes) (authorizer.Decision, string, error) {
	var by *binding
	missing := a.index.visit(request.GetUser(), request.GetNamespace(), func(b *binding, rule *rbacv1.PolicyRule) bool {
		if Allows(rule, request) {
			by = b
		}
		return by == nil
	})
	if by != nil {
		return authorizer.DecisionAllow, "RBAC: allowed by " + by.String(), nil
	}
	if len(missing) == 0 {
		return authorizer.DecisionNoOpinion, "", nil
	}
	var names []string
	for _, b := range missing {
		names = append(names, b.String())
	}
	return authorizer.DecisionNoOpinion, "RBAC: the role is missing of " + strings.Join(names, ", "), nil
}

// RulesFor lists what a user may do in a namespace, for SelfSubjectRulesReviews.
func (a *Authorizer) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	var resources []authorizer.ResourceRuleInfo
	var urls []authorizer.NonResourceRuleInfo
	missing := a.index.visit(u, namespace, func(_ *binding, rule *rbacv1.PolicyRule) bool {
		if len(rule.Resources) > 0 {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{
				Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames,
			})
		}
		if len(rule.NonResourceURLs) > 0 {
			urls = append(urls, &authorizer.DefaultNonResourceRuleInfo{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
		}
		return true
	})
	if len(missing) > 0 {
		return resources, urls, false, fmt.Errorf("the role of %s is missing", missing[0])
	}
	return resources, urls, false, nil
}

// rulesOf lists the same as the roles have it.
func (a *Authorizer) rulesOf(u user.Info, namespace string) []rbacv1.PolicyRule {
	var rules []rbacv1.PolicyRule
	a.index.visit(u, namespace, func(_ *binding, rule *rbacv1.PolicyRule) bool {
		rules = append(rules, *rule)
		return true
	})
	return rules
}
