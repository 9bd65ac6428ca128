// Package authn tells who sends a request, from the tokens of service accounts and of joining machines.
//
// In:       the service-account key, and the objects tokens are bound to or kept in.
// Out:      tokens, the users they stand for, and the documents with which others check them (OpenID discovery).
// Promise:  a token ends with its time, its service account or the object it is bound to, whichever is first;
// no error or log line holds a token.
// Not here: client certificates and the loopback token (k8s.io/apiserver), what a user may do (appliance/apiserver/authz).
package authn

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

const (
	defaultLifetime = time.Hour
	// inPodLifetime in seconds is how the API marks the token every pod gets: admission asks for it in
	// kube-api-access volumes. Programs that read their token once would fail after an hour, so these live for a
	// year, and the claim warnafter tells when they should have been read again.
	inPodLifetime = 3607
	longLifetime  = 365 * 24 * time.Hour
)

// claims are a service-account token's, beside the registered ones.
type claims struct {
	Kubernetes   kubernetesClaims `json:"kubernetes.io"`
	secretClaims                  // of a token in a Secret
}

type kubernetesClaims struct {
	Namespace      string           `json:"namespace,omitempty"`
	ServiceAccount reference        `json:"serviceaccount"`
	Pod            *reference       `json:"pod,omitempty"`
	Secret         *reference       `json:"secret,omitempty"`
	Node           *reference       `json:"node,omitempty"`
	WarnAfter      *jwt.NumericDate `json:"warnafter,omitempty"`
}

type reference struct {
	Name string `json:"name"`
	UID  string `json:"uid,omitempty"`
}

// Issuer signs service-account tokens.
type Issuer struct {
	name      string
	audiences authenticator.Audiences
	signer    jose.Signer
	now       func() time.Time
}

// NewIssuer makes tokens in the name of an issuer (an https URL), for those audiences unless others are asked for.
func NewIssuer(name string, audiences authenticator.Audiences, key crypto.Signer) (*Issuer, error) {
	signer, err := newSigner(key)
	if err != nil {
		return nil, err
	}
	return &Issuer{name: name, audiences: audiences, signer: signer, now: time.Now}, nil
}

func newSigner(key crypto.Signer) (jose.Signer, error) {
	public, err := webKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("use service-account key: %w", err)
	}
	private := jose.JSONWebKey{Key: key, KeyID: public.KeyID, Algorithm: public.Algorithm}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(public.Algorithm), Key: private}, nil)
	if err != nil {
		return nil, fmt.Errorf("use service-account key: %w", err)
	}
	return signer, nil
}

// Issue signs a token for the account, bound to the object if there is one, and says when it should be replaced.
func (i *Issuer) Issue(_ context.Context, account *corev1.ServiceAccount, bound *resource.BoundObject, spec authenticationv1.TokenRequestSpec) (string, time.Time, error) {
	registered, private, expires, err := i.describe(account, bound, spec)
	if err != nil {
		return "", time.Time{}, err
	}
	token, err := jwt.Signed(i.signer).Claims(registered).Claims(private).Serialize()
	if err != nil {
		return "", time.Time{}, fmt.Errorf("sign token for service account %s/%s: %w", account.Namespace, account.Name, err)
	}
	return token, expires, nil
}

func (i *Issuer) describe(account *corev1.ServiceAccount, bound *resource.BoundObject, spec authenticationv1.TokenRequestSpec) (jwt.Claims, claims, time.Time, error) {
	now, lifetime, audiences := i.now(), defaultLifetime, spec.Audiences
	if spec.ExpirationSeconds != nil {
		lifetime = time.Duration(*spec.ExpirationSeconds) * time.Second
	}
	if len(audiences) == 0 {
		audiences = i.audiences
	}
	expires := now.Add(lifetime)
	private := claims{Kubernetes: kubernetesClaims{
		Namespace:      account.Namespace,
		ServiceAccount: reference{Name: account.Name, UID: string(account.UID)},
	}}
	if bound != nil {
		ref := &reference{Name: bound.Ref.Name, UID: string(bound.Ref.UID)}
		switch bound.Ref.Kind {
		case "Pod":
			private.Kubernetes.Pod = ref
			if bound.Node != nil {
				private.Kubernetes.Node = &reference{Name: bound.Node.Name, UID: string(bound.Node.UID)}
			}
		case "Secret":
			private.Kubernetes.Secret = ref
		case "Node":
			private.Kubernetes.Node = ref
		default:
			return jwt.Claims{}, claims{}, time.Time{}, fmt.Errorf("a token cannot be bound to a %s", bound.Ref.Kind)
		}
		if lifetime == inPodLifetime*time.Second && private.Kubernetes.Pod != nil && slices.Equal(audiences, i.audiences) {
			private.Kubernetes.WarnAfter = jwt.NewNumericDate(expires)
			lifetime = longLifetime
		}
	}
	registered := jwt.Claims{
		Issuer:    i.name,
		Subject:   serviceaccount.MakeUsername(account.Namespace, account.Name),
		Audience:  audiences,
		IssuedAt:  jwt.NewNumericDate(now),
		NotBefore: jwt.NewNumericDate(now),
		Expiry:    jwt.NewNumericDate(now.Add(lifetime)),
		ID:        string(uuid.NewUUID()),
	}
	return registered, private, expires, nil
}

// webKey is a public key as the key set publishes it: with its algorithm, and named by its own hash.
func webKey(public crypto.PublicKey) (jose.JSONWebKey, error) {
	var algorithm jose.SignatureAlgorithm
	switch key := public.(type) {
	case *rsa.PublicKey:
		algorithm = jose.RS256
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			algorithm = jose.ES256
		case elliptic.P384():
			algorithm = jose.ES384
		case elliptic.P521():
			algorithm = jose.ES512
		}
	}
	if algorithm == "" {
		return jose.JSONWebKey{}, errors.New("it is neither RSA nor ECDSA on a NIST curve")
	}
	raw, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return jose.JSONWebKey{}, fmt.Errorf("encode public key: %w", err)
	}
	id := sha256.Sum256(raw)
	return jose.JSONWebKey{
		Key: public, KeyID: base64.RawURLEncoding.EncodeToString(id[:]), Algorithm: string(algorithm), Use: "sig",
	}, nil
}
