package resource

import (
	"context"
	"net/http"
	"net/url"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"

	"knarr.dev/knarr/appliance/apiserver/usage"
)

// Env is what storages are made with, and how a subresource reaches other kinds. All of it is set before the
// first row is built, the stores of other rows before the first Subresources, Wrap or Virtual function is called.
type Env struct {
	Scheme         *runtime.Scheme
	ParameterCodec runtime.ParameterCodec
	RESTOptions    generic.RESTOptionsGetter

	Authenticator authenticator.Request   // for TokenReviews
	Audiences     authenticator.Audiences // of tokens that name none
	Authorizer    authorizer.Authorizer   // for access reviews, and subresources that check more than the request
	Rules         authorizer.RuleResolver // for SelfSubjectRulesReviews
	Nodes         NodeConnector           // pods' log, exec, attach, port-forward; nodes' proxy
	Usage         *usage.Collector        // metrics.k8s.io
	Tokens        TokenIssuer             // serviceaccounts' token; nil: not issued here

	ServiceCIDRs []string // of the default ServiceCIDR object
	NodePorts    PortRange

	stores map[schema.GroupResource]*Storage
	built  Built
}

// Storage of another kind of the table, for instance the PodDisruptionBudgets an eviction asks; nil when it is not stored.
func (e *Env) Storage(resource schema.GroupResource) *Storage { return e.stores[resource] }

// Path finds what serves "pods/binding" or the like. It is for requests only: while rows are built, not all is there.
func (e *Env) Path(gv schema.GroupVersion, path string) rest.Storage { return e.built[gv][path] }

// NodeConnector reaches the agent of a node.
type NodeConnector interface {
	// Connect returns the agent's base URL and a transport that authenticates both sides.
	Connect(ctx context.Context, node string) (*url.URL, http.RoundTripper, error)
}

// TokenIssuer signs service account tokens.
type TokenIssuer interface {
	// Issue signs a token for the account, bound to the object if there is one, and says when it expires.
	Issue(ctx context.Context, account *corev1.ServiceAccount, bound *BoundObject, spec authenticationv1.TokenRequestSpec) (token string, expires time.Time, err error)
}

// BoundObject is the Pod, Secret or Node whose end is also a token's end. A token bound to a pod names its node as well.
type BoundObject struct {
	Ref  authenticationv1.BoundObjectReference
	Node *metav1.ObjectMeta
}

// PortRange is first to last, both included.
type PortRange struct{ First, Last int32 }

// Background is a storage with work of its own beside requests, from the server's start until ctx ends.
type Background interface {
	Run(ctx context.Context)
}
