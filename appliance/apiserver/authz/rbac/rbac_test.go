package rbac

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
)

func rule(verbs, groups, resources, names string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: split(verbs), APIGroups: strings.Split(groups, ","), Resources: split(resources), ResourceNames: split(names)}
}

func urlRule(verbs, urls string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: split(verbs), NonResourceURLs: split(urls)}
}

func split(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, ",")
}

func TestAllows(t *testing.T) {
	request := func(verb, group, resource, subresource, name string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{Verb: verb, APIGroup: group, Resource: resource, Subresource: subresource, Name: name, ResourceRequest: true}
	}
	path := func(verb, path string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{Verb: verb, Path: path}
	}
	tests := map[string]struct {
		rule    rbacv1.PolicyRule
		request authorizer.AttributesRecord
		want    bool
	}{
		"what it names":    {rule("get", "", "pods", ""), request("get", "", "pods", "", "a"), true},
		"another verb":     {rule("get", "", "pods", ""), request("list", "", "pods", "", ""), false},
		"another group":    {rule("get", "apps", "pods", ""), request("get", "", "pods", "", "a"), false},
		"another resource": {rule("get", "", "pods", ""), request("get", "", "nodes", "", "a"), false},
		"a resource does not hold its subresources":      {rule("get", "", "pods", ""), request("get", "", "pods", "log", "a"), false},
		"a subresource does not hold its resource":       {rule("get", "", "pods/log", ""), request("get", "", "pods", "", "a"), false},
		"a subresource it names":                         {rule("get", "", "pods/log", ""), request("get", "", "pods", "log", "a"), true},
		"any verb":                                       {rule("*", "", "pods", ""), request("delete", "", "pods", "", "a"), true},
		"any group":                                      {rule("get", "*", "pods", ""), request("get", "metrics.k8s.io", "pods", "", "a"), true},
		"any resource holds subresources":                {rule("get", "", "*", ""), request("get", "", "pods", "log", "a"), true},
		"a subresource of anything":                      {rule("update", "*", "*/scale", ""), request("update", "apps", "deployments", "scale", "a"), true},
		"a subresource of anything is not another":       {rule("update", "*", "*/scale", ""), request("update", "apps", "deployments", "status", "a"), false},
		"a subresource of anything is not the resource":  {rule("update", "*", "*/scale", ""), request("update", "apps", "deployments", "", "a"), false},
		"a name it names":                                {rule("get", "", "pods", "a,b"), request("get", "", "pods", "", "b"), true},
		"a name it does not name":                        {rule("get", "", "pods", "a,b"), request("get", "", "pods", "", "c"), false},
		"a list has no name":                             {rule("list", "", "pods", "a"), request("list", "", "pods", "", ""), false},
		"a path":                                         {urlRule("get", "/version"), path("get", "/version"), true},
		"a longer path":                                  {urlRule("get", "/version"), path("get", "/version/x"), false},
		"the beginning of a path":                        {urlRule("get", "/apis/*"), path("get", "/apis/apps/v1"), true},
		"the beginning of a path without its slash":      {urlRule("get", "/apis/*"), path("get", "/apis"), false},
		"any path":                                       {urlRule("get", "*"), path("get", "/metrics"), true},
		"a path with another verb":                       {urlRule("get", "*"), path("post", "/metrics"), false},
		"a path rule allows no resources":                {urlRule("*", "*"), request("get", "", "pods", "", "a"), false},
		"a resource rule allows no paths":                {rule("*", "*", "*", ""), path("get", "/metrics"), false},
		"a star in the middle of a path stands for none": {urlRule("get", "/a/*/c"), path("get", "/a/b/c"), false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Allows(&tc.rule, tc.request); got != tc.want {
				t.Errorf("Allows(%v, %v) = %v; want %v", tc.rule, tc.request, got, tc.want)
			}
		})
	}
}

func role(namespace, name string, rules ...rbacv1.PolicyRule) *rbacv1.Role {
	return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Rules: rules}
}

