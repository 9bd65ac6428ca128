package clusterrole

import (
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
)

func rule(resource string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{""}, Resources: []string{resource}}
}

func part(name, label string, resources ...string) rbacv1.ClusterRole {
	role := rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{label: "true"}}}
	for _, resource := range resources {
		role.Rules = append(role.Rules, rule(resource))
	}
	return role
}

func whole(name string, labels ...string) *rbacv1.ClusterRole {
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, AggregationRule: &rbacv1.AggregationRule{}}
	for _, label := range labels {
		role.AggregationRule.ClusterRoleSelectors = append(role.AggregationRule.ClusterRoleSelectors,
			metav1.LabelSelector{MatchLabels: map[string]string{label: "true"}})
	}
	return role
}

func TestAggregate(t *testing.T) {
	plain := part("plain", "", "pods")
	itself := whole("view", "to-view")
	itself.Labels, itself.Rules = map[string]string{"to-view": "true"}, []rbacv1.PolicyRule{rule("stale")}
	tests := map[string]struct {
		whole *rbacv1.ClusterRole
		all   []rbacv1.ClusterRole
		want  []rbacv1.PolicyRule
	}{
		"a role without an aggregation keeps its rules": {whole: &plain, all: []rbacv1.ClusterRole{part("a", "", "nodes")}, want: []rbacv1.PolicyRule{rule("pods")}},
		"no part, no rules":                             {whole: whole("view", "to-view")},
		"parts in the order of their names":             {whole: whole("view", "to-view"), all: []rbacv1.ClusterRole{part("b", "to-view", "pods"), part("a", "to-view", "nodes")}, want: []rbacv1.PolicyRule{rule("nodes"), rule("pods")}},
		"a rule two parts have counts once":             {whole: whole("view", "to-view"), all: []rbacv1.ClusterRole{part("a", "to-view", "pods"), part("b", "to-view", "pods")}, want: []rbacv1.PolicyRule{rule("pods")}},
		"parts of another whole stay out":               {whole: whole("view", "to-view"), all: []rbacv1.ClusterRole{part("a", "to-edit", "pods")}},
		"either of two selectors":                       {whole: whole("view", "to-view", "to-edit"), all: []rbacv1.ClusterRole{part("a", "to-edit", "pods"), part("b", "to-view", "nodes")}, want: []rbacv1.PolicyRule{rule("pods"), rule("nodes")}},
		"a whole is not part of itself":                 {whole: itself, all: []rbacv1.ClusterRole{*itself, part("a", "to-view", "pods")}, want: []rbacv1.PolicyRule{rule("pods")}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := aggregate(tc.whole, tc.all)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("rules (-want +got):\n%s", diff)
			}
		})
	}
	broken := whole("view")
	broken.AggregationRule.ClusterRoleSelectors = []metav1.LabelSelector{{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "?"}}}}
	if _, err := aggregate(broken, nil); err == nil {
		t.Error("a selector that cannot be read is taken for nothing")
	}
}

func TestReconcile(t *testing.T) {
	a, b := part("a", "to-view", "pods"), part("b", "to-view", "nodes")
	cluster := fake.NewClientBuilder().WithScheme(scheme.Scheme).WithObjects(whole("view", "to-view"), &a, &b).Build()
	r := &Reconciler{client: cluster, log: slog.New(slog.DiscardHandler)}
	requests := r.wholes(t.Context(), &a)
	if len(requests) != 1 || requests[0].Name != "view" {
		t.Fatalf("wholes() = %v; want view", requests)
	}
	version := ""
	for range 2 { // the second pass writes nothing
		if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: requests[0].NamespacedName}); err != nil {
			t.Fatal(err)
		}
		view := &rbacv1.ClusterRole{}
		if err := cluster.Get(t.Context(), client.ObjectKey{Name: "view"}, view); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]rbacv1.PolicyRule{rule("pods"), rule("nodes")}, view.Rules); diff != "" {
			t.Errorf("rules (-want +got):\n%s", diff)
		}
		if version != "" && version != view.ResourceVersion {
			t.Error("a pass that changes nothing wrote the role")
		}
		version = view.ResourceVersion
	}
}
