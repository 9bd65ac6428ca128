package apiserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"knarr.dev/knarr/appliance/apiserver"
	"knarr.dev/knarr/appliance/apiserver/authn"
	"knarr.dev/knarr/appliance/apiserver/servertest"
)

func clientFor(t *testing.T, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// grant lets users do what rules say, everywhere.
func grant(t *testing.T, client kubernetes.Interface, name, user string, rules ...rbacv1.PolicyRule) {
	t.Helper()
	ctx, roles, bindings := within(t), client.RbacV1().ClusterRoles(), client.RbacV1().ClusterRoleBindings()
	if _, err := roles.Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := bindings.Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = bindings.Delete(context.Background(), name, metav1.DeleteOptions{})
		_ = roles.Delete(context.Background(), name, metav1.DeleteOptions{})
	})
	for _, rule := range rules {
		eventually(t, "the role "+name+" counts", func() bool {
			review, err := client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
				User: user, ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: rule.Verbs[0], Group: rule.APIGroups[0], Resource: rule.Resources[0]},
			}}, metav1.CreateOptions{})
			return err == nil && review.Status.Allowed
		})
	}
}

func as(config *rest.Config, user string) *rest.Config {
	config = rest.CopyConfig(config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user}
	return config
}

func TestImpersonation(t *testing.T) {
	ctx, client := within(t), admin(t)
	eventually(t, "the administrator is jane when asked to be, with the roles of everybody", func() bool {
		self, err := clientFor(t, as(server.Admin(), "jane")).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		return err == nil && self.Status.UserInfo.Username == "jane" && slices.Equal(self.Status.UserInfo.Groups, []string{"system:authenticated"})
	})
	// Who is another needs rights of their own; impersonating twice is not possible, so a service account does it.
	account, err := client.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "actor"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = client.CoreV1().ServiceAccounts("default").Delete(context.Background(), account.Name, metav1.DeleteOptions{})
	})
	token, err := client.CoreV1().ServiceAccounts("default").CreateToken(ctx, account.Name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	actor := server.Anonymous()
	actor.BearerToken = token.Status.Token
	asJane := clientFor(t, as(actor, "jane"))
	if _, err := asJane.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("jane by somebody who may not be her: %v, want Forbidden", err)
	}
	grant(t, client, "jane-reads", "jane", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"list", "get"}})
	const name = "system:serviceaccount:default:actor"
	// Constrained impersonation (KEP-5284): being jane for listing config maps, and nothing else.
	grant(t, client, "actor-is-jane", name,
		rbacv1.PolicyRule{APIGroups: []string{"authentication.k8s.io"}, Resources: []string{"users"}, Verbs: []string{"impersonate:user-info"}},
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"impersonate-on:user-info:list"}},
	)
	if _, err := asJane.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{}); err != nil {
		t.Errorf("jane for what is granted: %v", err)
	}
	if _, err := asJane.CoreV1().ConfigMaps("default").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("jane for what is not granted: %v, want Forbidden", err)
	}
	grant(t, client, "actor-may-be-anybody", name, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"users"}, Verbs: []string{"impersonate"}})
	eventually(t, "an older right to be jane counts", func() bool {
		_, err := asJane.CoreV1().ConfigMaps("default").Get(ctx, "none", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	if _, err := asJane.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("jane for what she may not: %v, want Forbidden", err)
	}
}

func TestRulesOfOneself(t *testing.T) {
	ctx, client := within(t), admin(t)
	grant(t, client, "reads-shop", "rules", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get"}, ResourceNames: nil})
	review, err := clientFor(t, as(server.Admin(), "rules")).AuthorizationV1().SelfSubjectRulesReviews().Create(ctx,
		&authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	listed := slices.ContainsFunc(review.Status.ResourceRules, func(r authorizationv1.ResourceRule) bool {
		return slices.Equal(r.Resources, []string{"configmaps"}) && slices.Equal(r.Verbs, []string{"get"})
	})
	if !listed || review.Status.Incomplete {
		t.Errorf("rules %+v", review.Status)
	}
}

// TestFilesOfTheOperator runs a server with all of them: users of an issuer, an authorizer's list, a record.
func TestFilesOfTheOperator(t *testing.T) {
	issuer, err := servertest.NewIssuer()
	if err != nil {
		t.Fatal(err)
	}
	defer issuer.Close()
	dir := t.TempDir()
	file := func(name, content string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca, err := json.Marshal(issuer.CA)
	if err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(dir, "audit", "audit.log")
	own, err := servertest.Start(dir, func(c *apiserver.Config) {
		c.AuthenticationConfig = file("authentication.yaml", fmt.Sprintf("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"+
			"jwt:\n- issuer: {url: %q, audiences: [knarr], certificateAuthority: %s}\n"+
			"  claimMappings: {username: {claim: sub, prefix: 'org:'}, groups: {claim: groups, prefix: 'org:'}}\n", issuer.URL, ca))
		c.AuthorizationConfig = file("authorization.yaml", "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n"+
			"authorizers: [{type: Node, name: node}, {type: RBAC, name: rbac}]\n")
	})
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			if err := own.Stop(); err != nil {
				t.Error(err)
			}
		}
	}
	defer stop()

	token, err := issuer.Token(map[string]any{"aud": "knarr", "sub": "jane", "groups": []string{"dev"}, "exp": time.Now().Add(time.Hour).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	config := own.Anonymous()
	config.BearerToken = token
	ctx := within(t)
	jane, administrator := clientFor(t, config), clientFor(t, own.Admin())
	eventually(t, "the issuer's user is known", func() bool {
		self, err := jane.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		return err == nil && self.Status.UserInfo.Username == "org:jane" &&
			slices.Equal(self.Status.UserInfo.Groups, []string{"org:dev", "system:authenticated"})
	})
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "recorded"}, StringData: map[string]string{"key": "open sesame"}}
	if _, err := jane.CoreV1().Secrets("default").Create(ctx, secret, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("without a role: %v, want Forbidden", err)
	}
	grant(t, administrator, "jane-writes", "org:jane", rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"create", "get"}})
	if _, err := jane.CoreV1().Secrets("default").Create(ctx, secret, metav1.CreateOptions{}); err != nil {
		t.Errorf("with a role: %v", err)
	}
	if _, err := jane.CoreV1().Secrets("default").Get(ctx, "recorded", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	stop()

	content, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(content), "open sesame") || strings.Contains(string(content), token) {
		t.Error("the record holds a Secret or a token")
	}
	type line struct {
		Verb           string
		User           struct{ Username string }
		ObjectRef      struct{ Resource, Name string }
		ResponseStatus struct{ Code int }
	}
	var found []string
	for text := range strings.Lines(string(content)) {
		var l line
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("line %q: %v", text, err)
		}
		if l.User.Username == "org:jane" {
			found = append(found, fmt.Sprint(l.Verb, " ", l.ObjectRef.Resource, " ", l.ResponseStatus.Code))
		}
		if l.User.Username == "system:apiserver" {
			t.Errorf("the work of controllers is on record: %s", text)
		}
	}
	if want := []string{"create secrets 403", "create secrets 201", "get secrets 200"}; !slices.Equal(found, want) {
		t.Errorf("jane's lines are %q; want %q", found, want)
	}
}

