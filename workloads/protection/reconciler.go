// Package protection keeps claims, volumes and classes of volumes as long as something uses them.
//
// In:       PersistentVolumeClaims, PersistentVolumes and VolumeAttributesClasses with one of the three protecting
//
//	finalizers; Pods and claims that use them.
//
// Out:      the finalizer put on those that lack it, and taken from those that are deleted and no longer used.
// Promise:  a claim a scheduled pod names is not gone before the pod is, even where the shared cache is behind: the
//
//	last look, before the finalizer goes, is at the datastore.
//
// Not here: binding and reclaiming volumes; putting the finalizer on new objects (appliance/apiserver/admission).
package protection

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// The finalizers, as every Kubernetes cluster has them.
const (
	claimFinalizer  = "kubernetes.io/pvc-protection"
	volumeFinalizer = "kubernetes.io/pv-protection"
	classFinalizer  = "kubernetes.io/vac-protection"
)

// Reconciler looks after the objects of one kind.
type Reconciler struct {
	client    client.Client
	latest    client.Reader // the datastore, not the cache
	finalizer string
	empty     func() client.Object
	used      func(ctx context.Context, from client.Reader, o client.Object) (bool, error)
}

// Register adds a controller for each of the three kinds.
func Register(mgr manager.Manager) error {
	with := func(finalizer string, empty func() client.Object, used func(context.Context, client.Reader, client.Object) (bool, error)) *Reconciler {
		return &Reconciler{client: mgr.GetClient(), latest: mgr.GetAPIReader(), finalizer: finalizer, empty: empty, used: used}
	}
	// Only a pod that ends, or gets to another node, can free a claim.
	freeing := predicate.Funcs{
		CreateFunc:  func(event.CreateEvent) bool { return false },
		GenericFunc: func(event.GenericEvent) bool { return false },
		UpdateFunc:  func(e event.UpdateEvent) bool { return isShutDown(e.ObjectNew.(*corev1.Pod)) },
	}
	if err := ctrl.NewControllerManagedBy(mgr).
		Named("claim-protection").
		For(&corev1.PersistentVolumeClaim{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(claimsOf), builder.WithPredicates(freeing)).
		Complete(with(claimFinalizer, func() client.Object { return &corev1.PersistentVolumeClaim{} }, claimUsed)); err != nil {
		return fmt.Errorf("register the protection of claims: %w", err)
	}
	if err := ctrl.NewControllerManagedBy(mgr).
		Named("volume-protection").
		For(&corev1.PersistentVolume{}).
		Complete(with(volumeFinalizer, func() client.Object { return &corev1.PersistentVolume{} }, volumeUsed)); err != nil {
		return fmt.Errorf("register the protection of volumes: %w", err)
	}
	if err := ctrl.NewControllerManagedBy(mgr).
		Named("volume-class-protection").
		For(&storagev1.VolumeAttributesClass{}).
		Watches(&corev1.PersistentVolumeClaim{}, handler.EnqueueRequestsFromMapFunc(classesOfClaim)).
		Watches(&corev1.PersistentVolume{}, handler.EnqueueRequestsFromMapFunc(classesOfVolume)).
		Complete(with(classFinalizer, func() client.Object { return &storagev1.VolumeAttributesClass{} }, classUsed)); err != nil {
		return fmt.Errorf("register the protection of volume attributes classes: %w", err)
	}
	return nil
}

// Reconcile settles one object.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	o := r.empty()
	if err := r.client.Get(ctx, req.NamespacedName, o); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	o = o.DeepCopyObject().(client.Object)
	has, going := controllerutil.ContainsFinalizer(o, r.finalizer), o.GetDeletionTimestamp() != nil
	switch {
	case has == !going:
		return ctrl.Result{}, nil // as it should be
	case !going:
		controllerutil.AddFinalizer(o, r.finalizer)
	default:
		// The cache says no cheaply; only its yes has to be sure.
		for _, from := range []client.Reader{r.client, r.latest} {
			used, err := r.used(ctx, from, o)
			if err != nil {
				return ctrl.Result{}, fmt.Errorf("look who uses %s: %w", req, err)
			}
			if used {
				return ctrl.Result{}, nil // its end queues the object again
			}
		}
		controllerutil.RemoveFinalizer(o, r.finalizer)
	}
	err := r.client.Update(ctx, o)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil // the newer object queues its own pass
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("write the finalizer of %s: %w", req, err)
	}
	return ctrl.Result{}, nil
}

