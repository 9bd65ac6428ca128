// Package endpointslice publishes which pods stand behind a service.
//
// In:       services, their pods, nodes and slices, from the shared cache.
// Out:      EndpointSlices, with hints which zone or node an endpoint is for, and the older Endpoints of the same pods.
// Promise:  a pod that turns ready or leaves is published in one pass, without waiting for others to collect.
// Not here: what nodes do with them (netstack/proxy, netstack/dns).
package endpointslice

import (
	"context"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"
	endpointslice "k8s.io/endpointslice"
	"k8s.io/endpointslice/topologycache"
	endpointsliceutil "k8s.io/endpointslice/util"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"knarr.dev/knarr/workloads/events"
)

const (
	// managedBy is upstream's name: proxies and other programs select slices by it.
	managedBy = "endpointslice-controller.k8s.io"
	// perSlice is upstream's default: large enough for nearly all services to need one slice, small enough that one
	// pod's change stays a small message to every node.
	perSlice = 100
)

// Reconciler settles services.
type Reconciler struct {
	client   client.Client
	events   record.EventRecorder
	slices   *endpointslice.Reconciler
	written  *endpointsliceutil.EndpointSliceTracker // our own writes, until the cache shows them
	triggers *endpointsliceutil.TriggerTimeTracker
	zones    *topologycache.TopologyCache
	waiting  sync.Map // services that wait for the cache to show our own writes
}

// Register adds the controller to a manager.
func Register(mgr manager.Manager) error {
	clients, err := kubernetes.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return fmt.Errorf("make a client for endpoint slices: %w", err)
	}
	r := New(mgr.GetClient(), clients, events.Recorder(mgr, "endpoint-slice-controller"))
	shifted := make(chan event.GenericEvent)
	if err := registerZones(mgr, r.zones, shifted); err != nil {
		return err
	}
	err = ctrl.NewControllerManagedBy(mgr).
		For(&corev1.Service{}).
		Watches(&corev1.Pod{}, r.followPods()).
		Watches(&discoveryv1.EndpointSlice{}, r.followSlices()).
		Watches(endpoints(), followEndpoints()).
		WatchesRawSource(source.Channel(shifted, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: 5}).
		Named("endpointslice").
		Complete(r)
	if err != nil {
		return fmt.Errorf("register the endpoint slice controller: %w", err)
	}
	return nil
}

// New returns a Reconciler that reads and writes Endpoints through c and writes slices through clients.
func New(c client.Client, clients kubernetes.Interface, recorder record.EventRecorder) *Reconciler {
	written, zones := endpointsliceutil.NewEndpointSliceTracker(), topologycache.NewTopologyCache()
	return &Reconciler{
		client:   c,
		events:   recorder,
		written:  written,
		triggers: endpointsliceutil.NewTriggerTimeTracker(),
		zones:    zones,
		slices: endpointslice.NewReconciler(clients, nodes{c}, perSlice, written, zones, recorder,
			managedBy, endpointslice.WithPreferSameTrafficDistributionEnabled(true)),
	}
}

// Reconcile settles one service.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var service corev1.Service
	err := r.client.Get(ctx, req.NamespacedName, &service)
	if apierrors.IsNotFound(err) {
		r.triggers.DeleteService(req.Namespace, req.Name)
		r.written.DeleteService(req.Namespace, req.Name)
		r.slices.DeleteService(req.Namespace, req.Name)
		for _, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
			r.zones.RemoveHints(req.String(), family)
		}
		return ctrl.Result{}, r.dropEndpoints(ctx, req.NamespacedName) // slices go with their owner
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe service %s: %w", req, err)
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName || service.Spec.Selector == nil {
		return ctrl.Result{}, nil // nobody's pods, or someone else keeps its endpoints
	}
	pods, err := r.pods(ctx, &service)
	if err != nil {
		return ctrl.Result{}, err
	}
	if err := r.settleSlices(ctx, &service, pods); err != nil {
		return ctrl.Result{}, err
	}
	again, err := r.settleEndpoints(ctx, &service, pods)
	return ctrl.Result{RequeueAfter: again}, err
}