// TestATokenSecretLogsIn takes the controller's part: it is tested by itself.
func TestATokenSecretLogsIn(t *testing.T) {
	ctx, client := within(t), admin(t)
	signer, err := authn.NewSecretIssuer(server.PKI.ServiceAccountKey)
	if err != nil {
		t.Fatal(err)
	}
	accounts, secrets := client.CoreV1().ServiceAccounts("default"), client.CoreV1().Secrets("default")
	account, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "outside"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	token, err := signer.Sign(account, "outside-token")
	if err != nil {
		t.Fatal(err)
	}
	_, err = secrets.Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "outside-token", Annotations: map[string]string{corev1.ServiceAccountNameKey: "outside", corev1.ServiceAccountUIDKey: string(account.UID)}},
		Type:       corev1.SecretTypeServiceAccountToken, Data: map[string][]byte{"token": []byte(token)},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config := server.Anonymous()
	config.BearerToken = token
	outside := clientFor(t, config)
	self, err := outside.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || self.Status.UserInfo.Username != "system:serviceaccount:default:outside" {
		t.Fatalf("the token's user is %+v, %v", self, err)
	}
	secret, err := secrets.Get(ctx, "outside-token", metav1.GetOptions{})
	if err != nil || secret.Labels["kubernetes.io/legacy-token-last-used"] != time.Now().UTC().Format(time.DateOnly) {
		t.Errorf("labels %v, %v; want the day of use", secret.Labels, err)
	}
	if err := secrets.Delete(ctx, "outside-token", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := accounts.Delete(ctx, "outside", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the token ends with its Secret", func() bool {
		_, err := outside.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		return apierrors.IsUnauthorized(err)
	})
}
