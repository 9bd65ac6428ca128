package rbac

import (
	"fmt"
	"slices"
	"sync"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
)

// place names a role or a binding; a cluster-wide one has no namespace.
type place struct{ namespace, name string }

// subject is a user or a group; a service account is the user it logs in as.
type subject struct {
	group bool
	name  string
}

// binding gives a role to subjects within its namespace, or everywhere.
type binding struct {
	place
	role     place
	subjects []subject
}

func (b *binding) String() string {
	kind, role := "RoleBinding", "Role"
	name := b.namespace + "/" + b.name
	if b.namespace == "" {
		kind, name = "ClusterRoleBinding", b.name
	}
	if b.role.namespace == "" {
		role = "ClusterRole"
	}
	return fmt.Sprintf("%s %q of %s %q", kind, name, role, b.role.name)
}

// index finds the rules of a user without walking all bindings: a request is for one user of a few groups, while a
// cluster has hundreds of bindings. Lists in it are replaced, never changed, so that readers may keep them.
type index struct {
	mu        sync.RWMutex
	roles     map[place][]rbacv1.PolicyRule
	bindings  map[place]*binding
	bySubject map[subject][]*binding
}

func newIndex() *index {
	return &index{
		roles:     map[place][]rbacv1.PolicyRule{},
		bindings:  map[place]*binding{},
		bySubject: map[subject][]*binding{},
	}
}

func (x *index) setRole(at place, rules []rbacv1.PolicyRule) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.roles[at] = rules
}

func (x *index) dropRole(at place) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.roles, at)
}

func (x *index) setBinding(next *binding) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.unlink(next.place)
	x.bindings[next.place] = next
	for _, s := range next.subjects {
		x.bySubject[s] = append(slices.Clip(x.bySubject[s]), next)
	}
}

func (x *index) dropBinding(at place) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.unlink(at)
	delete(x.bindings, at)
}

// unlink takes a binding away from its subjects.
func (x *index) unlink(at place) {
	old := x.bindings[at]
	if old == nil {
		return
	}
	for _, s := range old.subjects {
		left := slices.DeleteFunc(slices.Clone(x.bySubject[s]), func(b *binding) bool { return b == old })
		if len(left) == 0 {
			delete(x.bySubject, s)
			continue
		}
		x.bySubject[s] = left
	}
}

// visit calls yield with each rule a user has in a namespace, until it returns false. missing are bindings whose
// role is not there. The lock is not held during yield.
func (x *index) visit(u user.Info, namespace string, yield func(*binding, *rbacv1.PolicyRule) bool) (missing []*binding) {
	if !x.visitSubject(subject{name: u.GetName()}, namespace, &missing, yield) {
		return missing
	}
	for _, group := range u.GetGroups() {
		if !x.visitSubject(subject{group: true, name: group}, namespace, &missing, yield) {
			break
		}
	}
	return missing
}

func (x *index) visitSubject(s subject, namespace string, missing *[]*binding, yield func(*binding, *rbacv1.PolicyRule) bool) bool {
	x.mu.RLock()
	bindings := x.bySubject[s]
	x.mu.RUnlock()
	for _, b := range bindings {
		if b.namespace != "" && b.namespace != namespace {
			continue
		}
		rules, found := x.rules(b.role)
		if !found {
			*missing = append(*missing, b)
		}
		for i := range rules {
			if !yield(b, &rules[i]) {
				return false
			}
		}
	}
	return true
}

func (x *index) rules(role place) ([]rbacv1.PolicyRule, bool) {
	x.mu.RLock()
	defer x.mu.RUnlock()
	rules, found := x.roles[role]
	return rules, found
}

// newBinding reads what both kinds of bindings have in common.
func newBinding(at place, ref rbacv1.RoleRef, subjects []rbacv1.Subject) *binding {
	b := &binding{place: at, role: rolePlace(at.namespace, ref)}
	for _, s := range subjects {
		var who subject
		switch s.Kind {
		case rbacv1.UserKind:
			who = subject{name: s.Name}
		case rbacv1.GroupKind:
			who = subject{group: true, name: s.Name}
		case rbacv1.ServiceAccountKind:
			namespace := s.Namespace
			if namespace == "" {
				namespace = at.namespace
			}
			if namespace == "" {
				continue // names no account
			}
			who = subject{name: serviceaccount.MakeUsername(namespace, s.Name)}
		default:
			continue
		}
		if !slices.Contains(b.subjects, who) {
			b.subjects = append(b.subjects, who)
		}
	}
	return b
}

// rolePlace is where the role of a binding in that namespace is.
func rolePlace(namespace string, ref rbacv1.RoleRef) place {
	if ref.Kind == "ClusterRole" {
		namespace = ""
	}
	return place{namespace, ref.Name}
}