func clusterRole(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
}

func subjectOf(kind, namespace, name string) rbacv1.Subject {
	return rbacv1.Subject{Kind: kind, Namespace: namespace, Name: name}
}

func roleBinding(namespace, name, kind, role string, subjects ...rbacv1.Subject) *rbacv1.RoleBinding {
	return &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role}, Subjects: subjects,
	}
}

func clusterRoleBinding(name, role string, subjects ...rbacv1.Subject) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}, Subjects: subjects,
	}
}

func newAuthorizer(objects ...any) *Authorizer {
	a := &Authorizer{index: newIndex()}
	a.AuthorizerFunc = a.decide
	for _, object := range objects {
		a.set(object)
	}
	return a
}

func podReader() []any {
	return []any{role("shop", "reader", rule("get,list", "", "pods", "")), clusterRole("reader", rule("get,list", "", "pods", ""))}
}

func TestAuthorize(t *testing.T) {
	tests := map[string]struct {
		objects   []any
		change    func(a *Authorizer)
		user      user.DefaultInfo
		namespace string
		want      authorizer.Decision
		reason    string
	}{
		"without a binding": {user: user.DefaultInfo{Name: "ann"}, namespace: "shop", want: authorizer.DecisionNoOpinion},
		"a user's role": {
			objects: []any{roleBinding("shop", "b", "Role", "reader", subjectOf("User", "", "ann"))},
			user:    user.DefaultInfo{Name: "ann"}, namespace: "shop", want: authorizer.DecisionAllow,
			reason: `RBAC: allowed by RoleBinding "shop/b" of Role "reader"`,
		},
		"a role counts in its namespace only": {
			objects: []any{roleBinding("shop", "b", "Role", "reader", subjectOf("User", "", "ann"))},
			user:    user.DefaultInfo{Name: "ann"}, namespace: "other", want: authorizer.DecisionNoOpinion,
		},
		"a cluster role bound in a namespace counts there": {
			objects: []any{roleBinding("shop", "b", "ClusterRole", "reader", subjectOf("User", "", "ann"))},
			user:    user.DefaultInfo{Name: "ann"}, namespace: "shop", want: authorizer.DecisionAllow,
		},
		"and not for the whole cluster": {
			objects: []any{roleBinding("shop", "b", "ClusterRole", "reader", subjectOf("User", "", "ann"))},
			user:    user.DefaultInfo{Name: "ann"}, want: authorizer.DecisionNoOpinion,
		},
		"a cluster role counts everywhere": {
			objects: []any{clusterRoleBinding("b", "reader", subjectOf("Group", "", "staff"))},
			user:    user.DefaultInfo{Name: "ann", Groups: []string{"x", "staff"}}, namespace: "other", want: authorizer.DecisionAllow,
			reason: `RBAC: allowed by ClusterRoleBinding "b" of ClusterRole "reader"`,
		},
		"a group is not a user of its name": {
			objects: []any{clusterRoleBinding("b", "reader", subjectOf("Group", "", "ann"))},
			user:    user.DefaultInfo{Name: "ann"}, want: authorizer.DecisionNoOpinion,
		},
		"a service account": {
			objects: []any{clusterRoleBinding("b", "reader", subjectOf("ServiceAccount", "ci", "bot"))},
			user:    user.DefaultInfo{Name: "system:serviceaccount:ci:bot"}, namespace: "shop", want: authorizer.DecisionAllow,
		},
		"a service account of the binding's own namespace": {
			objects: []any{roleBinding("shop", "b", "Role", "reader", subjectOf("ServiceAccount", "", "bot"))},
			user:    user.DefaultInfo{Name: "system:serviceaccount:shop:bot"}, namespace: "shop", want: authorizer.DecisionAllow,
		},
		"a service account without any namespace is nobody": {
			objects: []any{clusterRoleBinding("b", "reader", subjectOf("ServiceAccount", "", "bot"))},
			user:    user.DefaultInfo{Name: "system:serviceaccount::bot"}, namespace: "shop", want: authorizer.DecisionNoOpinion,
		},
		"a binding without its role": {
			objects: []any{clusterRoleBinding("b", "gone", subjectOf("User", "", "ann"))},
			user:    user.DefaultInfo{Name: "ann"}, want: authorizer.DecisionNoOpinion,
			reason: `RBAC: the role is missing of ClusterRoleBinding "b" of ClusterRole "gone"`,
		},
		"a binding that lost its subject": {
			objects: []any{clusterRoleBinding("b", "reader", subjectOf("User", "", "ann"))},
			change:  func(a *Authorizer) { a.set(clusterRoleBinding("b", "reader", subjectOf("User", "", "bob"))) },
			user:    user.DefaultInfo{Name: "ann"}, want: authorizer.DecisionNoOpinion,
		},
		"a binding that was deleted": {
			objects: []any{clusterRoleBinding("b", "reader", subjectOf("User", "", "ann"))},
			change: func(a *Authorizer) {
				a.drop(cache.DeletedFinalStateUnknown{Obj: clusterRoleBinding("b", "reader")})
			},
			user: user.DefaultInfo{Name: "ann"}, want: authorizer.DecisionNoOpinion,
		},
		"one of two bindings that was deleted": {
			objects: []any{
				clusterRoleBinding("b", "reader", subjectOf("User", "", "ann")), clusterRoleBinding("c", "reader", subjectOf("User", "", "ann")),
			},
			change: func(a *Authorizer) { a.drop(clusterRoleBinding("b", "reader")) },
			user:   user.DefaultInfo{Name: "ann"}, want: authorizer.DecisionAllow, reason: `RBAC: allowed by ClusterRoleBinding "c" of ClusterRole "reader"`,
		},
		"a role that lost its rules": {
			objects: []any{clusterRoleBinding("b", "reader", subjectOf("User", "", "ann"))},
			change:  func(a *Authorizer) { a.set(clusterRole("reader")) },
			user:    user.DefaultInfo{Name: "ann"}, want: authorizer.DecisionNoOpinion,
		},
		"a role that was deleted": {
			objects: []any{roleBinding("shop", "b", "Role", "reader", subjectOf("User", "", "ann"))},
			change:  func(a *Authorizer) { a.drop(role("shop", "reader")) },
			user:    user.DefaultInfo{Name: "ann"}, namespace: "shop", want: authorizer.DecisionNoOpinion,
			reason: `RBAC: the role is missing of RoleBinding "shop/b" of Role "reader"`,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			a := newAuthorizer(append(podReader(), tc.objects...)...)
			if tc.change != nil {
				tc.change(a)
			}
			got, reason, err := a.Authorize(t.Context(), authorizer.AttributesRecord{
				User: &tc.user, Verb: "list", Resource: "pods", Namespace: tc.namespace, ResourceRequest: true,
			})
			if err != nil || got != tc.want || tc.reason != "" && reason != tc.reason {
				t.Errorf("Authorize() = %v, %q, %v; want %v, %q", got, reason, err, tc.want, tc.reason)
			}
		})
	}
}

