// Package authz decides what a user may do.
//
// In:       a request's user, verb and object; roles and bindings; what runs on which node.
// Out:      allow, or no opinion, which is a refusal once everyone was asked.
// Promise:  system:masters may do everything, so that no binding can lock an administrator out.
// Not here: who the user is (appliance/apiserver/authn), the roles a cluster begins with (appliance/apiserver/baseline).
package authz

import (
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/union"

	"knarr.dev/knarr/appliance/apiserver/authz/node"
	"knarr.dev/knarr/appliance/apiserver/authz/rbac"
)

// New asks for system:masters, then the nodes' own rules, then roles and bindings: the quickest first.
func New(nodes *node.Authorizer, roles *rbac.Authorizer) (authorizer.Authorizer, error) {
	return union.New(
		masters(),
		union.NamedAuthorizer{AuthorizerName: "node", Authorizer: nodes},
		union.NamedAuthorizer{AuthorizerName: "rbac", Authorizer: roles},
	)
}

// WithMasters asks for system:masters, then somebody else.
func WithMasters(other authorizer.Authorizer) (authorizer.Authorizer, error) {
	return union.New(masters(), union.NamedAuthorizer{AuthorizerName: "configured", Authorizer: other})
}

func masters() union.NamedAuthorizer {
	return union.NamedAuthorizer{AuthorizerName: "masters", Authorizer: authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)}
}
