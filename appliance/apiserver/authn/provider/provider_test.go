package provider_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"

	"knarr.dev/knarr/appliance/apiserver/authn/provider"
	"knarr.dev/knarr/appliance/apiserver/servertest"
)

const clusterIssuer = "https://kubernetes.default.svc.cluster.local"

// configuration names an issuer and what is made of its claims.
func configuration(issuer *servertest.Issuer, rules string) string {
	ca, err := json.Marshal(issuer.CA) // JSON strings are YAML
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {url: %q, audiences: [knarr], certificateAuthority: %s}\n%s", issuer.URL, ca, rules)
}

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "authentication.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newIssuer(t *testing.T) *servertest.Issuer {
	t.Helper()
	issuer, err := servertest.NewIssuer()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(issuer.Close)
	return issuer
}

func open(t *testing.T, path string) *provider.Issuers {
	t.Helper()
	issuers, err := provider.OpenIssuers(t.Context(), path, clusterIssuer)
	if err != nil {
		t.Fatal(err)
	}
	// An issuer is asked for its keys in the background.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := issuers.Answers(ctx); err != nil {
		t.Fatal(err)
	}
	return issuers
}

func TestJWT(t *testing.T) {
	issuer, stranger := newIssuer(t), newIssuer(t)
	const rules = `  claimValidationRules:
  - {expression: "claims.hd == 'example.org'", message: "only people of example.org"}
  claimMappings:
    username: {expression: "'org:' + claims.login"}
    groups: {expression: "claims.roles.split(',').map(r, 'org:' + r)"}
    uid: {claim: sub}
    extra: [{key: "example.org/team", valueExpression: "claims.team"}]
  userValidationRules:
  - {expression: "!user.username.startsWith('org:system:')", message: "no system users"}
`
	issuers := open(t, write(t, configuration(issuer, rules)))
	later, earlier := time.Now().Add(time.Hour).Unix(), time.Now().Add(-time.Hour).Unix()
	claims := func(changes map[string]any) map[string]any {
		all := map[string]any{"aud": "knarr", "exp": later, "sub": "7", "hd": "example.org", "login": "jane@example.org", "roles": "dev,ops", "team": "blue"}
		for name, value := range changes {
			all[name] = value
		}
		return all
	}
	tests := map[string]struct {
		from    *servertest.Issuer // nil: the configured one
		changes map[string]any
		unknown bool   // left to other authenticators
		err     string // refused
	}{
		"a user with groups, UID and extra":        {},
		"one for somebody else":                    {changes: map[string]any{"aud": "other"}, err: "audience"},
		"one that has ended":                       {changes: map[string]any{"exp": earlier}, err: "expired"},
		"one that breaks a rule about claims":      {changes: map[string]any{"hd": "example.net"}, err: "only people of example.org"},
		"one that breaks a rule about users":       {changes: map[string]any{"login": "system:admin"}, err: "no system users"},
		"an issuer nobody configured":              {from: stranger, unknown: true},
		"the configured issuer with another's key": {from: stranger, changes: map[string]any{"iss": issuer.URL}, err: "verify"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			from := tc.from
			if from == nil {
				from = issuer
			}
			token, err := from.Token(claims(tc.changes))
			if err != nil {
				t.Fatal(err)
			}
			response, ok, err := issuers.AuthenticateToken(t.Context(), token)
			switch {
			case tc.unknown:
				if ok || err != nil {
					t.Errorf("AuthenticateToken() = %v, %v; want no opinion", ok, err)
				}
			case tc.err != "":
				if ok || err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), token) {
					t.Errorf("AuthenticateToken() = %v, %v; want an error with %q and without the token", ok, err, tc.err)
				}
			case !ok || err != nil:
				t.Fatalf("AuthenticateToken() = %v, %v", ok, err)
			default:
				u := response.User
				if u.GetName() != "org:jane@example.org" || u.GetUID() != "7" || !slices.Equal(u.GetGroups(), []string{"org:dev", "org:ops"}) ||
					!slices.Equal(u.GetExtra()["example.org/team"], []string{"blue"}) {
					t.Errorf("user %+v", u)
				}
			}
		})
	}
}

const byName = "  claimMappings: {username: {claim: sub, prefix: \"\"}}\n"

