package apiserver

import (
	"crypto"
	"fmt"
	"os"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/path"
	"k8s.io/apiserver/pkg/authorization/union"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"knarr.dev/knarr/appliance/apiserver/authn"
	"knarr.dev/knarr/appliance/apiserver/authz"
	"knarr.dev/knarr/appliance/apiserver/authz/node"
	"knarr.dev/knarr/appliance/apiserver/authz/rbac"
	"knarr.dev/knarr/appliance/apiserver/resource"
	"knarr.dev/knarr/bootstrap/pki"
)

// access is who clients are and what they may do.
type access struct {
	audiences  authenticator.Audiences
	tokens     []authenticator.Token
	issuer     resource.TokenIssuer
	discovery  *authn.Discovery
	authorizer authorizer.Authorizer
	roles      *rbac.Authorizer
}

func newAccess(config *Config, client kubernetes.Interface, shared informers.SharedInformerFactory) (*access, error) {
	a := &access{audiences: authenticator.Audiences{config.ServiceAccountIssuer}}
	key, err := signingKey(config.ServiceAccountKey)
	if err != nil {
		return nil, err
	}
	if a.issuer, err = authn.NewIssuer(config.ServiceAccountIssuer, a.audiences, key); err != nil {
		return nil, err
	}
	accounts, err := authn.NewServiceAccounts(config.ServiceAccountIssuer, a.audiences, authn.Client{Core: client.CoreV1()}, key.Public())
	if err != nil {
		return nil, err
	}
	a.tokens = []authenticator.Token{accounts, authn.NewBootstrap(client.CoreV1())}
	if a.discovery, err = authn.NewDiscovery(config.ServiceAccountIssuer, key.Public()); err != nil {
		return nil, err
	}
	if a.roles, err = rbac.New(shared.Rbac().V1()); err != nil {
		return nil, err
	}
	everyone, err := authz.New(node.New(node.Client{Interface: client}), a.roles)
	if err != nil {
		return nil, fmt.Errorf("combine authorizers: %w", err)
	}
	public, err := path.NewAuthorizer(publicPaths)
	if err != nil {
		return nil, fmt.Errorf("authorize public paths: %w", err)
	}
	// Health is public before roles are known, and whatever they say.
	a.authorizer, err = union.New(
		union.NamedAuthorizer{AuthorizerName: "public", Authorizer: public},
		union.NamedAuthorizer{AuthorizerName: "knarr", Authorizer: everyone},
	)
	if err != nil {
		return nil, fmt.Errorf("combine authorizers: %w", err)
	}
	return a, nil
}

func signingKey(file string) (crypto.Signer, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the service account key: %w", err)
	}
	key, err := pki.ParseKey(content)
	if err != nil {
		return nil, fmt.Errorf("read the service account key %s: %w", file, err)
	}
	return key, nil
}
