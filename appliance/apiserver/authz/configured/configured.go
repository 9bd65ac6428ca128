// Package configured asks the authorizers an operator lists.
//
// In:       an AuthorizationConfiguration (KEP-3221): Node, RBAC and webhooks in any order.
// Out:      their common decision: the first that has an opinion decides.
// Promise:  a changed file takes effect as a whole, a wrong one not at all.
// Not here: the authorizers (authz/node, authz/rbac); administrators, whom no file can lock out (authz).
package configured

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/validation"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	authorizationcel "k8s.io/apiserver/pkg/authorization/cel"
	"k8s.io/apiserver/pkg/authorization/union"
	webhookutil "k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/apiserver/plugin/pkg/authorizer/webhook"
	webhookmetrics "k8s.io/apiserver/plugin/pkg/authorizer/webhook/metrics"

	"knarr.dev/knarr/appliance/apiserver/configfile"
)

// The types a configuration can name.
const (
	Node = "Node"
	RBAC = "RBAC"
)

var (
	knownTypes      = sets.New(Node, RBAC, string(apiserver.TypeWebhook))
	repeatableTypes = sets.New(string(apiserver.TypeWebhook))
)

// Authorizer asks those of the file.
type Authorizer struct {
	authorizer.AuthorizerFunc
	path    string
	content []byte
	own     map[string]authorizer.Authorizer
	current atomic.Pointer[generation]
}

type generation struct {
	authorizer.Authorizer
	webhooks bool
}

// Open reads the file; own are the authorizers of this process by type.
func Open(path string, own map[string]authorizer.Authorizer) (*Authorizer, error) {
	a := &Authorizer{path: path, own: own}
	a.AuthorizerFunc = a.decide
	var err error
	if a.content, err = os.ReadFile(path); err != nil {
		return nil, fmt.Errorf("read the authorization configuration: %w", err)
	}
	if err := a.replace(context.Background(), a.content); err != nil {
		return nil, fmt.Errorf("use the authorization configuration %s: %w", path, err)
	}
	return a, nil
}

func (a *Authorizer) decide(ctx context.Context, attributes authorizer.Attributes) (authorizer.Decision, string, error) {
	return a.current.Load().Authorize(ctx, attributes)
}

// Run reads the file again when it changes, until ctx ends.
func (a *Authorizer) Run(ctx context.Context) { configfile.Follow(ctx, a.path, a.content, a.replace) }

func (a *Authorizer) replace(_ context.Context, content []byte) error {
	config, err := configfile.Decode[*apiserver.AuthorizationConfiguration](content)
	if err != nil {
		return err
	}
	compiler := authorizationcel.NewDefaultCompiler()
	if err := validation.ValidateAuthorizationConfiguration(compiler, nil, config, knownTypes, repeatableTypes).ToAggregate(); err != nil {
		return err
	}
	made := &generation{}
	var all []union.NamedAuthorizer
	for _, c := range config.Authorizers {
		next := a.own[string(c.Type)]
		if c.Type == apiserver.TypeWebhook {
			made.webhooks = true
			if next, err = hook(c, compiler); err != nil {
				return fmt.Errorf("webhook %s: %w", c.Name, err)
			}
		}
		all = append(all, union.NamedAuthorizer{AuthorizerName: c.Name, Authorizer: next})
	}
	if made.Authorizer, err = union.New(all...); err != nil {
		return fmt.Errorf("combine authorizers: %w", err)
	}
	a.current.Store(made)
	return nil
}

func hook(c apiserver.AuthorizerConfiguration, compiler authorizationcel.Compiler) (authorizer.Authorizer, error) {
	w := c.Webhook
	client, err := webhookutil.LoadKubeconfig(*w.ConnectionInfo.KubeConfigFile, nil)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig %s: %w", *w.ConnectionInfo.KubeConfigFile, err)
	}
	client.Timeout = w.Timeout.Duration
	onError := authorizer.DecisionNoOpinion
	if w.FailurePolicy == apiserver.FailurePolicyDeny {
		onError = authorizer.DecisionDeny
	}
	return webhook.New(client, w.SubjectAccessReviewVersion,
		cached(w.CacheAuthorizedRequests, w.AuthorizedTTL.Duration), cached(w.CacheUnauthorizedRequests, w.UnauthorizedTTL.Duration),
		*webhook.DefaultRetryBackoff(), onError, w.MatchConditions, c.Name, webhookmetrics.NoopAuthorizerMetrics{}, compiler)
}

func cached(wanted bool, ttl time.Duration) time.Duration {
	if !wanted {
		return 0
	}
	return ttl
}

// Rules tells what a user may do as far as roles say; webhooks decide on requests only.
type Rules struct {
	authorizer.RuleResolver
	Of *Authorizer
}

// RulesFor implements authorizer.RuleResolver.
func (r Rules) RulesFor(ctx context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	resources, paths, incomplete, err := r.RuleResolver.RulesFor(ctx, u, namespace)
	return resources, paths, incomplete || r.Of.current.Load().webhooks, err
}
