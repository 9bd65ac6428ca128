// Package nodebalancer gives services of type LoadBalancer the addresses of the nodes themselves.
//
// In:       services without a loadBalancerClass, nodes with what they say of their ports (bootstrap/heldports), pods with
// host ports, EndpointSlices of services with externalTrafficPolicy Local.
// Out:      status.loadBalancer, and an event where somebody else has a port; the reasons, for who asks (appliance/why).
// Promise:  no port of a node belongs to two; what a service has it keeps against all who come later.
// Not here: what arrives at a node's address (netstack/proxy), addresses of a pool (workloads/loadbalancer).
package nodebalancer

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/bootstrap/heldports"
	"knarr.dev/knarr/workloads/events"
)

// ofPool is the finalizer of services that had an address of a pool; nobody else would take it off any more.
const ofPool = "service.kubernetes.io/load-balancer-cleanup"

// all is the one request: what a service gets depends on what others have.
var all = reconcile.Request{NamespacedName: types.NamespacedName{Name: "all"}}

// Concerns says whether a service is one we are for.
func Concerns(o metav1.Object) bool {
	s, whole := o.(*corev1.Service)
	return !whole || concerns(s)
}

// Reconciler settles all services at once.
type Reconciler struct {
	client client.Client
	events record.EventRecorder
	said   map[types.NamespacedName]string // the last event of a service
}

// Register adds the controller to a manager.
func Register(mgr manager.Manager) error {
	r := &Reconciler{client: mgr.GetClient(), events: events.Recorder(mgr, "service-controller"), said: map[types.NamespacedName]string{}}
	settle := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request { return []reconcile.Request{all} })
	err := ctrl.NewControllerManagedBy(mgr).
		Named("nodebalancer").
		Watches(&corev1.Service{}, settle).
		Watches(&corev1.Node{}, settle, builder.WithPredicates(predicate.Funcs{UpdateFunc: nodeMatters})).
		Watches(&corev1.Pod{}, settle, builder.WithPredicates(predicate.Funcs{
			CreateFunc: func(e event.CreateEvent) bool { return len(hostPorts(e.Object.(*corev1.Pod))) > 0 },
			UpdateFunc: podMatters,
			DeleteFunc: func(e event.DeleteEvent) bool { return len(hostPorts(e.Object.(*corev1.Pod))) > 0 },
		})).
		Watches(&discoveryv1.EndpointSlice{}, handler.EnqueueRequestsFromMapFunc(r.local)).
		Complete(r)
	if err != nil {
		return fmt.Errorf("register the controller of nodes' addresses: %w", err)
	}
	return nil
}

// nodeMatters tells a change from the news that a node is well.
func nodeMatters(e event.UpdateEvent) bool {
	before, after := e.ObjectOld.(*corev1.Node), e.ObjectNew.(*corev1.Node)
	return ready(before) != ready(after) || before.Annotations[heldports.Annotation] != after.Annotations[heldports.Annotation] ||
		(before.DeletionTimestamp == nil) != (after.DeletionTimestamp == nil) ||
		!apiequality.Semantic.DeepEqual(before.Labels, after.Labels) || !apiequality.Semantic.DeepEqual(before.Status.Addresses, after.Status.Addresses)
}

func podMatters(e event.UpdateEvent) bool {
	return !slices.Equal(hostPorts(e.ObjectOld.(*corev1.Pod)), hostPorts(e.ObjectNew.(*corev1.Pod)))
}

// local asks for a pass if it matters where a service's endpoints are.
func (r *Reconciler) local(ctx context.Context, o client.Object) []reconcile.Request {
	var s corev1.Service
	owner := types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetLabels()[discoveryv1.LabelServiceName]}
	if err := r.client.Get(ctx, owner, &s, client.UnsafeDisableDeepCopy); err != nil || !concerns(&s) || s.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
		return nil // a service that comes brings its own pass
	}
	return []reconcile.Request{all}
}

