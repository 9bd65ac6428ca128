package authn

import (
	"context"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
)

// Client looks through the API server's own connection: at its watch cache, or at the datastore when fresh.
type Client struct{ Core corev1client.CoreV1Interface }

// Object implements Objects.
func (c Client) Object(ctx context.Context, ref Ref, fresh bool) (metav1.Object, error) {
	options := metav1.GetOptions{ResourceVersion: "0"}
	if fresh {
		options.ResourceVersion = ""
	}
	switch ref.Resource {
	case "serviceaccounts":
		return c.Core.ServiceAccounts(ref.Namespace).Get(ctx, ref.Name, options)
	case "pods":
		return c.Core.Pods(ref.Namespace).Get(ctx, ref.Name, options)
	case "secrets":
		return c.Core.Secrets(ref.Namespace).Get(ctx, ref.Name, options)
	case "nodes":
		return c.Core.Nodes().Get(ctx, ref.Name, options)
	}
	return nil, fmt.Errorf("tokens are not bound to %s", ref.Resource)
}
