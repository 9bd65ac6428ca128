package endpointslice

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/endpointslice/topologycache"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// shiftDelay gathers nodes that come or go together: each shift may rewrite the slices of every service that asks for it.
const shiftDelay = 2 * time.Second

// everyNode is the one request there is: what a zone's share is depends on all nodes.
var everyNode = reconcile.Request{NamespacedName: types.NamespacedName{Name: "every node"}}

// zones keeps the zones' shares of the cluster's CPU, by which services with topology-mode Auto divide their endpoints
// (KEP-2433). Those that say trafficDistribution need none of it.
type zones struct {
	client  client.Client
	shares  *topologycache.TopologyCache
	shifted chan<- event.GenericEvent // services to look at again
}

func registerZones(mgr manager.Manager, shares *topologycache.TopologyCache, shifted chan<- event.GenericEvent) error {
	err := ctrl.NewControllerManagedBy(mgr).
		Named("endpointslice-zones").
		Watches(&corev1.Node{}, followShares()).
		Complete(&zones{client: mgr.GetClient(), shares: shares, shifted: shifted})
	if err != nil {
		return fmt.Errorf("register the controller of zones: %w", err)
	}
	return nil
}

// Reconcile works the shares out anew.
func (z *zones) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	var list corev1.NodeList
	if err := z.client.List(ctx, &list, client.UnsafeDisableDeepCopy); err != nil {
		return ctrl.Result{}, fmt.Errorf("list nodes: %w", err)
	}
	var nodes []*corev1.Node
	for i := range list.Items {
		nodes = append(nodes, weighed(&list.Items[i]))
	}
	z.shares.SetNodes(klog.Logger{}, nodes)
	var services corev1.ServiceList
	if err := z.client.List(ctx, &services, client.UnsafeDisableDeepCopy); err != nil {
		return ctrl.Result{}, fmt.Errorf("list services: %w", err)
	}
	for i := range services.Items {
		if !divided(&services.Items[i]) {
			continue
		}
		select {
		case z.shifted <- event.GenericEvent{Object: &services.Items[i]}:
		case <-ctx.Done():
			return ctrl.Result{}, nil
		}
	}
	return ctrl.Result{}, nil
}

// weighed is what of a node the library reads, as a copy: it adds quantities up in place.
func weighed(node *corev1.Node) *corev1.Node {
	only := &corev1.Node{}
	only.Name, only.Labels, only.Status.Conditions = node.Name, node.Labels, node.Status.Conditions
	if cpu, known := node.Status.Allocatable[corev1.ResourceCPU]; known {
		only.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: cpu.DeepCopy()}
	}
	return only
}

// divided says whether a service asks for its endpoints to be divided among zones. What it asks for in which words is the
// library's to say; here is who may have.
func divided(service *corev1.Service) bool {
	_, mode := service.Annotations[corev1.AnnotationTopologyMode]
	_, hints := service.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	return mode || hints
}

// followShares queues the pass when a node comes, goes, or counts otherwise than before.
func followShares() handler.EventHandler {
	return handler.Funcs{
		CreateFunc: func(_ context.Context, _ event.CreateEvent, q queue) { q.AddAfter(everyNode, shiftDelay) },
		DeleteFunc: func(_ context.Context, _ event.DeleteEvent, q queue) { q.AddAfter(everyNode, shiftDelay) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q queue) {
			if shareOf(e.ObjectOld.(*corev1.Node)) != shareOf(e.ObjectNew.(*corev1.Node)) {
				q.AddAfter(everyNode, shiftDelay)
			}
		},
	}
}

// share is what of a node decides about the shares.
type share struct {
	zone     string
	cpu      int64
	ready    bool
	excluded bool // control planes carry no traffic of services
}

func shareOf(node *corev1.Node) share {
	s := share{zone: node.Labels[corev1.LabelTopologyZone], cpu: node.Status.Allocatable.Cpu().MilliValue()}
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == corev1.NodeReady {
			s.ready = node.Status.Conditions[i].Status == corev1.ConditionTrue
		}
	}
	for _, label := range []string{"node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"} {
		_, has := node.Labels[label]
		s.excluded = s.excluded || has
	}
	return s
}
