// Package endpointslicemirroring shows hand-made Endpoints to those who read EndpointSlices only.
//
// In:       Endpoints whose Service has no selector, from the shared cache, which holds Endpoints anyway.
// Out:      EndpointSlices with the same addresses, ports, labels and annotations, owned by the Endpoints.
// Promise:  a slice has the same name whoever makes it when, so that none is made twice.
// Not here: the endpoints of pods (workloads/endpointslice).
package endpointslicemirroring

//lint:file-ignore SA1019 Endpoints are deprecated, and mirrored for those who still write them.

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/workloads/events"
)

// behind is about as long as a write takes to come back through a watch.
const behind = 20 * time.Millisecond

// Reconciler settles the mirror of one Endpoints object.
type Reconciler struct {
	client client.Client
	events record.EventRecorder
}

// Register adds the controller to a manager.
func Register(mgr manager.Manager) error {
	r := New(mgr.GetClient(), events.Recorder(mgr, "endpoint-slice-mirroring-controller"))
	err := ctrl.NewControllerManagedBy(mgr).
		Named("endpointslicemirroring").
		Watches(&corev1.Endpoints{}, handler.EnqueueRequestsFromMapFunc(r.requestFor)).
		Watches(&corev1.Service{}, handler.EnqueueRequestsFromMapFunc(r.requestFor)).
		Watches(&discoveryv1.EndpointSlice{}, handler.EnqueueRequestsFromMapFunc(ofMirror)).
		Complete(r)
	if err != nil {
		return fmt.Errorf("register the endpoint slice mirroring controller: %w", err)
	}
	return nil
}

// New returns a Reconciler that works through c.
func New(c client.Client, recorder record.EventRecorder) *Reconciler {
	return &Reconciler{client: c, events: recorder}
}

// requestFor leaves services with a selector out, and so nearly all that happens: what a mirror left of an earlier life
// of such a service is found when its selector comes, or when the controller starts.
func (r *Reconciler) requestFor(ctx context.Context, o client.Object) []reconcile.Request {
	key := client.ObjectKeyFromObject(o)
	if _, isEndpoints := o.(*corev1.Endpoints); isEndpoints {
		var service corev1.Service
		if r.client.Get(ctx, key, &service) != nil || service.Spec.Selector != nil {
			return nil // the service, when it comes, asks again; slices go with their owner
		}
	}
	if service, isService := o.(*corev1.Service); isService && service.Spec.Selector != nil && !r.mirrored(ctx, key) {
		return nil
	}
	return []reconcile.Request{{NamespacedName: key}}
}

func (r *Reconciler) mirrored(ctx context.Context, key types.NamespacedName) bool {
	slices, err := r.existing(ctx, key)
	return err != nil || len(slices) > 0
}

// ofMirror names the Endpoints that a slice of ours is the mirror of.
func ofMirror(_ context.Context, o client.Object) []reconcile.Request {
	name := o.GetLabels()[discoveryv1.LabelServiceName]
	if name == "" || o.GetLabels()[discoveryv1.LabelManagedBy] != managedBy {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: o.GetNamespace(), Name: name}}}
}

// Reconcile settles the slices of one Endpoints object.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	service, endpoints, err := r.observe(ctx, req.NamespacedName)
	if err != nil {
		return ctrl.Result{}, err
	}
	existing, err := r.existing(ctx, req.NamespacedName)
	if err != nil {
		return ctrl.Result{}, err
	}
	wanted, whole := mirror(service, endpoints)
	changed := false
	for _, write := range difference(wanted, existing) {
		changed = true
		err := r.write(ctx, write)
		if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) {
			return ctrl.Result{RequeueAfter: behind}, nil // the cache is a moment behind
		}
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return ctrl.Result{}, fmt.Errorf("mirror endpoints %s: %w", req, err)
		}
	}
	if changed && !whole {
		r.events.Eventf(endpoints, corev1.EventTypeWarning, "TooManyAddressesToMirror",
			"A maximum of %d addresses per subset will be mirrored to EndpointSlices", addressLimit)
	}
	return ctrl.Result{}, nil
}

// observe reads both halves; nil is one that is not there.
func (r *Reconciler) observe(ctx context.Context, key types.NamespacedName) (*corev1.Service, *corev1.Endpoints, error) {
	service, endpoints := &corev1.Service{}, &corev1.Endpoints{}
	err := r.client.Get(ctx, key, service)
	if apierrors.IsNotFound(err) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("observe service %s: %w", key, err)
	}
	err = r.client.Get(ctx, key, endpoints)
	if apierrors.IsNotFound(err) {
		return service, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("observe endpoints %s: %w", key, err)
	}
	return service, endpoints, nil
}

func (r *Reconciler) existing(ctx context.Context, key types.NamespacedName) ([]discoveryv1.EndpointSlice, error) {
	var list discoveryv1.EndpointSliceList
	err := r.client.List(ctx, &list, client.InNamespace(key.Namespace), client.MatchingLabels{
		discoveryv1.LabelServiceName: key.Name, discoveryv1.LabelManagedBy: managedBy,
	}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("list mirrors of endpoints %s: %w", key, err)
	}
	return list.Items, nil
}

// write is one thing to do: make what is not there, change what is, or delete what has no wanted state.
type write struct{ wanted, existing *discoveryv1.EndpointSlice }

func (r *Reconciler) write(ctx context.Context, w write) error {
	switch {
	case w.existing == nil:
		return r.client.Create(ctx, w.wanted)
	case w.wanted == nil:
		return r.client.Delete(ctx, w.existing.DeepCopy(), client.Preconditions{UID: &w.existing.UID})
	}
	return r.client.Update(ctx, w.wanted)
}

// difference is what makes the existing slices the wanted ones. New ones come first: an address that moves from one
// to another is then never in none.
func difference(wanted []*discoveryv1.EndpointSlice, existing []discoveryv1.EndpointSlice) []write {
	byName := map[string]*discoveryv1.EndpointSlice{}
	for i := range existing {
		byName[existing[i].Name] = &existing[i]
	}
	var come, gone []write
	for _, slice := range wanted {
		there := byName[slice.Name]
		delete(byName, slice.Name)
		if there == nil {
			come = append(come, write{wanted: slice})
			continue
		}
		next := there.DeepCopy()
		next.Labels, next.Annotations, next.OwnerReferences = slice.Labels, slice.Annotations, slice.OwnerReferences
		next.Endpoints, next.Ports = slice.Endpoints, slice.Ports
		if !apiequality.Semantic.DeepEqual(next, there) {
			come = append(come, write{wanted: next, existing: there})
		}
	}
	for i := range existing {
		if left := byName[existing[i].Name]; left != nil && left.DeletionTimestamp == nil {
			gone = append(gone, write{existing: left})
		}
	}
	return append(come, gone...)
}
