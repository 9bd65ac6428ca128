package apiserver

import (
	"fmt"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/path"
	"k8s.io/apiserver/pkg/authorization/union"
	"k8s.io/client-go/informers"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

// access is who clients are and what they may do.
type access struct {
	audiences  authenticator.Audiences
	tokens     []authenticator.Token
	issuer     resource.TokenIssuer
	authorizer authorizer.Authorizer
	rules      authorizer.RuleResolver
}

func (s *Server) access(_ *chain, _ informers.SharedInformerFactory) (*access, error) {
	public, err := path.NewAuthorizer(publicPaths)
	if err != nil {
		return nil, fmt.Errorf("authorize public paths: %w", err)
	}
	all, err := union.New(
		union.NamedAuthorizer{AuthorizerName: "masters", Authorizer: authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)},
		union.NamedAuthorizer{AuthorizerName: "public", Authorizer: public},
	)
	if err != nil {
		return nil, fmt.Errorf("combine authorizers: %w", err)
	}
	return &access{
		audiences:  authenticator.Audiences{s.config.ServiceAccountIssuer},
		authorizer: all,
		rules:      authorizerfactory.NewAlwaysDenyAuthorizer(),
	}, nil
}