// claimUsed is true while a pod with a node names the claim. A pod without one can't start with it any more: nodes
// refuse claims that are being deleted.
func claimUsed(ctx context.Context, from client.Reader, o client.Object) (bool, error) {
	claim := o.(*corev1.PersistentVolumeClaim)
	var pods corev1.PodList
	if err := from.List(ctx, &pods, client.InNamespace(claim.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return false, err
	}
	for i := range pods.Items {
		if uses(&pods.Items[i], claim) {
			return true, nil
		}
	}
	return false, nil
}

func uses(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	if pod.Spec.NodeName == "" {
		return false
	}
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		if named := volume.PersistentVolumeClaim; named != nil && named.ClaimName == claim.Name {
			return true
		}
		// A claim that goes with its pod must not wait for the pod's own end: the pod would wait for the claim.
		if volume.Ephemeral != nil && ephemeral.VolumeClaimName(pod, volume) == claim.Name && ephemeral.VolumeIsForPod(pod, claim) == nil && !isShutDown(pod) {
			return true
		}
	}
	return false
}

// isShutDown is true of a pod whose node has stopped all of it.
func isShutDown(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds == 0
}

func claimsOf(_ context.Context, o client.Object) []reconcile.Request {
	pod := o.(*corev1.Pod)
	var names []string
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		switch {
		case volume.PersistentVolumeClaim != nil:
			names = append(names, volume.PersistentVolumeClaim.ClaimName)
		case volume.Ephemeral != nil:
			names = append(names, ephemeral.VolumeClaimName(pod, volume))
		}
	}
	return requests(pod.Namespace, names...)
}

// volumeUsed is true while a claim has the volume.
func volumeUsed(_ context.Context, _ client.Reader, o client.Object) (bool, error) {
	return o.(*corev1.PersistentVolume).Status.Phase == corev1.VolumeBound, nil
}

// classUsed is true while a claim or a volume has the class, or is on its way to it.
func classUsed(ctx context.Context, from client.Reader, o client.Object) (bool, error) {
	var claims corev1.PersistentVolumeClaimList
	if err := from.List(ctx, &claims, client.UnsafeDisableDeepCopy); err != nil {
		return false, err
	}
	for i := range claims.Items {
		for _, request := range classesOfClaim(ctx, &claims.Items[i]) {
			if request.Name == o.GetName() {
				return true, nil
			}
		}
	}
	var volumes corev1.PersistentVolumeList
	if err := from.List(ctx, &volumes, client.UnsafeDisableDeepCopy); err != nil {
		return false, err
	}
	for i := range volumes.Items {
		for _, request := range classesOfVolume(ctx, &volumes.Items[i]) {
			if request.Name == o.GetName() {
				return true, nil
			}
		}
	}
	return false, nil
}

func classesOfClaim(_ context.Context, o client.Object) []reconcile.Request {
	claim := o.(*corev1.PersistentVolumeClaim)
	names := appendName(appendName(nil, claim.Spec.VolumeAttributesClassName), claim.Status.CurrentVolumeAttributesClassName)
	if going := claim.Status.ModifyVolumeStatus; going != nil {
		names = appendName(names, &going.TargetVolumeAttributesClassName)
	}
	return requests("", names...)
}

func classesOfVolume(_ context.Context, o client.Object) []reconcile.Request {
	return requests("", appendName(nil, o.(*corev1.PersistentVolume).Spec.VolumeAttributesClassName)...)
}

func appendName(names []string, name *string) []string {
	if name == nil || *name == "" {
		return names
	}
	return append(names, *name)
}

func requests(namespace string, names ...string) []reconcile.Request {
	var all []reconcile.Request
	for _, name := range names {
		all = append(all, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: namespace, Name: name}})
	}
	return all
}
