// Package attach has volumes attached to the machines whose pods use them.
//
// In:       pods with claims, bound volumes of CSI drivers, CSIDrivers, nodes; from the shared cache.
// Out:      a VolumeAttachment for each volume and node that need each other, which the driver's own controller (the
// external-attacher beside it) carries out; events on pods that wait.
// Promise:  a volume for one machine is attached to one machine at a time, and is not detached from one that still has it
// mounted, unless that machine is known to be out of service, or has been silent for six minutes.
// Not here: attaching itself (drivers), mounting (storage/csi), which node a pod goes to (scheduler).
package attach

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
)

// podNode is the shared cache's index of pods by their node.
const podNode = "spec.nodeName"

// Register adds the controller to a manager. It is needed once there is a driver. now is a clock that does not jump: one
// that did would make a node silent for long, and take what it is writing to.
func Register(mgr manager.Manager, now func() time.Time) error {
	//lint:ignore SA1019 users know core/v1 Events; see workloads/events
	r := &reconciler{client: mgr.GetClient(), events: mgr.GetEventRecorderFor("attachdetach-controller"), now: now}
	toNode := func(name string) []reconcile.Request {
		if name == "" {
			return nil
		}
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: name}}}
	}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("volume-attachment").
		For(&corev1.Node{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
			pod := o.(*corev1.Pod)
			if len(claimsOf(pod)) == 0 {
				return nil
			}
			return toNode(pod.Spec.NodeName)
		})).
		Watches(&storagev1.VolumeAttachment{}, handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
			return toNode(o.(*storagev1.VolumeAttachment).Spec.NodeName)
		})).
		Complete(reconcile.Func(r.reconcile))
	if err != nil {
		return fmt.Errorf("register the controller of volume attachments: %w", err)
	}
	return nil
}

type reconciler struct {
	client client.Client
	events record.EventRecorder
	now    func() time.Time
}

// again is when a node is looked at that waits for something of which no event tells.
const again = 5 * time.Second

// reconcile settles the attachments of one node.
func (r *reconciler) reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	view, err := r.observe(ctx, req.Name)
	if err != nil {
		return ctrl.Result{}, err
	}
	d := judge(view, r.now())
	for _, a := range d.attach {
		if err := r.client.Create(ctx, a.object); err != nil && !apierrors.IsAlreadyExists(err) {
			return ctrl.Result{}, fmt.Errorf("ask for volume %s on node %s: %w", a.volume, req.Name, err)
		}
	}
	for _, a := range d.detach {
		err := r.client.Delete(ctx, a, client.Preconditions{UID: &a.UID})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return ctrl.Result{}, fmt.Errorf("have volume %s detached from node %s: %w", *a.Spec.Source.PersistentVolumeName, req.Name, err)
		}
	}
	for _, told := range d.tell {
		r.events.Event(told.pod, corev1.EventTypeWarning, "FailedAttachVolume", told.message)
	}
	if d.waits > 0 {
		return ctrl.Result{RequeueAfter: d.waits}, nil
	}
	return ctrl.Result{}, nil
}

// observe collects what a decision about one node depends on. A node that is gone is nil: what was attached to it goes.
func (r *reconciler) observe(ctx context.Context, name string) (view, error) {
	v := view{name: name, node: &corev1.Node{}}
	if err := r.client.Get(ctx, types.NamespacedName{Name: name}, v.node); apierrors.IsNotFound(err) {
		v.node = nil
	} else if err != nil {
		return v, fmt.Errorf("observe node %s: %w", name, err)
	}
	var attachments storagev1.VolumeAttachmentList
	if err := r.client.List(ctx, &attachments, client.UnsafeDisableDeepCopy); err != nil {
		return v, fmt.Errorf("list volume attachments: %w", err)
	}
	for i := range attachments.Items {
		if attachments.Items[i].Spec.Source.PersistentVolumeName != nil { // those of migrated inline volumes are not ours
			v.attachments = append(v.attachments, &attachments.Items[i])
		}
	}
	var pods corev1.PodList
	if err := r.client.List(ctx, &pods, client.MatchingFields{podNode: name}, client.UnsafeDisableDeepCopy); err != nil {
		return v, fmt.Errorf("list pods of node %s: %w", name, err)
	}
	for i := range pods.Items {
		if err := r.wanted(ctx, &pods.Items[i], &v); err != nil {
			return v, err
		}
	}
	return v, nil
}

// wanted adds the volumes of one pod that have to be attached.
func (r *reconciler) wanted(ctx context.Context, pod *corev1.Pod, v *view) error {
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	for _, name := range claimsOf(pod) {
		claim, volume := &corev1.PersistentVolumeClaim{}, &corev1.PersistentVolume{}
		err := r.client.Get(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: name}, claim)
		if err == nil && claim.Spec.VolumeName != "" {
			err = r.client.Get(ctx, types.NamespacedName{Name: claim.Spec.VolumeName}, volume)
		}
		if client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("observe claim %s/%s: %w", pod.Namespace, name, err)
		}
		if err != nil || volume.Spec.CSI == nil || volume.Spec.ClaimRef == nil || volume.Spec.ClaimRef.UID != claim.UID {
			continue
		}
		needs, err := r.attachable(ctx, volume.Spec.CSI.Driver)
		if err != nil {
			return err
		}
		if needs {
			v.wanted = append(v.wanted, want{pod: pod, volume: volume})
		}
	}
	return nil
}

// attachable: a driver says in its CSIDriver object when its volumes need no attaching.
func (r *reconciler) attachable(ctx context.Context, driver string) (bool, error) {
	about := &storagev1.CSIDriver{}
	err := r.client.Get(ctx, types.NamespacedName{Name: driver}, about)
	if client.IgnoreNotFound(err) != nil {
		return false, fmt.Errorf("observe CSIDriver %s: %w", driver, err)
	}
	return err != nil || about.Spec.AttachRequired == nil || *about.Spec.AttachRequired, nil
}

// claimsOf names the claims of a pod.
func claimsOf(pod *corev1.Pod) []string {
	var names []string
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			names = append(names, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			names = append(names, pod.Name+"-"+v.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