func TestConfigurationsThatAreRefused(t *testing.T) {
	issuer := newIssuer(t)
	tests := map[string]struct{ content, err string }{
		"another kind":                      {"apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n", "EncryptionConfiguration"},
		"a field nobody knows":              {configuration(issuer, byName) + "  speed: 7\n", "speed"},
		"no way to a name":                  {configuration(issuer, ""), "claimMappings"},
		"an expression that is none":        {configuration(issuer, "  claimMappings: {username: {expression: \"claims.(\"}}\n"), "username"},
		"the cluster's own issuer":          {strings.Replace(configuration(issuer, byName), issuer.URL, clusterIssuer, 1), "must not overlap"},
		"an authority that is not one":      {"apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {url: https://x, audiences: [a], certificateAuthority: nonsense}\n" + byName, "certificateAuthority"},
		"anonymous for some, yet forbidden": {"apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous: {enabled: false, conditions: [{path: /x}]}\n", "anonymous"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			path := write(t, tc.content)
			_, err := provider.OpenIssuers(t.Context(), path, clusterIssuer)
			if err == nil || !strings.Contains(err.Error(), tc.err) || !strings.Contains(err.Error(), path) {
				t.Errorf("OpenIssuers() = %v; want an error with %q that names the file", err, tc.err)
			}
		})
	}
}

func TestAChangedConfiguration(t *testing.T) {
	first, second := newIssuer(t), newIssuer(t)
	issuers := open(t, write(t, configuration(first, byName)))
	accepts := func(from *servertest.Issuer) bool {
		t.Helper()
		token, err := from.Token(map[string]any{"aud": "knarr", "exp": time.Now().Add(time.Hour).Unix(), "sub": "jane"})
		if err != nil {
			t.Fatal(err)
		}
		_, ok, _ := issuers.AuthenticateToken(t.Context(), token)
		return ok
	}
	if !accepts(first) || accepts(second) {
		t.Fatal("the first configuration is not in force")
	}
	gone := newIssuer(t)
	gone.Close()
	short, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	for why, content := range map[string]string{
		"wrong":                      "kind: nonsense",
		"with an unreachable issuer": configuration(gone, byName),
		"with other anonymous users": configuration(second, byName) + "anonymous: {enabled: true}\n",
	} {
		if err := issuers.Replace(short, []byte(content)); err == nil {
			t.Errorf("a configuration that is %s was taken", why)
		}
		if !accepts(first) || accepts(second) {
			t.Fatalf("a configuration that is %s changed something", why)
		}
	}
	if err := issuers.Replace(t.Context(), []byte(configuration(second, byName))); err != nil {
		t.Fatal(err)
	}
	if accepts(first) || !accepts(second) {
		t.Error("the second configuration is not in force")
	}
}

func TestWebhook(t *testing.T) {
	asked := 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review authenticationv1.TokenReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		asked++
		if review.Spec.Token == "good" {
			review.Status = authenticationv1.TokenReviewStatus{
				Authenticated: true, Audiences: review.Spec.Audiences,
				User: authenticationv1.UserInfo{Username: "jane", Groups: []string{"dev"}},
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	defer server.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	kubeconfig := filepath.Join(t.TempDir(), "webhook.kubeconfig")
	caFile := filepath.Join(t.TempDir(), "ca.crt")
	content := "apiVersion: v1\nkind: Config\nclusters: [{name: x, cluster: {server: " + server.URL + ", certificate-authority: " + caFile +
		"}}]\nusers: [{name: x, user: {}}]\ncontexts: [{name: x, context: {cluster: x, user: x}}]\ncurrent-context: x\n"
	for path, content := range map[string]string{kubeconfig: content, caFile: string(ca)} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	webhook, err := provider.NewWebhook(kubeconfig, authenticator.Audiences{"api"})
	if err != nil {
		t.Fatal(err)
	}
	response, ok, err := webhook.AuthenticateToken(t.Context(), "good")
	if !ok || err != nil || response.User.GetName() != "jane" || asked != 1 {
		t.Errorf("AuthenticateToken(good) = %+v, %v, %v; asked %d times", response, ok, err, asked)
	}
	if _, ok, err := webhook.AuthenticateToken(t.Context(), "bad"); ok || err != nil {
		t.Errorf("AuthenticateToken(bad) = %v, %v; want no opinion", ok, err)
	}
	if _, err := provider.NewWebhook(kubeconfig+"-not", nil); err == nil {
		t.Error("a kubeconfig that is not there was accepted")
	}
}
