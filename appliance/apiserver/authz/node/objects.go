package node

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
)

// Objects tell what a node needs. A look that is not fresh may be a little old; what is not there is an error
// for which apierrors.IsNotFound holds.
type Objects interface {
	PodsOn(ctx context.Context, node string, fresh bool) ([]*corev1.Pod, error)
	Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error)
	Volume(ctx context.Context, name string) (*corev1.PersistentVolume, error)
	Attachment(ctx context.Context, name string) (*storagev1.VolumeAttachment, error)
	// AnyNetworkPolicy reports whether there is one, of any namespace.
	AnyNetworkPolicy(ctx context.Context, fresh bool) (bool, error)
}

// Client looks through the API server's own connection: at its watch cache, or at the datastore when fresh.
// Volumes are looked up after pods said no, which is rare, so they are always fresh.
type Client struct{ Interface kubernetes.Interface }

// PodsOn implements Objects.
func (c Client) PodsOn(ctx context.Context, node string, fresh bool) ([]*corev1.Pod, error) {
	options := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node).String(), ResourceVersion: "0"}
	if fresh {
		options.ResourceVersion = ""
	}
	list, err := c.Interface.CoreV1().Pods(metav1.NamespaceAll).List(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("list pods on node %s: %w", node, err)
	}
	pods := make([]*corev1.Pod, len(list.Items))
	for i := range list.Items {
		pods[i] = &list.Items[i]
	}
	return pods, nil
}

// Claim implements Objects.
func (c Client) Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	return c.Interface.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
}

// Volume implements Objects.
func (c Client) Volume(ctx context.Context, name string) (*corev1.PersistentVolume, error) {
	return c.Interface.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
}

// Attachment implements Objects.
func (c Client) Attachment(ctx context.Context, name string) (*storagev1.VolumeAttachment, error) {
	return c.Interface.StorageV1().VolumeAttachments().Get(ctx, name, metav1.GetOptions{})
}

// AnyNetworkPolicy implements Objects.
func (c Client) AnyNetworkPolicy(ctx context.Context, fresh bool) (bool, error) {
	options := metav1.ListOptions{ResourceVersion: "0"}
	if fresh {
		options = metav1.ListOptions{Limit: 1}
	}
	list, err := c.Interface.NetworkingV1().NetworkPolicies(metav1.NamespaceAll).List(ctx, options)
	if err != nil {
		return false, fmt.Errorf("look for network policies: %w", err)
	}
	return len(list.Items) > 0, nil
}

// Account looks a service account up, for the admission plugin that checks whom a node speaks for.
func (c Client) Account(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	return c.Interface.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
}

// Node looks a node up.
func (c Client) Node(ctx context.Context, name string) (*corev1.Node, error) {
	return c.Interface.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
}
