package apiserver_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
)

// TestDiscoveryListsWhatKubernetesLists compares with testdata/resources.txt: the resources of Kubernetes v1.37 in
// versions that are not alpha or beta (but for metrics.k8s.io), with their kinds, scopes, short names, categories and verbs.
func TestDiscoveryListsWhatKubernetesLists(t *testing.T) {
	content, err := os.ReadFile("testdata/resources.txt")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSpace(string(content)), "\n")
	eventually(t, "metrics.k8s.io is offered", func() bool { // which readiness does not wait for
		return strings.Contains(string(get(t, "/apis", "application/json")), "metrics.k8s.io")
	})
	var got []string
	for _, path := range []string{"/api", "/apis"} {
		got = append(got, described(t, path)...)
	}
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("resources differ (-Kubernetes +knarr):\n%s", diff)
	}
}

// described lists what one aggregated discovery document says, a line each.
func described(t *testing.T, path string) []string {
	t.Helper()
	var document apidiscoveryv2.APIGroupDiscoveryList
	if err := json.Unmarshal(get(t, path, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"), &document); err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, group := range document.Items {
		for _, version := range group.Versions {
			gv := version.Version
			if group.Name != "" {
				gv = group.Name + "/" + gv
			}
			for _, r := range version.Resources {
				line := fmt.Sprintf("%s %s %s %s", gv, r.Resource, r.ResponseKind.Kind, r.Scope)
				if len(r.ShortNames) > 0 {
					line += " short=" + strings.Join(r.ShortNames, ",")
				}
				if len(r.Categories) > 0 {
					line += " categories=" + strings.Join(r.Categories, ",")
				}
				lines = append(lines, line+" verbs="+verbs(r.Verbs))
				for _, s := range r.Subresources {
					lines = append(lines, fmt.Sprintf("%s %s/%s %s verbs=%s", gv, r.Resource, s.Subresource, s.ResponseKind.Kind, verbs(s.Verbs)))
				}
			}
		}
	}
	return lines
}

func verbs(all []string) string {
	sorted := slices.Sorted(slices.Values(all))
	return strings.Join(sorted, ",")
}
