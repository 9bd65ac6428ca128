// Package nodeipam gives every node a range of pod addresses.
//
// In:       nodes; the cluster CIDRs, one of each family at most.
// Out:      spec.podCIDR and spec.podCIDRs, once a node's life.
// Promise:  no two nodes share an address, also across restarts and changes of the writer.
// Not here: addresses of single pods (netstack/podnet).
package nodeipam

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"knarr.dev/knarr/workloads/events"
)

// Reconciler settles nodes, one at a time: its single worker is what keeps two of its own decisions apart.
type Reconciler struct {
	client client.Client
	live   client.Reader
	events record.EventRecorder
	ranges []netip.Prefix
}

// Register adds the controller to a manager. It writes alone: only one manager of a cluster may run it.
func Register(mgr manager.Manager, ranges []netip.Prefix) error {
	r := &Reconciler{client: mgr.GetClient(), live: mgr.GetAPIReader(), events: events.Recorder(mgr, "node-ipam-controller"), ranges: ranges}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("nodeipam").
		For(&corev1.Node{}, builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool {
			return o.(*corev1.Node).Spec.PodCIDR == ""
		}))).
		Complete(r)
	if err != nil {
		return fmt.Errorf("register the node address controller: %w", err)
	}
	return nil
}

// Reconcile settles one node.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	// Past the cache: it may not show yet what this process, or the writer before it, gave away a moment ago.
	var nodes corev1.NodeList
	if err := r.live.List(ctx, &nodes); err != nil {
		return ctrl.Result{}, fmt.Errorf("list nodes: %w", err)
	}
	node, taken := observe(nodes.Items, req.Name)
	if node == nil || node.Spec.PodCIDR != "" || node.DeletionTimestamp != nil {
		return ctrl.Result{}, nil
	}
	next := node.DeepCopy()
	for _, cluster := range r.ranges {
		cidr, err := allocate(cluster, taken)
		if err != nil {
			r.events.Event(node, corev1.EventTypeNormal, "CIDRNotAvailable", fmt.Sprintf("Node %s status is now: CIDRNotAvailable", node.Name))
			return ctrl.Result{}, fmt.Errorf("give node %s its pod addresses: %w", req.Name, err)
		}
		next.Spec.PodCIDRs = append(next.Spec.PodCIDRs, cidr.String())
	}
	next.Spec.PodCIDR = next.Spec.PodCIDRs[0]
	// Of any version: a node that registers is written to by others, and a range once set the API server keeps.
	err := r.client.Patch(ctx, next, client.MergeFrom(node))
	if apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("give node %s the pod addresses %v: %w", req.Name, next.Spec.PodCIDRs, err)
	}
	return ctrl.Result{}, nil
}

// observe finds a node and the ranges all nodes have.
func observe(nodes []corev1.Node, name string) (found *corev1.Node, taken []netip.Prefix) {
	for i := range nodes {
		if nodes[i].Name == name {
			found = &nodes[i]
		}
		ranges := nodes[i].Spec.PodCIDRs
		if len(ranges) == 0 {
			ranges = []string{nodes[i].Spec.PodCIDR}
		}
		for _, text := range ranges {
			if p, err := netip.ParsePrefix(text); err == nil {
				taken = append(taken, p)
			}
		}
	}
	return found, taken
}
