package baseline

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"knarr.dev/knarr/appliance/apiserver/authz/rbac"
)

func writes(client *fake.Clientset) []string {
	var out []string
	for _, action := range client.Actions() {
		switch action := action.(type) {
		case clienttesting.UpdateActionImpl: // a create action has the same methods, hence the concrete type
			out = append(out, "update "+action.GetResource().Resource+" "+action.Object.(metav1.Object).GetName())
		case clienttesting.CreateActionImpl:
			out = append(out, "create "+action.GetResource().Resource+" "+action.Object.(metav1.Object).GetName())
		case clienttesting.DeleteActionImpl:
			out = append(out, "delete "+action.GetResource().Resource+" "+action.GetName())
		}
	}
	slices.Sort(out)
	client.ClearActions()
	return out
}

func TestKeepTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset()
		failing := 3
		client.PrependReactor("list", "clusterroles", func(clienttesting.Action) (bool, runtime.Object, error) {
			if failing--; failing >= 0 {
				return true, nil, errors.New("no leader")
			}
			return false, nil, nil
		})
		began := time.Now()
		Keep(t.Context(), client.RbacV1(), slog.New(slog.DiscardHandler))
		if took := time.Since(began); took != 7*time.Second {
			t.Errorf("took %v; want waits of 1, 2 and 4 s", took)
		}
		if _, err := client.RbacV1().ClusterRoleBindings().Get(t.Context(), "cluster-admin", metav1.GetOptions{}); err != nil {
			t.Errorf("after three failures: %v", err)
		}
	})
}

func TestKeepEndsWithItsServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		client := fake.NewClientset()
		client.PrependReactor("list", "*", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("no leader") })
		Keep(ctx, client.RbacV1(), slog.New(slog.DiscardHandler))
	})
}

