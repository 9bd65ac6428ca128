// Package ephemeralvolume makes the claims of volumes that live as long as their pod.
//
// In:       pods with such volumes, from the shared cache; their claims, asked for one by one.
// Out:      a claim of the pod's own for each of them (KEP-1698), which the garbage collector deletes with the pod.
// Promise:  a claim that was not made for the pod is never used for it, and its user is told.
// Not here: binding claims (workloads/persistentvolume, storage), mounting them (storage/volume).
package ephemeralvolume

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/ephemeral"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"knarr.dev/knarr/workloads/events"
	"knarr.dev/knarr/workloads/podcontrol"
)

// Reconciler settles pods.
type Reconciler struct {
	client client.Client
	live   client.Reader // claims; most clusters need no cache of them
	events record.EventRecorder
}

// Register adds the controller to a manager.
func Register(mgr manager.Manager) error {
	concerned := predicate.Funcs{
		CreateFunc: func(e event.CreateEvent) bool { return wants(e.Object.(*corev1.Pod)) },
		// The scheduler says on a pod that waits what it lacks, which may be a claim that somebody has deleted.
		UpdateFunc: func(e event.UpdateEvent) bool {
			pod := e.ObjectNew.(*corev1.Pod)
			return wants(pod) && pod.Spec.NodeName == ""
		},
		DeleteFunc: func(event.DeleteEvent) bool { return false },
	}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("ephemeralvolume").
		For(&corev1.Pod{}, builder.WithPredicates(concerned)).
		Complete(&Reconciler{client: mgr.GetClient(), live: mgr.GetAPIReader(), events: events.Recorder(mgr, "ephemeral_volume")})
	if err != nil {
		return fmt.Errorf("register the controller of ephemeral volumes: %w", err)
	}
	return nil
}

// wants says whether a pod needs claims.
func wants(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && !podcontrol.Terminal(pod) &&
		slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Ephemeral != nil })
}

// Reconcile settles one pod.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var pod corev1.Pod
	err := r.client.Get(ctx, req.NamespacedName, &pod)
	if apierrors.IsNotFound(err) || err == nil && !wants(&pod) {
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe pod %s: %w", req, err)
	}
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		if volume.Ephemeral == nil {
			continue
		}
		if err := r.settle(ctx, &pod, volume); err != nil {
			r.events.Eventf(&pod, corev1.EventTypeWarning, "FailedBinding", "ephemeral volume %s: %v", volume.Name, err)
			return ctrl.Result{}, fmt.Errorf("ephemeral volume %s of pod %s: %w", volume.Name, req, err)
		}
	}
	return ctrl.Result{}, nil
}

// settle makes the claim of one volume. A claim left by an earlier pod of the name is in the way until it is gone.
func (r *Reconciler) settle(ctx context.Context, pod *corev1.Pod, volume *corev1.Volume) error {
	claim := newClaim(pod, volume)
	var there corev1.PersistentVolumeClaim
	err := r.live.Get(ctx, client.ObjectKeyFromObject(claim), &there)
	switch {
	case err == nil:
		return ephemeral.VolumeIsForPod(pod, &there)
	case !apierrors.IsNotFound(err):
		return err
	}
	if err := r.client.Create(ctx, claim); !podcontrol.Pointless(err) {
		return err
	}
	return nil // nothing can be created there, and soon there is nothing to create for
}

// newClaim is the claim of a volume, as its template describes it. Its name follows from the pod and the volume, so a
// second attempt finds the first.
func newClaim(pod *corev1.Pod, volume *corev1.Volume) *corev1.PersistentVolumeClaim {
	template := volume.Ephemeral.VolumeClaimTemplate
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: ephemeral.VolumeClaimName(pod, volume),
			Labels: maps.Clone(template.Labels), Annotations: maps.Clone(template.Annotations),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))},
		},
		Spec: *template.Spec.DeepCopy(),
	}
}