func TestRulesFor(t *testing.T) {
	a := newAuthorizer(append(podReader(),
		clusterRole("urls", urlRule("get", "/version")),
		roleBinding("shop", "b", "Role", "reader", subjectOf("User", "", "ann")),
		clusterRoleBinding("u", "urls", subjectOf("Group", "", "staff")),
	)...)
	ann := &user.DefaultInfo{Name: "ann", Groups: []string{"staff"}}
	resources, urls, incomplete, err := a.RulesFor(t.Context(), ann, "shop")
	if err != nil || incomplete {
		t.Fatal(incomplete, err)
	}
	wantResources := []authorizer.ResourceRuleInfo{&authorizer.DefaultResourceRuleInfo{Verbs: []string{"get", "list"}, APIGroups: []string{""}, Resources: []string{"pods"}}}
	if diff := cmp.Diff(wantResources, resources); diff != "" {
		t.Errorf("resources (-want +got):\n%s", diff)
	}
	wantURLs := []authorizer.NonResourceRuleInfo{&authorizer.DefaultNonResourceRuleInfo{Verbs: []string{"get"}, NonResourceURLs: []string{"/version"}}}
	if diff := cmp.Diff(wantURLs, urls); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
	if resources, _, _, err := a.RulesFor(t.Context(), ann, "other"); err != nil || len(resources) != 0 {
		t.Errorf("in another namespace: %v, %v; want none", resources, err)
	}
}

