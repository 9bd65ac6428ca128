package token

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
)

const (
	// BootstrappersGroup is every machine that logs in with a token.
	BootstrappersGroup = "system:bootstrappers"
	// NodesGroup may ask for a node's certificates; appliance/apiserver/baseline grants it.
	NodesGroup = "system:bootstrappers:knarr:nodes"
	// UserPrefix and the token's ID are the login's name.
	UserPrefix = "system:bootstrap:"

	secretPrefix = "bootstrap-token-"

	keyID          = "token-id"
	keySecret      = "token-secret"
	keyExpiration  = "expiration"
	keyDescription = "description"
	keyGroups      = "auth-extra-groups"
	keyLogin       = "usage-bootstrap-authentication"
	keySigning     = "usage-bootstrap-signing"
)

var extraGroup = regexp.MustCompile(`^system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]$`)

// Grant is what the cluster knows of a token.
type Grant struct {
	ID          string
	Description string
	Groups      []string  // beside BootstrappersGroup
	Expires     time.Time // zero: never
	Login       bool      // may log in to the API server
	Signing     bool      // vouches for the cluster toward machines that know it

	secret string
}

// SecretName is where the cluster keeps the token with that ID, in kube-system.
func SecretName(id string) string { return secretPrefix + id }

// ParseBearer takes a login apart; ok is false when it is not a bootstrap token's.
func ParseBearer(bearer string) (id, secret string, ok bool) {
	id, secret, found := strings.Cut(bearer, ".")
	ok = found && len(id) == idLength && len(secret) == secretLength && word.MatchString(id) && word.MatchString(secret)
	return id, secret, ok
}

// FromSecret reads a grant; the error says what makes the Secret unusable.
func FromSecret(s *corev1.Secret) (*Grant, error) {
	g := &Grant{
		ID:          string(s.Data[keyID]),
		secret:      string(s.Data[keySecret]),
		Description: string(s.Data[keyDescription]),
		Login:       string(s.Data[keyLogin]) == "true",
		Signing:     string(s.Data[keySigning]) == "true",
	}
	switch {
	case s.Type != corev1.SecretTypeBootstrapToken:
		return nil, fmt.Errorf("secret %s is not of type %s", s.Name, corev1.SecretTypeBootstrapToken)
	case s.Name != SecretName(g.ID):
		return nil, fmt.Errorf("secret %s holds a token of another name", s.Name)
	case len(g.secret) != secretLength || !word.MatchString(g.secret):
		return nil, fmt.Errorf("secret %s holds no usable token", s.Name)
	}
	expires, err := Expiration(s)
	if err != nil {
		return nil, err
	}
	g.Expires = expires
	for group := range strings.SplitSeq(string(s.Data[keyGroups]), ",") {
		if group == "" {
			continue
		}
		if !extraGroup.MatchString(group) {
			return nil, fmt.Errorf("secret %s names the group %q, which a token cannot have", s.Name, group)
		}
		g.Groups = append(g.Groups, group)
	}
	slices.Sort(g.Groups)
	return g, nil
}

// Expiration is when a token's Secret ends; zero: never.
func Expiration(s *corev1.Secret) (time.Time, error) {
	text := string(s.Data[keyExpiration])
	if text == "" {
		return time.Time{}, nil
	}
	expires, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("secret %s has no readable expiration", s.Name)
	}
	return expires, nil
}

// Sign returns a signature of content, which is not in it: a JWS of HS256 in compact form with its content left out
// (RFC 7515, appendix F), as clients of the ConfigMap cluster-info compute it.
func (g *Grant) Sign(content string) string {
	encode := base64.RawURLEncoding.EncodeToString
	header := encode(fmt.Appendf(nil, `{"alg":"HS256","kid":%q}`, g.ID))
	mac := hmac.New(sha256.New, []byte(g.secret))
	mac.Write([]byte(header + "." + encode([]byte(content))))
	return header + ".." + encode(mac.Sum(nil))
}

// Expired reports whether the grant has ended.
func (g *Grant) Expired(now time.Time) bool { return !g.Expires.IsZero() && !now.Before(g.Expires) }

// Matches compares a login's secret in constant time.
func (g *Grant) Matches(secret string) bool {
	return subtle.ConstantTimeCompare([]byte(g.secret), []byte(secret)) == 1
}

// Create makes a token known to the cluster for that long; it lets machines join as nodes.
func Create(ctx context.Context, secrets corev1client.SecretsGetter, t Token, description string, expires time.Time) error {
	data := map[string]string{
		keyID:          t.ID,
		keySecret:      t.secret,
		keyDescription: description,
		keyGroups:      NodesGroup,
		keyLogin:       "true",
	}
	if !expires.IsZero() {
		data[keyExpiration] = expires.UTC().Format(time.RFC3339)
	}
	_, err := secrets.Secrets(metav1.NamespaceSystem).Create(ctx, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: SecretName(t.ID), Namespace: metav1.NamespaceSystem},
		Type:       corev1.SecretTypeBootstrapToken,
		StringData: data,
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("create token %s: %w", t.ID, err)
	}
	return nil
}

// List returns the tokens the cluster knows, soonest to end first. Secrets that hold no usable token are left out.
func List(ctx context.Context, secrets corev1client.SecretsGetter) ([]*Grant, error) {
	found, err := secrets.Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("type", string(corev1.SecretTypeBootstrapToken)).String(),
	})
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	var grants []*Grant
	for i := range found.Items {
		if g, err := FromSecret(&found.Items[i]); err == nil {
			grants = append(grants, g)
		}
	}
	slices.SortFunc(grants, func(a, b *Grant) int {
		if a.Expires.IsZero() != b.Expires.IsZero() {
			if a.Expires.IsZero() {
				return 1
			}
			return -1
		}
		return cmp.Or(a.Expires.Compare(b.Expires), strings.Compare(a.ID, b.ID))
	})
	return grants, nil
}

// Revoke ends a token; machines that joined with it stay. id may be the whole text of the token.
func Revoke(ctx context.Context, secrets corev1client.SecretsGetter, id string) error {
	if t, err := Parse(id); err == nil {
		id = t.ID
	}
	if len(id) != idLength || !word.MatchString(id) {
		return errors.New("that is not a token's name: take the first column of `knarr token list`")
	}
	err := secrets.Secrets(metav1.NamespaceSystem).Delete(ctx, SecretName(id), metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return fmt.Errorf("there is no token %s: see `knarr token list`", id)
	}
	if err != nil {
		return fmt.Errorf("revoke token %s: %w", id, err)
	}
	return nil
}
