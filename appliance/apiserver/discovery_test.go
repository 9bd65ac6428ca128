package apiserver_test

import (
	"encoding/json"
	"flag"
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
	// The custom kinds of other tests are deleted in the background.
	var served string
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("served:", served)
		}
	})
	eventually(t, "the custom kinds of other tests are gone", func() bool {
		served = string(get(t, "/apis", "application/json"))
		return !strings.Contains(served, ".knarr.dev")
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

// discovered is one aggregated discovery document.
func discovered(t *testing.T, path string) []apidiscoveryv2.APIGroupDiscovery {
	t.Helper()
	var document apidiscoveryv2.APIGroupDiscoveryList
	if err := json.Unmarshal(get(t, path, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"), &document); err != nil {
		t.Fatal(err)
	}
	return document.Items
}

// groupVersion as in apiVersion.
func groupVersion(group, version string) string {
	if group == "" {
		return version
	}
	return group + "/" + version
}

// described lists what one aggregated discovery document says, a line each.
func described(t *testing.T, path string) []string {
	t.Helper()
	var lines []string
	for _, group := range discovered(t, path) {
		for _, version := range group.Versions {
			gv := groupVersion(group.Name, version.Version)
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

var update = flag.Bool("update", false, "write the generated part of docs/api.md, and fail")

const (
	document      = "../../docs/api.md"
	servedBegins  = "<!-- made by: go test ./appliance/apiserver -run TestTheDocument -update -->\n"
	servedEnds    = "<!-- end of what is made -->\n"
	everyVerb     = "create,delete,deletecollection,get,list,patch,update,watch"
	everyReadable = "all"
)

// TestTheDocumentListsWhatIsServed keeps docs/api.md true. Custom kinds and aggregated APIs are not in it.
func TestTheDocumentListsWhatIsServed(t *testing.T) {
	content, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, begins := strings.Cut(string(content), servedBegins)
	_, after, ends := strings.Cut(rest, servedEnds)
	if !begins || !ends {
		t.Fatalf("%s has no place for the table of what is served", document)
	}
	want := before + servedBegins + served(append(discovered(t, "/api"), discovered(t, "/apis")...)) + servedEnds + after
	if *update {
		if err := os.WriteFile(document, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(want, string(content)); diff != "" {
		t.Errorf("%s is not what is served; go test ./appliance/apiserver -run TestTheDocument -update\n%s", document, diff)
	}
}

func served(groups []apidiscoveryv2.APIGroupDiscovery) string {
	var out strings.Builder
	out.WriteString("| apiVersion | kind | resource | verbs | subresources |\n| --- | --- | --- | --- | --- |\n")
	for _, group := range groups {
		for _, version := range group.Versions {
			if strings.HasSuffix(group.Name, "knarr.dev") { // of a test that runs beside this one
				continue
			}
			for _, r := range version.Resources {
				name := r.Resource
				if len(r.ShortNames) > 0 {
					name += " (" + strings.Join(r.ShortNames, ", ") + ")"
				}
				var below []string
				for _, s := range r.Subresources {
					below = append(below, s.Subresource)
				}
				fmt.Fprintf(&out, "| %s | %s | %s | %s | %s |\n", groupVersion(group.Name, version.Version), r.ResponseKind.Kind, name,
					readable(r.Verbs), strings.Join(below, ", "))
			}
		}
	}
	return out.String()
}

func readable(list []string) string {
	if all := verbs(list); all != everyVerb {
		return strings.ReplaceAll(all, ",", ", ")
	}
	return everyReadable
}
