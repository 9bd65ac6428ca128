// Package indexes names the cache indexes that more than one reader of the shared cache needs.
//
// In:       the shared cache's field indexer, once, before it starts.
// Out:      lists by node and by owner without walking every pod.
// Promise:  an index is registered in one place, so no two controllers register it twice.
// Not here: the cache itself (appliance/machine).
package indexes

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// PodNode indexes pods by spec.nodeName; client.MatchingFields{indexes.PodNode: name}.
	PodNode = "spec.nodeName"
	// PodController indexes pods by the UID of their controller, "" when they have none.
	PodController = "metadata.controller"
	// ReplicaSetController indexes ReplicaSets in the same way.
	ReplicaSetController = "metadata.controller"
)

// Register adds all indexes to a cache.
func Register(ctx context.Context, indexer client.FieldIndexer) error {
	if err := RegisterNodes(ctx, indexer); err != nil {
		return err
	}
	if err := indexer.IndexField(ctx, &corev1.Pod{}, PodController, Controller); err != nil {
		return fmt.Errorf("index pods by controller: %w", err)
	}
	if err := indexer.IndexField(ctx, &appsv1.ReplicaSet{}, ReplicaSetController, Controller); err != nil {
		return fmt.Errorf("index replicasets by controller: %w", err)
	}
	return nil
}

// RegisterNodes adds what a machine's agent may read: an index of a kind makes the cache follow that kind.
func RegisterNodes(ctx context.Context, indexer client.FieldIndexer) error {
	if err := indexer.IndexField(ctx, &corev1.Pod{}, PodNode, func(o client.Object) []string {
		return []string{o.(*corev1.Pod).Spec.NodeName}
	}); err != nil {
		return fmt.Errorf("index pods by node: %w", err)
	}
	return nil
}

// Controller is the UID of an object's controller, "" when it has none.
func Controller(o client.Object) []string {
	if owner := metav1.GetControllerOfNoCopy(o); owner != nil {
		return []string{string(owner.UID)}
	}
	return []string{""}
}
