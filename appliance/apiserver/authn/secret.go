package authn

import (
	"context"
	"crypto"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
)

// Tokens in Secrets are of an older kind: they have another issuer, claims of another shape and no end, and are good
// only as long as the Secret holds them (KEP-2799).
const secretIssuer = "kubernetes/serviceaccount"

// Labels of Secrets that hold a token.
const (
	// LastUsedLabel is the day on which somebody last logged in with it.
	LastUsedLabel = "kubernetes.io/legacy-token-last-used"
	// InvalidSinceLabel is set on those that were not used for long; taking it off makes the token good again.
	InvalidSinceLabel = "kubernetes.io/legacy-token-invalid-since"
)

const day = time.DateOnly

type secretClaims struct {
	Namespace   string `json:"kubernetes.io/serviceaccount/namespace,omitempty"`
	Secret      string `json:"kubernetes.io/serviceaccount/secret.name,omitempty"`
	AccountName string `json:"kubernetes.io/serviceaccount/service-account.name,omitempty"`
	AccountUID  string `json:"kubernetes.io/serviceaccount/service-account.uid,omitempty"`
}

// SecretIssuer signs the tokens of Secrets.
type SecretIssuer struct{ signer jose.Signer }

// NewSecretIssuer signs with the key of service-account tokens.
func NewSecretIssuer(key crypto.Signer) (*SecretIssuer, error) {
	signer, err := newSigner(key)
	if err != nil {
		return nil, err
	}
	return &SecretIssuer{signer}, nil
}

// Sign makes the token that a Secret of the account's namespace is to hold.
func (i *SecretIssuer) Sign(account *corev1.ServiceAccount, secret string) (string, error) {
	token, err := jwt.Signed(i.signer).
		Claims(jwt.Claims{Issuer: secretIssuer, Subject: serviceaccount.MakeUsername(account.Namespace, account.Name)}).
		Claims(secretClaims{Namespace: account.Namespace, Secret: secret, AccountName: account.Name, AccountUID: string(account.UID)}).
		Serialize()
	if err != nil {
		return "", fmt.Errorf("sign token for service account %s/%s: %w", account.Namespace, account.Name, err)
	}
	return token, nil
}

// Marker notes on a Secret when its token was last used.
type Marker interface {
	MarkUsed(ctx context.Context, secret *corev1.Secret, day string) error
}

// secretToken judges a token whose signature is right and that says it is from a Secret.
func (s *ServiceAccounts) secretToken(ctx context.Context, token, subject string, c secretClaims) (*authenticator.Response, bool, error) {
	if c.Namespace == "" || c.Secret == "" || c.AccountName == "" || c.AccountUID == "" ||
		subject != serviceaccount.MakeUsername(c.Namespace, c.AccountName) {
		return nil, false, errors.New("service-account token does not name its service account and Secret")
	}
	audiences, ok := authenticator.AudiencesFrom(ctx)
	if !ok {
		audiences = s.audiences
	}
	if audiences = s.audiences.Intersect(audiences); len(audiences) == 0 {
		return nil, false, errors.New("service-account token of a Secret is for the API server only")
	}
	secret, err := s.secret(ctx, token, c)
	if err != nil {
		return nil, false, err
	}
	if err := s.alive(ctx, Ref{"serviceaccounts", c.Namespace, c.AccountName}, c.AccountUID); err != nil {
		return nil, false, err
	}
	if since, marked := secret.Labels[InvalidSinceLabel]; marked {
		return nil, false, fmt.Errorf("the token in secret %s/%s was not used for long and is not good since %s: take the label %s off the secret, or use TokenRequest",
			c.Namespace, c.Secret, since, InvalidSinceLabel)
	}
	audit.AddAuditAnnotation(ctx, "authentication.k8s.io/legacy-token", subject)
	if today := s.now().UTC().Format(day); secret.Labels[LastUsedLabel] != today && s.marker != nil {
		if err := s.marker.MarkUsed(ctx, secret, today); err != nil {
			slog.Warn("not noted when a token secret was last used; the next request tries again", "component", "authn",
				"secret", c.Namespace+"/"+c.Secret, "err", err)
		}
	}
	info := &serviceaccount.ServiceAccountInfo{Namespace: c.Namespace, Name: c.AccountName, UID: c.AccountUID}
	return &authenticator.Response{User: info.UserInfo(), Audiences: audiences}, true, nil
}

// secret finds the one that holds the token. One whose token was replaced may just have been.
func (s *ServiceAccounts) secret(ctx context.Context, token string, c secretClaims) (*corev1.Secret, error) {
	ref := Ref{"secrets", c.Namespace, c.Secret}
	for _, fresh := range []bool{false, true} {
		found, err := s.objects.Object(ctx, ref, fresh)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("check the secret of a service-account token: %w", err)
		}
		secret, ok := found.(*corev1.Secret)
		if ok && secret.DeletionTimestamp == nil && subtle.ConstantTimeCompare(secret.Data[corev1.ServiceAccountTokenKey], []byte(token)) == 1 {
			return secret, nil
		}
	}
	return nil, fmt.Errorf("%s does not hold this token any more", ref)
}
