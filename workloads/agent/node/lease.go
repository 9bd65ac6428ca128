package node

import (
	"context"
	"fmt"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A quarter of the lease's life: three renewals may fail before anybody takes the node for lost.
const (
	leaseSeconds = 40
	renewEvery   = 10 * time.Second
)

// keepLease renews the lease until ctx ends. A failure is tried again soon, because every second of it counts against
// the node's life.
func (n *Node) keepLease(ctx context.Context) {
	var held *coordinationv1.Lease
	retry := 100 * time.Millisecond
	failing := false
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		renewed, err := n.renew(ctx, held)
		if err == nil {
			if failing {
				n.config.Log.Info("node lease renewed again", "node", n.config.Name)
			}
			held, retry, failing = renewed, 100*time.Millisecond, false
			timer.Reset(renewEvery)
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if !failing && retry > time.Second { // the first failures are a restart of the API server or a lost race
			n.config.Log.Warn("node lease not renewed; trying on", "node", n.config.Name, "err", err)
			failing = true
		}
		held = nil // whatever it was, the next try reads it anew
		timer.Reset(retry)
		retry = min(2*retry, 7*time.Second)
	}
}

// renew writes the lease: over the version we hold, else over the one there is, else as a new one.
func (n *Node) renew(ctx context.Context, held *coordinationv1.Lease) (*coordinationv1.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, renewEvery)
	defer cancel()
	leases := n.config.Client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	if held == nil {
		found, err := leases.Get(ctx, n.config.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			created, err := leases.Create(ctx, n.lease(nil), metav1.CreateOptions{})
			if err != nil {
				return nil, fmt.Errorf("create lease of node %s: %w", n.config.Name, err)
			}
			return created, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read lease of node %s: %w", n.config.Name, err)
		}
		held = found
	}
	renewed, err := leases.Update(ctx, n.lease(held), metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("renew lease of node %s: %w", n.config.Name, err)
	}
	return renewed, nil
}

// lease as it should be now. It belongs to the Node object, so that deleting the node deletes it.
func (n *Node) lease(held *coordinationv1.Lease) *coordinationv1.Lease {
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: n.config.Name, Namespace: corev1.NamespaceNodeLease}}
	if held != nil {
		lease = held.DeepCopy()
	}
	n.mu.Lock()
	if node := n.current; node != nil {
		lease.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
	}
	n.mu.Unlock()
	now, seconds := metav1.NowMicro(), int32(leaseSeconds)
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &n.config.Name, &seconds, &now
	return lease
}
