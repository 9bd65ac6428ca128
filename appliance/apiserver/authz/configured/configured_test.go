package configured

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// service answers SubjectAccessReviews by the user's name.
func service(t *testing.T) (kubeconfig string, asked *atomic.Int32) {
	t.Helper()
	asked = &atomic.Int32{}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review authorizationv1.SubjectAccessReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		asked.Add(1)
		review.Status = authorizationv1.SubjectAccessReviewStatus{Allowed: review.Spec.User == "friend", Denied: review.Spec.User == "foe"}
		if review.Spec.User == "crash" {
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(server.Close)
	dir := t.TempDir()
	ca, kubeconfig := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "kubeconfig")
	for path, content := range map[string]string{
		ca: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})),
		kubeconfig: "apiVersion: v1\nkind: Config\nclusters: [{name: x, cluster: {server: " + server.URL + ", certificate-authority: " + ca +
			"}}]\nusers: [{name: x, user: {}}]\ncontexts: [{name: x, context: {cluster: x, user: x}}]\ncurrent-context: x\n",
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return kubeconfig, asked
}

const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n"

func listed(kubeconfig, failurePolicy string) string {
	return `- type: Webhook
  name: service
  webhook:
    timeout: 3s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: ` + failurePolicy + `
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: ` + kubeconfig + `}
    matchConditions: [{expression: "request.resourceAttributes.namespace == 'shop'"}]
`
}

// rbac allows what it is told to.
func rbac(allowed ...string) authorizer.Authorizer {
	return authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
		for _, name := range allowed {
			if a.GetUser().GetName() == name {
				return authorizer.DecisionAllow, "", nil
			}
		}
		return authorizer.DecisionNoOpinion, "", nil
	})
}

func open(t *testing.T, content string) (*Authorizer, string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "authorization.yaml")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := Open(path, map[string]authorizer.Authorizer{Node: rbac(), RBAC: rbac("admin", "foe")})
	return a, path, err
}

func TestAuthorize(t *testing.T) {
	kubeconfig, asked := service(t)
	const node, roles = "- {type: Node, name: node}\n", "- {type: RBAC, name: rbac}\n"
	tests := map[string]struct {
		content   string
		user      string
		namespace string
		want      authorizer.Decision
		asks      bool
	}{
		"the service allows what roles do not":             {content: head + node + roles + listed(kubeconfig, "Deny"), user: "friend", want: authorizer.DecisionAllow, asks: true},
		"roles before it decide first":                     {content: head + roles + listed(kubeconfig, "Deny"), user: "foe", want: authorizer.DecisionAllow},
		"it denies what roles after it would allow":        {content: head + listed(kubeconfig, "Deny") + roles, user: "foe", want: authorizer.DecisionDeny, asks: true},
		"without an opinion the next is asked":             {content: head + listed(kubeconfig, "Deny") + roles, user: "admin", want: authorizer.DecisionAllow, asks: true},
		"it is not asked what its condition leaves out":    {content: head + listed(kubeconfig, "Deny"), user: "friend", namespace: "other", want: authorizer.DecisionNoOpinion},
		"a service that fails denies where it is told to":  {content: head + listed(kubeconfig, "Deny") + roles, user: "crash", want: authorizer.DecisionDeny, asks: true},
		"a service that fails is passed over where it may": {content: head + listed(kubeconfig, "NoOpinion"), user: "crash", want: authorizer.DecisionNoOpinion, asks: true},
		"nobody is asked who is not listed":                {content: head + node, user: "admin", want: authorizer.DecisionNoOpinion},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			a, _, err := open(t, tc.content)
			if err != nil {
				t.Fatal(err)
			}
			if tc.namespace == "" {
				tc.namespace = "shop"
			}
			before := asked.Load()
			got, _, _ := a.Authorize(t.Context(), authorizer.AttributesRecord{
				User: &user.DefaultInfo{Name: tc.user}, Verb: "get", Resource: "pods", Namespace: tc.namespace, ResourceRequest: true,
			})
			if asks := asked.Load() != before; got != tc.want || asks != tc.asks {
				t.Errorf("Authorize() = %v, asked %v; want %v, %v", got, asks, tc.want, tc.asks)
			}
		})
	}
}

func TestConfigurationsThatAreRefused(t *testing.T) {
	kubeconfig, _ := service(t)
	tests := map[string]struct{ content, err string }{
		"nobody":                     {strings.TrimSpace(head) + " []\n", "at least one"},
		"a type nobody knows":        {head + "- {type: ABAC, name: abac}\n", "ABAC"},
		"the same twice":             {head + "- {type: RBAC, name: a}\n- {type: RBAC, name: b}\n", "Duplicate"},
		"a service without a policy": {head + listed(kubeconfig, `""`), "failurePolicy"},
		"a kubeconfig that is gone":  {head + listed("/nowhere/kubeconfig", "Deny"), "kubeConfigFile"},
		"a field nobody knows":       {head + "- {type: RBAC, name: a, speed: 7}\n", "speed"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, path, err := open(t, tc.content)
			if err == nil || !strings.Contains(err.Error(), tc.err) || !strings.Contains(err.Error(), path) {
				t.Errorf("Open() = %v; want an error with %q that names the file", err, tc.err)
			}
		})
	}
}

func TestAChangedConfiguration(t *testing.T) {
	kubeconfig, _ := service(t)
	a, _, err := open(t, head+"- {type: RBAC, name: rbac}\n")
	if err != nil {
		t.Fatal(err)
	}
	may := func(name string) bool {
		got, _, _ := a.Authorize(t.Context(), authorizer.AttributesRecord{User: &user.DefaultInfo{Name: name}, Verb: "get", Resource: "pods", Namespace: "shop", ResourceRequest: true})
		return got == authorizer.DecisionAllow
	}
	incomplete := func() bool {
		_, _, incomplete, _ := Rules{RuleResolver: noRules{}, Of: a}.RulesFor(t.Context(), &user.DefaultInfo{}, "shop")
		return incomplete
	}
	if err := a.replace(t.Context(), []byte(head+"- {type: nonsense}\n")); err == nil {
		t.Error("a wrong configuration was taken")
	}
	if !may("admin") || may("friend") || incomplete() {
		t.Error("a wrong configuration changed something")
	}
	if err := a.replace(t.Context(), []byte(head+listed(kubeconfig, "Deny"))); err != nil {
		t.Fatal(err)
	}
	if may("admin") || !may("friend") || !incomplete() {
		t.Error("a changed configuration is not in force")
	}
}

type noRules struct{}

func (noRules) RulesFor(context.Context, user.Info, string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	return nil, nil, false, nil
}
