package machine

import (
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"

	"knarr.dev/knarr/appliance/apiserver/table"
)

// builtinMapper names the resources of all built-in kinds from the API table itself. Asking the API server, as a
// client elsewhere has to, would make the controllers wait for it before they can even be put together.
func builtinMapper() meta.RESTMapper {
	mapper := meta.NewDefaultRESTMapper(nil)
	for _, row := range table.Rows() {
		scope := meta.RESTScopeRoot
		if row.Namespaced {
			scope = meta.RESTScopeNamespace
		}
		for _, version := range append(slices.Clone(row.AlsoIn), row.In) {
			// Caches that hold some namespaces only ask about the kind of a list. The kind itself comes last: it is
			// what the resource leads to.
			mapper.AddSpecific(version.WithKind(row.Kind()+"List"), version.WithResource(row.Plural), version.WithResource(row.Singular()), scope)
			mapper.AddSpecific(version.WithKind(row.Kind()), version.WithResource(row.Plural), version.WithResource(row.Singular()), scope)
		}
	}
	return mapper
}
