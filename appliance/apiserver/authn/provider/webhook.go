package provider

import (
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	webhookutil "k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/webhook"
)

// NewWebhook asks a service about tokens, with TokenReviews. The kubeconfig's cluster is the service, its user is us.
func NewWebhook(kubeconfig string, audiences authenticator.Audiences) (authenticator.Token, error) {
	client, err := webhookutil.LoadKubeconfig(kubeconfig, nil)
	if err != nil {
		return nil, fmt.Errorf("read the authentication webhook's kubeconfig %s: %w", kubeconfig, err)
	}
	asks, err := webhook.New(client, authenticationv1.SchemeGroupVersion.Version, audiences, *webhook.DefaultRetryBackoff())
	if err != nil {
		return nil, fmt.Errorf("use the authentication webhook of %s: %w", kubeconfig, err)
	}
	return asks, nil
}