func TestEscalation(t *testing.T) {
	var (
		lister  = rule("get,list", "", "pods", "")
		deleter = rule("delete", "", "pods", "")
		some    = []rbacv1.Subject{subjectOf("User", "", "eve")}
		editor  = []any{role("shop", "editor", lister), roleBinding("shop", "ann", "Role", "editor", subjectOf("User", "", "ann"))}
		excused = func(verb, resource string) []any { // ann may do verb to the role named strong
			return append(editor, clusterRole("excuse", rule(verb, "rbac.authorization.k8s.io", resource, "strong")),
				clusterRoleBinding("excuse", "excuse", subjectOf("User", "", "ann")))
		}
		labelled = func(r *rbacv1.Role) *rbacv1.Role { r.Labels = map[string]string{"a": "b"}; return r }
	)
	aggregated := clusterRole("strong", lister)
	aggregated.AggregationRule = &rbacv1.AggregationRule{}
	tests := map[string]struct {
		state       []any
		stored      []runtime.Object // what the client finds
		groups      []string
		object, old runtime.Object
		err         string
	}{
		"a role within one's own":                        {state: editor, object: role("shop", "strong", lister)},
		"a role within one's own, verb by verb":          {state: editor, object: role("shop", "strong", rule("get", "", "pods", ""), rule("list", "", "pods", "x"))},
		"a role beyond one's own":                        {state: editor, object: role("shop", "strong", lister, deleter), err: `{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}`},
		"a role within one's own of another namespace":   {state: editor, object: role("other", "strong", lister), err: "not currently held"},
		"a cluster role within one's namespaced own":     {state: editor, object: clusterRole("strong", lister), err: "not currently held"},
		"a role beyond one's own, with escalate":         {state: excused("escalate", "roles"), object: role("shop", "strong", deleter)},
		"a role beyond one's own, with bind":             {state: excused("bind", "roles"), object: role("shop", "strong", deleter), err: "not currently held"},
		"a role beyond one's own as a master":            {groups: []string{"system:masters"}, object: role("shop", "strong", deleter)},
		"a label on a role beyond one's own":             {state: editor, object: labelled(role("shop", "strong", deleter)), old: role("shop", "strong", deleter)},
		"a rule more on a role":                          {state: editor, object: role("shop", "strong", lister, deleter), old: role("shop", "strong", lister), err: "not currently held"},
		"a role that others will fill":                   {state: editor, object: aggregated, err: `Resources:["*"]`},
		"a role that others will fill, with escalate":    {state: excused("escalate", "clusterroles"), object: aggregated},
		"a binding of a role within one's own":           {state: editor, object: roleBinding("shop", "b", "Role", "editor", some...)},
		"a binding of a role beyond one's own":           {state: append(editor, role("shop", "strong", deleter)), object: roleBinding("shop", "b", "Role", "strong", some...), err: "not currently held"},
		"a binding beyond one's own, with bind":          {state: append(excused("bind", "roles"), role("shop", "strong", deleter)), object: roleBinding("shop", "b", "Role", "strong", some...)},
		"a binding beyond one's own, with escalate":      {state: append(excused("escalate", "roles"), role("shop", "strong", deleter)), object: roleBinding("shop", "b", "Role", "strong", some...), err: "not currently held"},
		"a binding of a cluster role in one's namespace": {state: append(editor, clusterRole("strong", lister)), object: roleBinding("shop", "b", "ClusterRole", "strong", some...)},
		"the same for the whole cluster":                 {state: append(editor, clusterRole("strong", lister)), object: clusterRoleBinding("b", "strong", some...), err: "not currently held"},
		"a binding of a role that is not there":          {state: editor, object: roleBinding("shop", "b", "Role", "later", some...), err: `Resources:["*"]`},
		"a binding of a role made a moment ago":          {state: editor, stored: []runtime.Object{role("shop", "fresh", lister)}, object: roleBinding("shop", "b", "Role", "fresh", some...)},
		"a subject more":                                 {state: append(editor, role("shop", "strong", deleter)), object: roleBinding("shop", "b", "Role", "strong", some...), old: roleBinding("shop", "b", "Role", "strong"), err: "not currently held"},
		"a binding that stays":                           {state: append(editor, role("shop", "strong", deleter)), object: roleBinding("shop", "b", "Role", "strong", some...), old: roleBinding("shop", "b", "Role", "strong", some...)},
		"a role that gives nothing":                      {object: role("shop", "strong")},
	}
	resources := map[string]string{"Role": "roles", "ClusterRole": "clusterroles", "RoleBinding": "rolebindings", "ClusterRoleBinding": "clusterrolebindings"}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			roles := newAuthorizer(tc.state...)
			plugin := NewEscalation(roles, roles, fake.NewClientset(tc.stored...).RbacV1())
			kind := kindOf(tc.object)
			meta := tc.object.(metav1.Object)
			operation := admission.Create
			if tc.old != nil {
				operation = admission.Update
			}
			err := plugin.Validate(t.Context(), admission.NewAttributesRecord(tc.object, tc.old,
				rbacv1.SchemeGroupVersion.WithKind(kind), meta.GetNamespace(), meta.GetName(), rbacv1.SchemeGroupVersion.WithResource(resources[kind]), "",
				operation, nil, false, &user.DefaultInfo{Name: "ann", Groups: tc.groups}), nil)
			if tc.err == "" && err != nil || tc.err != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tc.err)) {
				t.Errorf("Validate() = %v; want %q", err, tc.err)
			}
		})
	}
	if err := NewEscalation(newAuthorizer(), newAuthorizer(), nil).Validate(t.Context(), admission.NewAttributesRecord(nil, nil, schema.GroupVersionKind{}, "", "",
		schema.GroupVersionResource{Version: "v1", Resource: "pods"}, "", admission.Create, nil, false, &user.DefaultInfo{Name: "ann"}), nil); err != nil {
		t.Errorf("a pod: %v", err)
	}
}

func kindOf(object runtime.Object) string {
	switch object.(type) {
	case *rbacv1.Role:
		return "Role"
	case *rbacv1.ClusterRole:
		return "ClusterRole"
	case *rbacv1.RoleBinding:
		return "RoleBinding"
	}
	return "ClusterRoleBinding"
}

// A user of two groups among five hundred bindings of others.
func BenchmarkAuthorize(b *testing.B) {
	objects := podReader()
	for i := range 500 {
		objects = append(objects, clusterRoleBinding("b"+string(rune('a'+i%26))+string(rune('a'+i/26)), "reader", subjectOf("User", "", "u"+string(rune('a'+i)))))
	}
	objects = append(objects, clusterRoleBinding("staff", "reader", subjectOf("Group", "", "staff")))
	a := newAuthorizer(objects...)
	request := authorizer.AttributesRecord{
		User: &user.DefaultInfo{Name: "ann", Groups: []string{"system:authenticated", "staff"}},
		Verb: "list", Resource: "pods", Namespace: "shop", ResourceRequest: true,
	}
	for b.Loop() {
		if decision, _, _ := a.Authorize(b.Context(), request); decision != authorizer.DecisionAllow {
			b.Fatal(decision)
		}
	}
}
