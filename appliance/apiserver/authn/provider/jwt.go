// Package provider authenticates users that somebody else vouches for.
//
// In:       an AuthenticationConfiguration with JWT issuers, a kubeconfig of a token webhook; bearer tokens.
// Out:      users, as the claims or the webhook's answer say.
// Promise:  nothing runs unless it is configured; an issuer that cannot be reached keeps no other user out; a changed
// configuration takes effect when its issuers answer, and a wrong one not at all.
// Not here: the cluster's own tokens (appliance/apiserver/authn).
package provider

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"

	"knarr.dev/knarr/appliance/apiserver/configfile"
)

const (
	// answering is how long issuers of a changed configuration may take to be reached before it is given up.
	answering = time.Minute
	look      = 100 * time.Millisecond
)

// Issuers accepts tokens of JWT issuers (OpenID Connect, KEP-3331).
type Issuers struct {
	path      string
	own       string
	content   []byte
	anonymous *apiserver.AnonymousAuthConfig
	current   atomic.Pointer[generation]
}

// generation is what one content of the file became.
type generation struct {
	tokens authenticator.Token
	checks []func() error
	end    context.CancelFunc
}

// OpenIssuers reads the file. Issuers are asked for their keys in the background: one that cannot be reached must not
// keep a server from starting. The cluster's own issuer is not to be one of them.
func OpenIssuers(ctx context.Context, path, own string) (*Issuers, error) {
	i := &Issuers{path: path, own: own}
	var err error
	if i.content, err = os.ReadFile(path); err != nil {
		return nil, fmt.Errorf("read the authentication configuration: %w", err)
	}
	config, made, err := i.make(ctx, i.content)
	if err != nil {
		return nil, fmt.Errorf("use the authentication configuration %s: %w", path, err)
	}
	i.anonymous = config.Anonymous
	i.current.Store(made)
	return i, nil
}

// Anonymous is what the file says of requests without credentials; nil: nothing. It holds until the next start.
func (i *Issuers) Anonymous() *apiserver.AnonymousAuthConfig { return i.anonymous }

// AuthenticateToken implements authenticator.Token.
func (i *Issuers) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	return i.current.Load().tokens.AuthenticateToken(ctx, token)
}

// Run reads the file again when it changes, until ctx ends.
func (i *Issuers) Run(ctx context.Context) { configfile.Follow(ctx, i.path, i.content, i.replace) }

func (i *Issuers) replace(ctx context.Context, content []byte) error {
	config, made, err := i.make(ctx, content)
	if err != nil {
		return err
	}
	if !equality.Semantic.DeepEqual(config.Anonymous, i.anonymous) {
		made.end()
		return errors.New("what it says of anonymous requests changed: restart for that")
	}
	if err := made.answers(ctx); err != nil {
		made.end()
		return err
	}
	i.current.Swap(made).end()
	return nil
}

func (i *Issuers) make(ctx context.Context, content []byte) (*apiserver.AuthenticationConfiguration, *generation, error) {
	config, err := configfile.Decode[*apiserver.AuthenticationConfiguration](content)
	if err != nil {
		return nil, nil, err
	}
	compiler, disallowed := authenticationcel.NewDefaultCompiler(), []string{i.own}
	if err := validation.ValidateAuthenticationConfiguration(compiler, config, disallowed).ToAggregate(); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	made := &generation{end: cancel}
	var all []authenticator.Token
	for _, issuer := range config.JWT {
		options := oidc.Options{
			JWTAuthenticator: issuer, Compiler: compiler, SupportedSigningAlgs: oidc.AllValidSigningAlgorithms(),
			DisallowedIssuers: disallowed, APIServerID: "knarr",
		}
		if ca := issuer.Issuer.CertificateAuthority; ca != "" {
			if options.CAContentProvider, err = dynamiccertificates.NewStaticCAContent("jwt-issuer", []byte(ca)); err != nil {
				cancel()
				return nil, nil, fmt.Errorf("certificateAuthority of issuer %s: %w", issuer.Issuer.URL, err)
			}
		}
		tokens, err := oidc.New(ctx, options)
		if err != nil {
			cancel()
			return nil, nil, fmt.Errorf("issuer %s: %w", issuer.Issuer.URL, err)
		}
		all, made.checks = append(all, tokens), append(made.checks, tokens.HealthCheck)
	}
	made.tokens = tokenunion.New(all...)
	return config, made, nil
}

// answers waits until all issuers told their keys.
func (g *generation) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, answering)
	defer cancel()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		var errs []error
		for _, check := range g.checks {
			errs = append(errs, check())
		}
		err := errors.Join(errs...)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("its issuers do not answer: %w", err)
		case <-tick.C:
		}
	}
}
