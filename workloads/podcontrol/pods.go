package podcontrol

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/workloads/indexes"
)

// Pods lists the pods that are owner's when it is done, adopting and releasing on the way. wants says which pods of
// nobody owner would have, beyond what its selector says. The pods are the cache's own.
func (c *Claimer) Pods(ctx context.Context, owner, empty client.Object, selector labels.Selector, wants func(*corev1.Pod) bool) ([]*corev1.Pod, error) {
	pods, err := c.list(ctx, owner.GetNamespace(), string(owner.GetUID()), labels.Everything())
	if err != nil {
		return nil, err
	}
	orphans, err := c.list(ctx, owner.GetNamespace(), "", selector)
	if err != nil {
		return nil, err
	}
	for _, orphan := range orphans {
		if Active(orphan) && wants(orphan) {
			pods = append(pods, orphan)
		}
	}
	return Take(ctx, c, owner, empty, selector, pods)
}

func (c *Claimer) list(ctx context.Context, namespace, controller string, selector labels.Selector) ([]*corev1.Pod, error) {
	var list corev1.PodList
	err := c.Client.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{indexes.PodController: controller},
		client.MatchingLabelsSelector{Selector: selector}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("list pods in %s: %w", namespace, err)
	}
	pods := make([]*corev1.Pod, len(list.Items))
	for i := range list.Items {
		pods[i] = &list.Items[i]
	}
	return pods, nil
}
