package apiserver

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apiserver/pkg/server/options"

	"knarr.dev/knarr/appliance/apiserver/admission"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// TestPluginsComeInTheOrderOfKubernetes lists them as Kubernetes v1.37 does, with ours that are part of storing there.
func TestPluginsComeInTheOrderOfKubernetes(t *testing.T) {
	var names []string
	for _, plugin := range admission.Plugins(&resource.Env{}) {
		names = append(names, plugin.Name)
	}
	want := []string{
		"NamespaceLifecycle", "RBACEscalation", "LimitRanger", "ServiceAccount", "NodeRestriction", "TaintNodesByCondition", "AlwaysPullImages", "PodSecurity", "Priority",
		"DefaultTolerationSeconds", "DefaultStorageClass", "StorageObjectInUseProtection", "PersistentVolumeClaimResize", "RuntimeClass",
		"CertificateApproval", "CertificateSigning", "PodCertificateSigning", "ClusterTrustBundleAttest", "CertificateSubjectRestriction",
		"DefaultIngressClass", "PodTopologyLabels", "DenyServiceExternalIPs", "DeviceAdminAccess",
		"MutatingAdmissionPolicy", "MutatingAdmissionWebhook", "ValidatingAdmissionPolicy", "ValidatingAdmissionWebhook", "ResourceQuota",
	}
	got := pluginOrder(options.NewAdmissionOptions().RecommendedPluginOrder, names)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("order (-Kubernetes +knarr):\n%s", diff)
	}
	if diff := cmp.Diff(rowsOf(t, "../../docs/api.md", "## Admission"), got); diff != "" {
		t.Errorf("plugins (-docs/api.md +knarr):\n%s", diff)
	}
	listed := rowsOf(t, "README.md", "## What is tested where")
	for _, name := range got {
		if !slices.Contains(listed, name) {
			t.Errorf("README.md does not say where %s is tested", name)
		}
	}
}

// rowsOf lists what a table below a heading begins its rows with.
func rowsOf(t *testing.T, file, heading string) []string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(content), heading+"\n")
	section, _, _ = strings.Cut(section, "\n## ")
	var rows []string
	for line := range strings.Lines(section) {
		if rest, ok := strings.CutPrefix(line, "| `"); ok {
			name, _, _ := strings.Cut(rest, "`")
			rows = append(rows, name)
		}
	}
	return rows
}

func TestConfigurationsOfAdmissionThatAreRefused(t *testing.T) {
	const head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n"
	tests := map[string]struct{ content, want string }{
		"one of a plugin there is":      {content: head + "plugins: [{name: PodSecurity, configuration: {a: b}}]\n"},
		"one in a file beside it":       {content: head + "plugins: [{name: PodSecurity, path: admission.yaml}]\n"},
		"one in a file there is not":    {head + "plugins: [{name: PodSecurity, path: levels.yaml}]\n", "levels.yaml: no such file"},
		"one of a plugin there is not":  {head + "plugins: [{name: PodSecurityPolicy}]\n", `there is no plugin "PodSecurityPolicy"; there are PodSecurity, ResourceQuota`},
		"one with a field there is not": {head + "plugin: []\n", "unknown field"},
		"another kind":                  {"apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: []\n", "not a *apiserver.AdmissionConfiguration"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "admission.yaml")
			if err := os.WriteFile(file, []byte(tc.content), 0o600); err != nil {
				t.Fatal(err)
			}
			err := checkAdmission([]string{"PodSecurity", "ResourceQuota"}, file)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("checkAdmission() = %v, want %q", err, tc.want)
			}
		})
	}
}

func TestCheckSwitches(t *testing.T) {
	known, fixed := []string{"NamespaceLifecycle", "RBACEscalation", "PodSecurity", "AlwaysPullImages"}, []string{"RBACEscalation"}
	tests := map[string]struct {
		enable, disable []string
		want            string
	}{
		"nothing is fine":              {},
		"one that is off is turned on": {enable: []string{"AlwaysPullImages"}},
		"one that is on may be named":  {enable: []string{"PodSecurity"}},
		"one that is on is turned off": {disable: []string{"PodSecurity"}},
		"one there is not":             {enable: []string{"PodSecurityPolicy"}, want: `enable-admission-plugins: there is no plugin "PodSecurityPolicy"; there are NamespaceLifecycle, RBACEscalation, PodSecurity, AlwaysPullImages`},
		"one there is not, to be off":  {disable: []string{"podsecurity"}, want: `disable-admission-plugins: there is no plugin "podsecurity"`},
		"one that has to be there":     {disable: []string{"RBACEscalation"}, want: "RBACEscalation is a part of storing objects"},
		"one that is to be both":       {enable: []string{"PodSecurity"}, disable: []string{"PodSecurity"}, want: "remove it from one of them"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			err := checkSwitches(known, fixed, tc.enable, tc.disable)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("checkSwitches() = %v, want %q", err, tc.want)
			}
		})
	}
}
