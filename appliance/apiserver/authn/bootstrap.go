package authn

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"knarr.dev/knarr/bootstrap/token"
)

// Bootstrap authenticates machines that join with a token.
type Bootstrap struct {
	secrets corev1client.SecretsGetter
	now     func() time.Time
}

// NewBootstrap looks tokens up in kube-system, fresh each time: joining is rare, and a revoked token ends at once.
func NewBootstrap(secrets corev1client.SecretsGetter) *Bootstrap {
	return &Bootstrap{secrets: secrets, now: time.Now}
}

// AuthenticateToken says whose token it is; ok is false and err nil when it does not look like a bootstrap token.
func (b *Bootstrap) AuthenticateToken(ctx context.Context, bearer string) (*authenticator.Response, bool, error) {
	id, secret, ok := token.ParseBearer(bearer)
	if !ok {
		return nil, false, nil
	}
	found, err := b.secrets.Secrets(metav1.NamespaceSystem).Get(ctx, token.SecretName(id), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, false, fmt.Errorf("there is no bootstrap token %s", id)
	}
	if err != nil {
		return nil, false, fmt.Errorf("look up bootstrap token %s: %w", id, err)
	}
	grant, err := token.FromSecret(found)
	if err != nil {
		return nil, false, err
	}
	switch {
	case found.DeletionTimestamp != nil:
		return nil, false, fmt.Errorf("bootstrap token %s is being deleted", id)
	case !grant.Matches(secret):
		return nil, false, fmt.Errorf("bootstrap token %s has another secret", id)
	case grant.Expired(b.now()):
		return nil, false, fmt.Errorf("bootstrap token %s has expired", id)
	case !grant.Login:
		return nil, false, errors.New("bootstrap token " + id + " is not for logging in")
	}
	return &authenticator.Response{User: &user.DefaultInfo{
		Name:   token.UserPrefix + id,
		Groups: append([]string{token.BootstrappersGroup}, grant.Groups...),
	}}, true, nil
}