func (r *Reconciler) settleSlices(ctx context.Context, service *corev1.Service, pods []*corev1.Pod) error {
	key := client.ObjectKeyFromObject(service)
	r.waiting.Store(key, nil) // before looking: whatever the look misses queues another pass
	existing, err := r.existing(ctx, service)
	if err != nil {
		return err
	}
	if r.written.StaleSlices(service, existing) {
		return nil
	}
	r.waiting.Delete(key)
	trigger := r.triggers.ComputeEndpointLastChangeTriggerTime(service.Namespace, service, pods)
	if err := r.slices.Reconcile(klog.Logger{}, service, pods, existing, trigger); err != nil {
		r.events.Eventf(service, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Service %s: %v", key, err)
		return fmt.Errorf("settle slices of service %s: %w", key, err)
	}
	return nil
}

func (r *Reconciler) pods(ctx context.Context, service *corev1.Service) ([]*corev1.Pod, error) {
	var list corev1.PodList
	err := r.client.List(ctx, &list, client.InNamespace(service.Namespace), client.MatchingLabels(service.Spec.Selector), client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("list pods of service %s/%s: %w", service.Namespace, service.Name, err)
	}
	pods := make([]*corev1.Pod, len(list.Items))
	for i := range list.Items {
		pods[i] = &list.Items[i]
	}
	return pods, nil
}

// existing lists the service's slices, as copies: the library sorts ports in place.
func (r *Reconciler) existing(ctx context.Context, service *corev1.Service) ([]*discoveryv1.EndpointSlice, error) {
	var list discoveryv1.EndpointSliceList
	err := r.client.List(ctx, &list, client.InNamespace(service.Namespace), client.MatchingLabels{
		discoveryv1.LabelServiceName: service.Name, discoveryv1.LabelManagedBy: managedBy,
	}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("list slices of service %s/%s: %w", service.Namespace, service.Name, err)
	}
	var existing []*discoveryv1.EndpointSlice
	for i := range list.Items {
		if list.Items[i].DeletionTimestamp == nil {
			existing = append(existing, list.Items[i].DeepCopy())
		}
	}
	return existing, nil
}

// nodes lets the library read nodes from the shared cache.
type nodes struct{ reader client.Reader }

var _ corelisters.NodeLister = nodes{}

// Get implements corelisters.NodeLister.
func (n nodes) Get(name string) (*corev1.Node, error) {
	var node corev1.Node
	// The cache answers from memory; there is nothing to cancel.
	return &node, n.reader.Get(context.Background(), types.NamespacedName{Name: name}, &node)
}

// List implements corelisters.NodeLister.
func (n nodes) List(selector labels.Selector) ([]*corev1.Node, error) {
	var list corev1.NodeList
	if err := n.reader.List(context.Background(), &list, client.MatchingLabelsSelector{Selector: selector}); err != nil {
		return nil, err
	}
	all := make([]*corev1.Node, len(list.Items))
	for i := range list.Items {
		all[i] = &list.Items[i]
	}
	return all, nil
}

// servicesOf lists the services whose selector matches any of some label sets.
func servicesOf(ctx context.Context, reader client.Reader, namespace string, sets ...labels.Set) []types.NamespacedName {
	var list corev1.ServiceList
	if err := reader.List(ctx, &list, client.InNamespace(namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil // the cache is closing
	}
	var found []types.NamespacedName
	for i := range list.Items {
		service := &list.Items[i]
		if service.Spec.Selector == nil {
			continue // no selector matches nothing, not everything
		}
		selector := labels.SelectorFromSet(service.Spec.Selector)
		if slices.ContainsFunc(sets, func(s labels.Set) bool { return selector.Matches(s) }) {
			found = append(found, client.ObjectKeyFromObject(service))
		}
	}
	return found
}