// Reconcile settles them.
func (r *Reconciler) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	w, err := r.observe(ctx)
	if err != nil {
		return ctrl.Result{}, err
	}
	grants := assign(w)
	for _, s := range w.services {
		g, ours := grants[key(s)]
		if err := r.settle(ctx, s, g, ours); err != nil {
			return ctrl.Result{}, err
		}
	}
	for name := range r.said {
		if _, stays := grants[name]; !stays {
			delete(r.said, name)
		}
	}
	return ctrl.Result{}, nil
}

func (r *Reconciler) observe(ctx context.Context) (world, error) {
	var services corev1.ServiceList
	var nodes corev1.NodeList
	var pods corev1.PodList
	for _, list := range []client.ObjectList{&services, &nodes, &pods} {
		if err := r.client.List(ctx, list, client.UnsafeDisableDeepCopy); err != nil {
			return world{}, fmt.Errorf("observe load balancers: %w", err)
		}
	}
	w := world{behind: map[types.NamespacedName]map[string]bool{}}
	for i := range nodes.Items {
		w.nodes = append(w.nodes, &nodes.Items[i])
	}
	slices.SortFunc(w.nodes, func(a, b *corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	for i := range pods.Items {
		if len(hostPorts(&pods.Items[i])) > 0 {
			w.pods = append(w.pods, &pods.Items[i])
		}
	}
	for i := range services.Items {
		s := &services.Items[i]
		w.services = append(w.services, s)
		if !concerns(s) || s.Spec.ExternalTrafficPolicy != corev1.ServiceExternalTrafficPolicyLocal {
			continue
		}
		var slices discoveryv1.EndpointSliceList
		if err := r.client.List(ctx, &slices, client.InNamespace(s.Namespace), client.MatchingLabels{discoveryv1.LabelServiceName: s.Name}, client.UnsafeDisableDeepCopy); err != nil {
			return world{}, fmt.Errorf("list endpoints of service %s: %w", key(s), err)
		}
		w.behind[key(s)] = behind(slices.Items)
	}
	return w, nil
}

// behind are the nodes with a ready endpoint.
func behind(slices []discoveryv1.EndpointSlice) map[string]bool {
	nodes := map[string]bool{}
	for i := range slices {
		for _, e := range slices[i].Endpoints {
			if e.NodeName != nil && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				nodes[*e.NodeName] = true
			}
		}
	}
	return nodes
}

// settle one service.
func (r *Reconciler) settle(ctx context.Context, s *corev1.Service, g grant, ours bool) error {
	if concerns(s) && controllerutil.ContainsFinalizer(s, ofPool) {
		next := s.DeepCopy()
		controllerutil.RemoveFinalizer(next, ofPool)
		if err := r.client.Patch(ctx, next, client.MergeFromWithOptions(s, client.MergeFromWithOptimisticLock{})); passing(err) != nil {
			return fmt.Errorf("take service %s out of the pool: %w", key(s), err)
		}
		return nil // the newer object queues its own pass
	}
	if !ours {
		return nil
	}
	if !apiequality.Semantic.DeepEqual(s.Status.LoadBalancer.Ingress, g.ingress) {
		next := s.DeepCopy()
		next.Status.LoadBalancer.Ingress = g.ingress
		if err := r.client.Status().Update(ctx, next); passing(err) != nil {
			return fmt.Errorf("update status of service %s: %w", key(s), err)
		}
	}
	if words := complaint(g); r.said[key(s)] != words {
		r.said[key(s)] = words
		if words != "" {
			r.events.Event(s, corev1.EventTypeWarning, "PortsTaken", words)
		}
	}
	return nil
}

// complaint is what a service's owner should know.
func complaint(g grant) string {
	switch {
	case len(g.refused) == 0 || g.waiting: // more is known in a moment
		return ""
	case len(g.ingress) == 0:
		return "No node has all ports free; " + strings.Join(g.refused, "; ")
	}
	return "Not at every node; " + strings.Join(g.refused, "; ")
}

// passing is nil for errors that mean our view was old: the newer object queues its own pass.
func passing(err error) error {
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
