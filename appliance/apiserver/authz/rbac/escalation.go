package rbac

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	rbacclient "k8s.io/client-go/kubernetes/typed/rbac/v1"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// PluginName is how the API server's list of admission plugins calls Escalation.
const PluginName = "RBACEscalation"

// Escalation refuses roles and bindings that give more than their author has, unless the author may escalate or
// bind. It sits in admission because the author and both versions of the object meet there for every kind of write.
type Escalation struct {
	roles      *Authorizer
	authorizer authorizer.Authorizer
	client     rbacclient.RbacV1Interface
}

var _ admission.ValidationInterface = (*Escalation)(nil)

// NewEscalation compares with the author's rules and asks the authorizer for the two verbs. The client finds roles
// that were created a moment ago.
func NewEscalation(roles *Authorizer, authorizer authorizer.Authorizer, client rbacclient.RbacV1Interface) *Escalation {
	return &Escalation{roles: roles, authorizer: authorizer, client: client}
}

// Factory registers the plugin.
func (e *Escalation) Factory() admission.Factory {
	return func(io.Reader) (admission.Interface, error) { return e, nil }
}

// Handles says which writes the plugin wants to see.
func (e *Escalation) Handles(operation admission.Operation) bool {
	return operation == admission.Create || operation == admission.Update
}

// Validate is called with the object as it would be stored.
func (e *Escalation) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().Group != rbacv1.GroupName || a.GetSubresource() != "" {
		return nil
	}
	if u := a.GetUserInfo(); u != nil && slices.Contains(u.GetGroups(), user.SystemPrivilegedGroup) {
		return nil
	}
	verb, role, rules := granted(a.GetObject(), a.GetOldObject())
	if verb == bind {
		var err error
		if rules, err = e.rulesOf(ctx, role); err != nil {
			return apierrors.NewInternalError(fmt.Errorf("look up the role %s: %w", role.name, err))
		}
	}
	if len(rules) == 0 {
		return nil
	}
	covered, excess := validation.Covers(e.roles.rulesOf(a.GetUserInfo(), a.GetNamespace()), rules)
	if covered {
		return nil
	}
	decision, _, err := e.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: a.GetUserInfo(), Verb: verb, Namespace: role.namespace, Name: role.name,
		APIGroup: rbacv1.GroupName, APIVersion: "v1", Resource: role.resource(), ResourceRequest: true,
	})
	if err != nil {
		return apierrors.NewInternalError(fmt.Errorf("ask whether the author may %s %s: %w", verb, role.name, err))
	}
	if decision == authorizer.DecisionAllow {
		return nil
	}
	return apierrors.NewForbidden(a.GetResource().GroupResource(), a.GetName(), fmt.Errorf(
		"user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		a.GetUserInfo().GetName(), a.GetUserInfo().GetGroups(), describe(excess)))
}

func (p place) resource() string {
	if p.namespace == "" {
		return "clusterroles"
	}
	return "roles"
}

// everything is what a role may come to hold whose rules others fill in.
var everything = []rbacv1.PolicyRule{
	{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}},
	{NonResourceURLs: []string{"*"}, Verbs: []string{"*"}},
}

const (
	escalate = "escalate"
	bind     = "bind"
)

// granted is what a write gives to others: the verb that excuses an author who does not hold it, the role that verb
// is for and, unless a binding passes on what the role holds, the rules. A write that changes neither rules, role nor
// subjects grants nothing, and the verb is empty.
func granted(object, old runtime.Object) (verb string, role place, rules []rbacv1.PolicyRule) {
	same := apiequality.Semantic.DeepEqual
	switch o := object.(type) {
	case *rbacv1.Role:
		if before, ok := old.(*rbacv1.Role); ok && same(before.Rules, o.Rules) {
			return "", place{}, nil
		}
		return escalate, place{o.Namespace, o.Name}, o.Rules
	case *rbacv1.ClusterRole:
		if before, ok := old.(*rbacv1.ClusterRole); ok && same(before.Rules, o.Rules) && same(before.AggregationRule, o.AggregationRule) {
			return "", place{}, nil
		}
		if o.AggregationRule != nil {
			return escalate, place{"", o.Name}, everything
		}
		return escalate, place{"", o.Name}, o.Rules
	case *rbacv1.RoleBinding:
		if before, ok := old.(*rbacv1.RoleBinding); ok && same(before.RoleRef, o.RoleRef) && same(before.Subjects, o.Subjects) {
			return "", place{}, nil
		}
		return bind, rolePlace(o.Namespace, o.RoleRef), nil
	case *rbacv1.ClusterRoleBinding:
		if before, ok := old.(*rbacv1.ClusterRoleBinding); ok && same(before.RoleRef, o.RoleRef) && same(before.Subjects, o.Subjects) {
			return "", place{}, nil
		}
		return bind, rolePlace("", o.RoleRef), nil
	}
	return "", place{}, nil
}

// rulesOf is what a role holds. A role that is not there may come to hold everything.
func (e *Escalation) rulesOf(ctx context.Context, role place) ([]rbacv1.PolicyRule, error) {
	if rules, found := e.roles.index.rules(role); found {
		return rules, nil
	}
	if role.namespace == "" {
		found, err := e.client.ClusterRoles().Get(ctx, role.name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return everything, nil
		}
		return found.Rules, err
	}
	found, err := e.client.Roles(role.namespace).Get(ctx, role.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return everything, nil
	}
	return found.Rules, err
}

func describe(rules []rbacv1.PolicyRule) string {
	var lines []string
	for _, rule := range rules {
		var parts []string
		for _, part := range []struct {
			name   string
			values []string
		}{
			{"APIGroups", rule.APIGroups}, {"Resources", rule.Resources}, {"ResourceNames", rule.ResourceNames},
			{"NonResourceURLs", rule.NonResourceURLs}, {"Verbs", rule.Verbs},
		} {
			if len(part.values) > 0 {
				parts = append(parts, fmt.Sprintf("%s:%q", part.name, part.values))
			}
		}
		lines = append(lines, "{"+strings.Join(parts, ", ")+"}")
	}
	slices.Sort(lines)
	return strings.Join(slices.Compact(lines), "\n")
}