func TestSettle(t *testing.T) {
	ctx := t.Context()
	tests := map[string]struct {
		change func(t *testing.T, client *fake.Clientset)
		want   []string
	}{
		"nothing differs, nothing is written": {change: func(*testing.T, *fake.Clientset) {}},
		"a deleted role comes back": {
			change: func(t *testing.T, client *fake.Clientset) {
				must(t, client.RbacV1().ClusterRoles().Delete(ctx, "view", metav1.DeleteOptions{}))
			},
			want: []string{"create clusterroles view"},
		},
		"a missing rule is added": {
			change: func(t *testing.T, client *fake.Clientset) {
				editRole(t, client, "system:basic-user", func(role *rbacv1.ClusterRole) { role.Rules = role.Rules[:1] })
			},
			want: []string{"update clusterroles system:basic-user"},
		},
		"a rule more stays": {
			change: func(t *testing.T, client *fake.Clientset) {
				editRole(t, client, "system:basic-user", func(role *rbacv1.ClusterRole) { role.Rules = append(role.Rules, read.on(core, "pods")) })
			},
		},
		"the filled rules of an aggregated role stay": {
			change: func(t *testing.T, client *fake.Clientset) {
				editRole(t, client, "view", func(role *rbacv1.ClusterRole) { role.Rules = viewRules() })
			},
		},
		"a role its user protects stays as it is": {
			change: func(t *testing.T, client *fake.Clientset) {
				editRole(t, client, "system:basic-user", func(role *rbacv1.ClusterRole) {
					role.Rules, role.Annotations[rbacv1.AutoUpdateAnnotationKey] = nil, "false"
				})
			},
		},
		"a subject taken away comes back": {
			change: func(t *testing.T, client *fake.Clientset) {
				binding, err := client.RbacV1().ClusterRoleBindings().Get(ctx, "system:discovery", metav1.GetOptions{})
				must(t, err)
				binding.Subjects = nil
				_, err = client.RbacV1().ClusterRoleBindings().Update(ctx, binding, metav1.UpdateOptions{})
				must(t, err)
			},
			want: []string{"update clusterrolebindings system:discovery"},
		},
		"a binding to another role is made anew": {
			change: func(t *testing.T, client *fake.Clientset) {
				binding, err := client.RbacV1().ClusterRoleBindings().Get(ctx, "system:discovery", metav1.GetOptions{})
				must(t, err)
				binding.RoleRef.Name = "cluster-admin"
				_, err = client.RbacV1().ClusterRoleBindings().Update(ctx, binding, metav1.UpdateOptions{})
				must(t, err)
			},
			want: []string{"create clusterrolebindings system:discovery", "delete clusterrolebindings system:discovery"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			client := fake.NewClientset()
			must(t, Settle(ctx, client.RbacV1()))
			all := len(clusterRoles()) + len(clusterRoleBindings()) + len(roles()) + len(roleBindings())
			if first := writes(client); len(first) != all || !strings.HasPrefix(first[0], "create ") {
				t.Errorf("the first pass wrote %d objects; want %d", len(first), all)
			}
			tc.change(t, client)
			client.ClearActions()
			must(t, Settle(ctx, client.RbacV1()))
			if diff := cmp.Diff(tc.want, writes(client)); diff != "" {
				t.Errorf("the second pass wrote (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEveryBindingHasItsRole(t *testing.T) {
	known := map[string]bool{}
	for _, role := range clusterRoles() {
		if known[role.Name] {
			t.Errorf("ClusterRole %s is there twice", role.Name)
		}
		known[role.Name] = true
	}
	for _, role := range roles() {
		known[role.Namespace+"/"+role.Name] = true
	}
	for _, b := range clusterRoleBindings() {
		if !known[b.RoleRef.Name] {
			t.Errorf("ClusterRoleBinding %s is of %s, which is not there", b.Name, b.RoleRef.Name)
		}
	}
	for _, b := range roleBindings() {
		if !known[b.Namespace+"/"+b.RoleRef.Name] {
			t.Errorf("RoleBinding %s is of %s, which is not there", b.Name, b.RoleRef.Name)
		}
	}
}

// What people count on, asked of the real authorizer over the default roles.
func TestWhoMayWhat(t *testing.T) {
	client := fake.NewClientset()
	must(t, Settle(t.Context(), client.RbacV1()))
	for name, role := range map[string]string{"alice": "admin", "eve": "edit", "victor": "view"} {
		_, err := client.RbacV1().RoleBindings("shop").Create(t.Context(), &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacGroup, Kind: "ClusterRole", Name: "system:aggregate-to-" + role},
			Subjects:   users(name),
		}, metav1.CreateOptions{})
		must(t, err)
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	roles, err := rbac.New(factory.Rbac().V1())
	must(t, err)
	factory.Start(t.Context().Done())
	factory.WaitForCacheSync(t.Context().Done())
	for !roles.Synced() { // the handlers' turn comes right after the caches'
		if t.Context().Err() != nil {
			t.Fatal("not synced")
		}
	}
	master, nobody := []string{"system:masters", "system:authenticated"}, []string{"system:unauthenticated"}
	someone, node := []string{"system:authenticated"}, []string{"system:nodes", "system:authenticated"}
	tests := map[string]struct {
		name   string
		groups []string
		verb   string
		what   string // namespace/resource.group or a path
		want   bool
	}{
		"a master deletes nodes":                          {"root", master, "delete", "/nodes.", true},
		"a master reads any path":                         {"root", master, "get", "/debug/pprof", true},
		"anybody reads the version":                       {"system:anonymous", nobody, "get", "/version", true},
		"a stranger does not discover":                    {"system:anonymous", nobody, "get", "/apis", false},
		"a user discovers":                                {"zoe", someone, "get", "/apis/apps/v1", true},
		"a user asks about themselves":                    {"zoe", someone, "create", "/selfsubjectaccessreviews.authorization.k8s.io", true},
		"a user reads no pods":                            {"zoe", someone, "list", "shop/pods.", false},
		"a viewer reads pods":                             {"victor", someone, "list", "shop/pods.", true},
		"a viewer reads no secrets":                       {"victor", someone, "get", "shop/secrets.", false},
		"a viewer writes nothing":                         {"victor", someone, "create", "shop/pods.", false},
		"a viewer stays in their namespace":               {"victor", someone, "list", "other/pods.", false},
		"an editor writes deployments":                    {"eve", someone, "patch", "shop/deployments.apps", true},
		"an editor makes no roles":                        {"eve", someone, "create", "shop/roles.rbac.authorization.k8s.io", false},
		"an administrator makes roles":                    {"alice", someone, "create", "shop/roles.rbac.authorization.k8s.io", true},
		"a node reads services and slices":                {"system:node:a", node, "watch", "/endpointslices.discovery.k8s.io", true},
		"a node reads whom to ask about names":            {"system:node:a", node, "watch", "kube-system/configmaps./kube-dns", true},
		"a node reads no other settings":                  {"system:node:a", node, "watch", "kube-system/configmaps./theirs", false},
		"a node reads no secrets by a role":               {"system:node:a", node, "get", "shop/secrets.", false},
		"a node renews its certificate":                   {"system:node:a", node, "create", "/certificatesigningrequests/selfnodeclient.certificates.k8s.io", true},
		"a joining machine asks for a certificate":        {"system:bootstrap:abc123", []string{"system:bootstrappers:knarr:nodes"}, "create", "/certificatesigningrequests.certificates.k8s.io", true},
		"a joining machine may become a node":             {"system:bootstrap:abc123", []string{"system:bootstrappers:knarr:nodes"}, "create", "/certificatesigningrequests/nodeclient.certificates.k8s.io", true},
		"another token's machine may not":                 {"system:bootstrap:abc123", []string{"system:bootstrappers"}, "create", "/certificatesigningrequests/nodeclient.certificates.k8s.io", false},
		"the API server reaches logs on nodes":            {"kube-apiserver-kubelet-client", someone, "get", "/nodes/proxy.", true},
		"the API server does no more with its node login": {"kube-apiserver-kubelet-client", someone, "delete", "/nodes.", false},
		"a service account reads the issuer's keys":       {"system:serviceaccount:shop:default", []string{"system:serviceaccounts"}, "get", "/openid/v1/jwks", true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			request := authorizer.AttributesRecord{User: &user.DefaultInfo{Name: tc.name, Groups: tc.groups}, Verb: tc.verb, Path: tc.what}
			if resource, group, ok := strings.Cut(tc.what, "."); ok && !strings.Contains(tc.what, "well-known") {
				request.ResourceRequest, request.Path = true, ""
				request.APIGroup, request.Name, _ = strings.Cut(group, "/")
				request.Namespace, request.Resource, _ = strings.Cut(resource, "/")
				request.Resource, request.Subresource, _ = strings.Cut(request.Resource, "/")
			}
			decision, reason, err := roles.Authorize(t.Context(), request)
			must(t, err)
			if got := decision == authorizer.DecisionAllow; got != tc.want {
				t.Errorf("%s %s by %s: %v (%s); want %v", tc.verb, tc.what, tc.name, got, reason, tc.want)
			}
		})
	}
}

func editRole(t *testing.T, client *fake.Clientset, name string, change func(role *rbacv1.ClusterRole)) {
	t.Helper()
	role, err := client.RbacV1().ClusterRoles().Get(t.Context(), name, metav1.GetOptions{})
	must(t, err)
	change(role)
	_, err = client.RbacV1().ClusterRoles().Update(t.Context(), role, metav1.UpdateOptions{})
	must(t, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
