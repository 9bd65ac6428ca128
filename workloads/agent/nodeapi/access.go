package nodeapi

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/kubernetes"
)

// How long the API server's answers hold. A revoked right works here for that long at most.
const (
	rememberUser    = 2 * time.Minute
	rememberNoUser  = 10 * time.Second
	rememberAllowed = 5 * time.Minute
	rememberDenied  = 30 * time.Second
)

// access decides who may ask the node what: the certificate or the API server says who, the API server says what.
type access struct {
	client kubernetes.Interface
	node   string
	users  *cache.LRUExpireCache // hash of a token -> *authenticationv1.UserInfo, nil for nobody
	rights *cache.LRUExpireCache // question -> bool
}

func newAccess(client kubernetes.Interface, node string) *access {
	return &access{client: client, node: node, users: cache.NewLRUExpireCache(256), rights: cache.NewLRUExpireCache(256)}
}

// guard lets a request through to next, or answers why not.
func (a *access) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" { // says only that we are here, and load balancers have no certificates
			next.ServeHTTP(w, r)
			return
		}
		user, err := a.user(r)
		if err != nil {
			http.Error(w, "ask the API server who you are: "+err.Error(), http.StatusInternalServerError)
			return
		}
		if user == nil {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		verb, parts := question(r.Method, r.URL.Path)
		allowed, err := a.mayAny(r.Context(), user, verb, parts)
		if err != nil {
			http.Error(w, "ask the API server what you may do: "+err.Error(), http.StatusInternalServerError)
			return
		}
		if !allowed {
			http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", user.Username, verb, parts), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// user behind a request, nil for nobody we know.
func (a *access) user(r *http.Request) (*authenticationv1.UserInfo, error) {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		subject := r.TLS.VerifiedChains[0][0].Subject
		if subject.CommonName != "" {
			return &authenticationv1.UserInfo{Username: subject.CommonName, Groups: append(slices.Clone(subject.Organization), "system:authenticated")}, nil
		}
	}
	scheme, token, found := strings.Cut(r.Header.Get("Authorization"), " ")
	if token = strings.TrimSpace(token); !found || !strings.EqualFold(scheme, "bearer") || token == "" {
		return nil, nil
	}
	key := sha256.Sum256([]byte(token)) // tokens are not kept
	if known, found := a.users.Get(key); found {
		return known.(*authenticationv1.UserInfo), nil
	}
	review, err := a.client.AuthenticationV1().TokenReviews().Create(r.Context(),
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return nil, errors.New("it did not answer the token review") // the error may quote the token
	}
	if !review.Status.Authenticated {
		a.users.Add(key, (*authenticationv1.UserInfo)(nil), rememberNoUser)
		return nil, nil
	}
	a.users.Add(key, &review.Status.User, rememberUser)
	return &review.Status.User, nil
}

// question translates a request: which verb on which part of the node, narrower rights first. nodes/proxy is the old
// right to everything (KEP-2862).
func question(method, path string) (verb string, parts []string) {
	verb = map[string]string{http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete"}[method]
	if verb == "" {
		verb = "get"
	}
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch first {
	case "stats", "metrics", "checkpoint":
		return verb, []string{first}
	case "healthz":
		return verb, []string{"healthz", "proxy"}
	case "logs":
		return verb, []string{"log"}
	case "pods", "runningpods":
		return verb, []string{"pods", "proxy"}
	case "configz":
		return verb, []string{"configz", "proxy"}
	}
	return verb, []string{"proxy"}
}

// mayAny asks for each part in turn until one is allowed.
func (a *access) mayAny(ctx context.Context, user *authenticationv1.UserInfo, verb string, parts []string) (bool, error) {
	for _, part := range parts {
		allowed, err := a.may(ctx, user, verb, part)
		if err != nil || allowed {
			return allowed, err
		}
	}
	return false, nil
}

func (a *access) may(ctx context.Context, user *authenticationv1.UserInfo, verb, part string) (bool, error) {
	spec := authorizationv1.SubjectAccessReviewSpec{
		User: user.Username, UID: user.UID, Groups: user.Groups,
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Version: "v1", Resource: "nodes", Subresource: part, Name: a.node},
	}
	for key, values := range user.Extra {
		if spec.Extra == nil {
			spec.Extra = map[string]authorizationv1.ExtraValue{}
		}
		spec.Extra[key] = authorizationv1.ExtraValue(values)
	}
	key, err := json.Marshal(spec)
	if err != nil {
		return false, fmt.Errorf("encode the question: %w", err)
	}
	if known, found := a.rights.Get(string(key)); found {
		return known.(bool), nil
	}
	review, err := a.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("review access of %s to nodes/%s: %w", user.Username, part, err)
	}
	hold := rememberDenied
	if review.Status.Allowed {
		hold = rememberAllowed
	}
	a.rights.Add(string(key), review.Status.Allowed, hold)
	return review.Status.Allowed, nil
}
