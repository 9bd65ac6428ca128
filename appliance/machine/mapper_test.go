package machine

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestTheMapperKnowsKindsAndTheirLists(t *testing.T) {
	mapper := builtinMapper()
	for name, c := range map[string]struct {
		kind, resource string
		scope          meta.RESTScope
	}{
		"a kind in a namespace": {"Secret", "secrets", meta.RESTScopeNamespace},
		"its list":              {"SecretList", "secrets", meta.RESTScopeNamespace},
		"a kind of the cluster": {"Node", "nodes", meta.RESTScopeRoot},
		"that kind's list":      {"NodeList", "nodes", meta.RESTScopeRoot},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := mapper.RESTMapping(schema.GroupKind{Kind: c.kind}, "v1")
			if err != nil {
				t.Fatal(err)
			}
			if got.Resource.Resource != c.resource || got.Scope != c.scope {
				t.Errorf("got %v in %v", got.Resource, got.Scope.Name())
			}
		})
	}
	kind, err := mapper.KindFor(schema.GroupVersionResource{Version: "v1", Resource: "secrets"})
	if err != nil || kind.Kind != "Secret" {
		t.Errorf("secrets are of kind %q, %v", kind.Kind, err)
	}
}
