package apiserver

import (
	"context"
	"crypto"
	"fmt"
	"os"
	"time"

	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/path"
	"k8s.io/apiserver/pkg/authorization/union"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"knarr.dev/knarr/appliance/apiserver/authn"
	"knarr.dev/knarr/appliance/apiserver/authn/provider"
	"knarr.dev/knarr/appliance/apiserver/authz"
	"knarr.dev/knarr/appliance/apiserver/authz/configured"
	"knarr.dev/knarr/appliance/apiserver/authz/node"
	"knarr.dev/knarr/appliance/apiserver/authz/rbac"
	"knarr.dev/knarr/appliance/apiserver/resource"
	"knarr.dev/knarr/bootstrap/pki"
)

// tokenTTL is how long an answer about a token holds, as in every Kubernetes cluster: clients send theirs with each
// request, and checking a signature and what the token is bound to costs more than many requests do.
const tokenTTL = 10 * time.Second

// access is who clients are and what they may do.
type access struct {
	audiences  authenticator.Audiences
	tokens     []authenticator.Token
	anonymous  *apiserver.AnonymousAuthConfig
	issuer     resource.TokenIssuer
	discovery  *authn.Discovery
	authorizer authorizer.Authorizer
	roles      *rbac.Authorizer
	rules      authorizer.RuleResolver
	followers  []func(ctx context.Context) // read files of the operator again when they change
}

func newAccess(ctx context.Context, config *Config, client kubernetes.Interface, shared informers.SharedInformerFactory) (*access, error) {
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
	if a.tokens, err = a.tokenKinds(ctx, config, accounts, authn.NewBootstrap(client.CoreV1())); err != nil {
		return nil, err
	}
	if a.discovery, err = authn.NewDiscovery(config.ServiceAccountIssuer, key.Public()); err != nil {
		return nil, err
	}
	if a.roles, err = rbac.New(shared.Rbac().V1()); err != nil {
		return nil, err
	}
	everyone, err := a.authorizers(config, node.New(node.Client{Interface: client}))
	if err != nil {
		return nil, err
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

// tokenKinds in the order they are tried. Bootstrap tokens are not remembered: one that was revoked ends at once.
func (a *access) tokenKinds(ctx context.Context, config *Config, accounts, bootstrap authenticator.Token) ([]authenticator.Token, error) {
	remembered := []authenticator.Token{accounts}
	if config.AuthenticationConfig != "" {
		issuers, err := provider.OpenIssuers(ctx, config.AuthenticationConfig, config.ServiceAccountIssuer)
		if err != nil {
			return nil, err
		}
		a.anonymous = issuers.Anonymous()
		a.followers = append(a.followers, issuers.Run)
		remembered = append(remembered, issuers)
	}
	if config.AuthenticationWebhook != "" {
		webhook, err := provider.NewWebhook(config.AuthenticationWebhook, a.audiences)
		if err != nil {
			return nil, err
		}
		remembered = append(remembered, webhook)
	}
	return []authenticator.Token{bootstrap, cache.New(tokenunion.New(remembered...), false, tokenTTL, 0)}, nil
}

// authorizers are the usual ones unless the operator lists others. No list keeps administrators out.
func (a *access) authorizers(config *Config, nodes *node.Authorizer) (authorizer.Authorizer, error) {
	a.rules = a.roles
	if config.AuthorizationConfig == "" {
		return authz.New(nodes, a.roles)
	}
	listed, err := configured.Open(config.AuthorizationConfig, map[string]authorizer.Authorizer{configured.Node: nodes, configured.RBAC: a.roles})
	if err != nil {
		return nil, err
	}
	a.rules = configured.Rules{RuleResolver: a.roles, Of: listed}
	a.followers = append(a.followers, listed.Run)
	return authz.WithMasters(listed)
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
