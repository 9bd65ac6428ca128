package authn

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	tokenjwt "k8s.io/apiserver/pkg/authentication/token/jwt"
)

// graceAfterDeletion lets a pod say goodbye: its token works this long after its deletion was due.
const graceAfterDeletion = time.Minute

// Ref names an object a token can be bound to.
type Ref struct{ Resource, Namespace, Name string }

func (r Ref) String() string {
	if r.Namespace == "" {
		return r.Resource + " " + r.Name
	}
	return r.Resource + " " + r.Namespace + "/" + r.Name
}

// Objects are what tokens are bound to. A look that is not fresh may be a little old.
type Objects interface {
	Object(ctx context.Context, ref Ref, fresh bool) (metav1.Object, error)
}

// ServiceAccounts authenticates service-account tokens.
type ServiceAccounts struct {
	issuer    string
	audiences authenticator.Audiences
	keys      map[string]jose.JSONWebKey
	objects   Objects
	marker    Marker // nil: nobody wants to know when token Secrets are used
	now       func() time.Time
}

// NewServiceAccounts accepts tokens of an issuer signed with one of the keys. audiences are the API server's own.
func NewServiceAccounts(issuer string, audiences authenticator.Audiences, objects Objects, keys ...crypto.PublicKey) (*ServiceAccounts, error) {
	s := &ServiceAccounts{issuer: issuer, audiences: audiences, keys: map[string]jose.JSONWebKey{}, objects: objects, now: time.Now}
	s.marker, _ = objects.(Marker)
	for _, key := range keys {
		web, err := webKey(key)
		if err != nil {
			return nil, fmt.Errorf("use service-account key: %w", err)
		}
		s.keys[web.KeyID] = web
	}
	return s, nil
}

// AuthenticateToken says whose token it is; ok is false and err nil when it is not a service account's of this cluster.
func (s *ServiceAccounts) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	registered, private, err := s.open(token)
	if err != nil || registered == nil {
		return nil, false, err
	}
	if registered.Issuer == secretIssuer {
		return s.secretToken(ctx, token, registered.Subject, private.secretClaims)
	}
	requested, ok := authenticator.AudiencesFrom(ctx)
	if !ok {
		requested = s.audiences
	}
	audiences, err := s.judge(registered, private, requested)
	if err != nil {
		return nil, false, err
	}
	if err := s.checkObjects(ctx, private.Kubernetes); err != nil {
		return nil, false, err
	}
	if late := private.Kubernetes.WarnAfter; late != nil && s.now().After(late.Time()) {
		audit.AddAuditAnnotation(ctx, "authentication.k8s.io/stale-token",
			fmt.Sprintf("subject: %s, seconds after warning threshold: %.0f", registered.Subject, s.now().Sub(late.Time()).Seconds()))
	}
	return &authenticator.Response{User: userInfo(registered, private.Kubernetes).UserInfo(), Audiences: audiences}, true, nil
}

// open checks the signature; all are nil for a token that is not ours to judge.
func (s *ServiceAccounts) open(token string) (*jwt.Claims, *claims, error) {
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.ES256, jose.ES384, jose.ES512, jose.RS256})
	if err != nil {
		return nil, nil, nil
	}
	unverified := jwt.Claims{}
	if err := parsed.UnsafeClaimsWithoutVerification(&unverified); err != nil || unverified.Issuer != s.issuer && unverified.Issuer != secretIssuer {
		return nil, nil, nil
	}
	if len(parsed.Headers) != 1 {
		return nil, nil, errors.New("service-account token is signed more than once")
	}
	key, known := s.keys[parsed.Headers[0].KeyID]
	if !known || parsed.Headers[0].Algorithm != key.Algorithm {
		return nil, nil, errors.New("service-account token is signed with a key this cluster does not use")
	}
	registered, private := &jwt.Claims{}, &claims{}
	if err := parsed.Claims(key.Key, registered, private); err != nil {
		return nil, nil, errors.New("service-account token has a wrong signature")
	}
	return registered, private, nil
}

// judge decides on what the token itself says, and returns the audiences it is good for.
func (s *ServiceAccounts) judge(registered *jwt.Claims, private *claims, requested authenticator.Audiences) (authenticator.Audiences, error) {
	err := registered.ValidateWithLeeway(jwt.Expected{Time: s.now()}, jwt.DefaultLeeway) // masters' clocks differ a little
	switch {
	case errors.Is(err, jwt.ErrExpired):
		return nil, errors.New("service-account token has expired")
	case err != nil:
		return nil, errors.New("service-account token is not valid yet: compare the clocks of the servers")
	}
	k := private.Kubernetes
	if k.Namespace == "" || k.ServiceAccount.Name == "" || k.ServiceAccount.UID == "" ||
		registered.Subject != serviceaccount.MakeUsername(k.Namespace, k.ServiceAccount.Name) {
		return nil, errors.New("service-account token does not name its service account")
	}
	good := authenticator.Audiences(registered.Audience).Intersect(requested)
	if len(good) == 0 {
		return nil, fmt.Errorf("service-account token is for %q, not for %q", registered.Audience, requested)
	}
	return good, nil
}

// checkObjects sees to it that everything the token is bound to is still there.
func (s *ServiceAccounts) checkObjects(ctx context.Context, k kubernetesClaims) error {
	if err := s.alive(ctx, Ref{"serviceaccounts", k.Namespace, k.ServiceAccount.Name}, k.ServiceAccount.UID); err != nil {
		return err
	}
	if k.Secret != nil {
		if err := s.alive(ctx, Ref{"secrets", k.Namespace, k.Secret.Name}, k.Secret.UID); err != nil {
			return err
		}
	}
	if k.Pod != nil {
		return s.alive(ctx, Ref{"pods", k.Namespace, k.Pod.Name}, k.Pod.UID)
	}
	if k.Node != nil { // beside a pod the node is only where the pod ran when it got its token
		return s.alive(ctx, Ref{"nodes", "", k.Node.Name}, k.Node.UID)
	}
	return nil
}

func (s *ServiceAccounts) alive(ctx context.Context, ref Ref, uid string) error {
	for _, fresh := range []bool{false, true} { // what an old look misses may just have been created
		object, err := s.objects.Object(ctx, ref, fresh)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("check what a service-account token is bound to: %w", err)
		}
		if string(object.GetUID()) != uid {
			continue
		}
		deleted := object.GetDeletionTimestamp()
		if deleted != nil && deleted.Add(graceAfterDeletion).Before(s.now()) {
			break
		}
		return nil
	}
	return fmt.Errorf("service-account token is bound to %s, which has been deleted", ref)
}

func userInfo(registered *jwt.Claims, k kubernetesClaims) *serviceaccount.ServiceAccountInfo {
	info := &serviceaccount.ServiceAccountInfo{
		Namespace:    k.Namespace,
		Name:         k.ServiceAccount.Name,
		UID:          k.ServiceAccount.UID,
		CredentialID: tokenjwt.CredentialIDForJTI(registered.ID),
	}
	if k.Pod != nil {
		info.PodName, info.PodUID = k.Pod.Name, k.Pod.UID
	}
	if k.Node != nil {
		info.NodeName, info.NodeUID = k.Node.Name, k.Node.UID
	}
	return info
}
