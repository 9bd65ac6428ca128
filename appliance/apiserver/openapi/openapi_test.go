package openapi

import (
	"testing"

	"k8s.io/kube-openapi/pkg/validation/spec"
)

func TestEveryReferenceIsDefined(t *testing.T) {
	definitions := GetOpenAPIDefinitions(func(path string) spec.Ref { return spec.MustCreateRef("#/" + path) })
	for name, definition := range definitions {
		for _, dependency := range definition.Dependencies {
			if _, ok := definitions[dependency]; !ok {
				t.Errorf("%s refers to %s, which is not defined: add its package to the go:generate line", name, dependency)
			}
		}
	}
}
