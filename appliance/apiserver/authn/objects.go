package authn

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
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

// MarkUsed implements Marker.
func (c Client) MarkUsed(ctx context.Context, secret *corev1.Secret, day string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": secret.UID, "labels": map[string]string{LastUsedLabel: day},
	}})
	if err != nil {
		return fmt.Errorf("encode the day of use: %w", err)
	}
	_, err = c.Core.Secrets(secret.Namespace).Patch(ctx, secret.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("label secret %s/%s: %w", secret.Namespace, secret.Name, err)
	}
	return nil
}
