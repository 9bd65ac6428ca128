package audit

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/server"
)

func TestPolicy(t *testing.T) {
	rules, err := load("")
	if err != nil {
		t.Fatal(err)
	}
	evaluator := policy.NewPolicyRuleEvaluator(rules)
	var (
		jane    = &user.DefaultInfo{Name: "jane", Groups: []string{"system:authenticated"}}
		account = &user.DefaultInfo{Name: "system:serviceaccount:shop:web", Groups: []string{"system:serviceaccounts", "system:authenticated"}}
		node    = &user.DefaultInfo{Name: "system:node:alpha", Groups: []string{"system:nodes", "system:authenticated"}}
		self    = &user.DefaultInfo{Name: "system:apiserver", Groups: []string{"system:masters"}}
	)
	on := func(u user.Info, verb, group, path string) authorizer.AttributesRecord {
		resource, sub, _ := strings.Cut(path, "/")
		return authorizer.AttributesRecord{User: u, Verb: verb, APIGroup: group, Resource: resource, Subresource: sub, Namespace: "shop", Name: "x", ResourceRequest: true}
	}
	tests := map[string]struct {
		request authorizer.AttributesRecord
		want    auditinternal.Level
	}{
		"what people change":                           {on(jane, "create", "apps", "deployments"), auditinternal.LevelMetadata},
		"what programs change":                         {on(account, "patch", "", "configmaps"), auditinternal.LevelMetadata},
		"what people delete":                           {on(jane, "deletecollection", "", "pods"), auditinternal.LevelMetadata},
		"a change of roles":                            {on(jane, "update", "rbac.authorization.k8s.io", "clusterroles"), auditinternal.LevelMetadata},
		"a change of a Secret, without its body":       {on(jane, "update", "", "secrets"), auditinternal.LevelMetadata},
		"a look at a Secret":                           {on(account, "list", "", "secrets"), auditinternal.LevelMetadata},
		"no look at anything else":                     {on(jane, "list", "", "pods"), auditinternal.LevelNone},
		"a session in a pod by a GET":                  {on(jane, "get", "", "pods/exec"), auditinternal.LevelMetadata},
		"a session in a pod by a POST":                 {on(jane, "create", "", "pods/attach"), auditinternal.LevelMetadata},
		"a way past the API server":                    {on(jane, "get", "", "services/proxy"), auditinternal.LevelMetadata},
		"a token that was made, without the token":     {on(jane, "create", "", "serviceaccounts/token"), auditinternal.LevelMetadata},
		"a token a node made for a pod":                {on(node, "create", "", "serviceaccounts/token"), auditinternal.LevelMetadata},
		"a node's certificate request":                 {on(node, "create", "certificates.k8s.io", "certificatesigningrequests"), auditinternal.LevelMetadata},
		"no report of a node about itself":             {on(node, "patch", "", "nodes/status"), auditinternal.LevelNone},
		"no report of a node about its pods":           {on(node, "patch", "", "pods/status"), auditinternal.LevelNone},
		"somebody else's report about a pod":           {on(jane, "patch", "", "pods/status"), auditinternal.LevelMetadata},
		"no sign of life of a node":                    {on(node, "update", "coordination.k8s.io", "leases"), auditinternal.LevelNone},
		"no look of a node at its pods' Secrets":       {on(node, "get", "", "secrets"), auditinternal.LevelNone},
		"no work of our controllers":                   {on(self, "create", "", "pods"), auditinternal.LevelNone},
		"no event":                                     {on(account, "create", "events.k8s.io", "events"), auditinternal.LevelNone},
		"no election":                                  {on(account, "update", "coordination.k8s.io", "leases"), auditinternal.LevelNone},
		"no question":                                  {on(account, "create", "authorization.k8s.io", "subjectaccessreviews"), auditinternal.LevelNone},
		"no look at health":                            {authorizer.AttributesRecord{User: jane, Verb: "get", Path: "/readyz"}, auditinternal.LevelNone},
		"somebody acting for another, by who they are": {on(jane, "delete", "", "nodes"), auditinternal.LevelMetadata},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := evaluator.EvaluatePolicyRule(tc.request).Level; got != tc.want {
				t.Errorf("recorded at %s; want %s", got, tc.want)
			}
		})
	}
	for _, rule := range rules.Rules {
		if rule.Level == auditinternal.LevelRequest || rule.Level == auditinternal.LevelRequestResponse {
			t.Error("a rule records bodies, and so Secrets")
		}
	}
}

func TestLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit", "audit.log")
	var config server.Config
	if err := Apply(Config{Log: path}, &config); err != nil {
		t.Fatal(err)
	}
	defer config.AuditBackend.Shutdown()
	event := &auditinternal.Event{Level: auditinternal.LevelMetadata, Verb: "create", RequestURI: "/" + strings.Repeat("x", 1<<16)}
	for range 2 * megabytes << 20 >> 16 {
		config.AuditBackend.ProcessEvents(event)
	}
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) < 2 {
		t.Fatalf("%d files, %v; a full one is turned over", len(files), err)
	}
	for _, file := range files {
		info, err := file.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 || info.Size() > megabytes<<20 {
			t.Errorf("%s: mode %v, %d bytes", info.Name(), info.Mode(), info.Size())
		}
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v, %v", info.Mode(), err)
	}
}

func TestADiskThatIsFullRefusesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	var config server.Config
	if err := Apply(Config{Log: path}, &config); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil { // nothing can be written to a folder
		t.Fatal(err)
	}
	if !config.AuditBackend.ProcessEvents(&auditinternal.Event{Level: auditinternal.LevelMetadata}) {
		t.Error("a request is refused since its line cannot be written")
	}
}

func TestPoliciesThatAreRefused(t *testing.T) {
	tests := map[string]struct{ content, err string }{
		"without rules":         {"apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: []\n", "rules"},
		"of another kind":       {"apiVersion: v1\nkind: ConfigMap\n", "audit policy"},
		"with an unknown level": {"apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Everything}]\n", "Everything"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "policy.yaml")
			if err := os.WriteFile(path, []byte(tc.content), 0o600); err != nil {
				t.Fatal(err)
			}
			err := Apply(Config{Log: filepath.Join(t.TempDir(), "audit.log"), Policy: path}, &server.Config{})
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("Apply() = %v; want an error with %q", err, tc.err)
			}
		})
	}
}

// A line costs a request this much.
func BenchmarkLine(b *testing.B) {
	var config server.Config
	if err := Apply(Config{Log: filepath.Join(b.TempDir(), "audit.log")}, &config); err != nil {
		b.Fatal(err)
	}
	defer config.AuditBackend.Shutdown()
	event := &auditinternal.Event{
		Level: auditinternal.LevelMetadata, AuditID: "6f9e1a4c-8a8e-4f7b-9f0e-0123456789ab", Stage: auditinternal.StageResponseComplete,
		RequestURI: "/api/v1/namespaces/shop/configmaps?fieldManager=kubectl-create", Verb: "create", UserAgent: "kubectl/v1.37.2 (linux/amd64)",
		ObjectRef: &auditinternal.ObjectReference{Resource: "configmaps", Namespace: "shop", Name: "prices", APIVersion: "v1"},
		SourceIPs: []string{"192.0.2.7"},
	}
	event.User.Username, event.User.Groups = "jane", []string{"dev", "system:authenticated"}
	for b.Loop() {
		config.AuditBackend.ProcessEvents(event)
	}
}
