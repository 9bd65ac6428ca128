package plugins

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// Reserve implements Reserver: the devices are nobody else's from now on, and the claims know the pod.
func (d Devices) Reserve(pod *snapshot.Pod, snap *snapshot.Snapshot, n *snapshot.Node) (*Reservation, error) {
	if !d.concerns(pod) {
		return nil, nil
	}
	wanted, why := sortResourceClaims(pod, snap)
	if why != "" {
		return nil, fmt.Errorf("reserve devices: %s", why)
	}
	r := &deviceReservation{pod: pod.Object, patience: d.patience}
	own, said := extendedClaim(pod.Object, wanted.extended, n, snap)
	r.extended = said
	open := wanted.open
	switch made := wanted.made; {
	case own != nil && made != nil && made.Status.Allocation != nil && sameDevices(own, made):
		wanted.given = append(wanted.given, made)
	case own != nil:
		open, r.stale = append(slices.Clone(open), own), made
	default:
		r.stale = made
	}
	if err := d.allocate(r, open, n, snap, wanted); err != nil {
		return nil, err
	}
	for _, claim := range wanted.given {
		if !resourceclaim.IsReservedForPod(pod.Object, claim, false) {
			r.take(claim.DeepCopy())
			continue
		}
		r.all = append(r.all, claim.Name)
	}
	for _, claim := range r.claims {
		snap.AssumeResourceClaim(claim)
	}
	return r.reservation(), nil
}

// allocate gives claims their devices on a node.
func (d Devices) allocate(r *deviceReservation, open []*resourcev1.ResourceClaim, n *snapshot.Node, snap *snapshot.Snapshot, wanted resourceClaims) error {
	if len(open) == 0 {
		return nil
	}
	allocator, err := d.allocator(wanted, snap)
	if err != nil {
		return err
	}
	ctx, cancel := d.search()
	defer cancel()
	results, err := allocator.Allocate(ctx, n.Object, open)
	switch {
	case err != nil:
		return fmt.Errorf("allocate devices on node %s: %w", n.Name, err)
	case len(results) != len(open):
		return fmt.Errorf("allocate devices on node %s: they are no longer free", n.Name)
	}
	for i, claim := range open {
		next := claim.DeepCopy()
		next.Status.Allocation = &results[i]
		next.Status.Allocation.AllocationTimestamp = ptr.To(metav1.Now())
		r.take(next)
	}
	return nil
}

// deviceReservation is the claims that were allocated or reserved for a pod.
type deviceReservation struct {
	pod      *corev1.Pod
	patience time.Duration
	claims   []*resourcev1.ResourceClaim            // as they are to become
	all      []string                               // names of all claims of the pod
	extended *corev1.PodExtendedResourceClaimStatus // what the pod is to say of the claim for its extended resources
	stale    *resourcev1.ResourceClaim              // such a claim that an earlier attempt left and that will not do
}

func (r *deviceReservation) take(claim *resourcev1.ResourceClaim) {
	claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: r.pod.Name, UID: r.pod.UID})
	r.claims = append(r.claims, claim)
	r.all = append(r.all, claim.Name)
}

// reservation is what is to be done about it, nil for nothing: the pod needs no device on its node.
func (r *deviceReservation) reservation() *Reservation {
	told := resourceclaim.PodExtendedStatusEqual(r.pod.Status.ExtendedResourceClaimStatus, r.extended)
	if len(r.all) == 0 && r.stale == nil && told {
		return nil
	}
	reserved := &Reservation{Permit: r.done, Patience: r.patience, Undo: r.undo, GiveBack: r.giveBack}
	if len(r.claims) > 0 || r.stale != nil || !told {
		reserved.PreBind = r.write
	}
	return reserved
}

// write makes the reservation true. The finalizer comes first: an allocated claim must not go unnoticed.
func (r *deviceReservation) write(ctx context.Context, api client.Client) error {
	if r.stale != nil {
		if err := discard(ctx, api, r.stale); err != nil {
			return err
		}
	}
	for _, claim := range r.claims {
		next := claim.DeepCopy()
		protected := !controllerutil.AddFinalizer(next, resourcev1.Finalizer)
		switch {
		case claim.UID == "":
			if err := api.Create(ctx, next); err != nil {
				return fmt.Errorf("create resource claim %s: %w", claim.Name, err)
			}
		case !protected:
			if err := api.Update(ctx, next); err != nil {
				return fmt.Errorf("protect resource claim %s: %w", claim.Name, err)
			}
		}
		next.Status = *claim.Status.DeepCopy()
		if err := api.Status().Update(ctx, next); err != nil {
			return fmt.Errorf("allocate resource claim %s: %w", claim.Name, err)
		}
	}
	if resourceclaim.PodExtendedStatusEqual(r.pod.Status.ExtendedResourceClaimStatus, r.extended) {
		return nil
	}
	return sayExtended(ctx, api, r.pod, r.extended)
}

// sayExtended says on a pod which claim is for its extended resources: the node agent goes by that.
func sayExtended(ctx context.Context, api client.Client, pod *corev1.Pod, said *corev1.PodExtendedResourceClaimStatus) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": map[string]any{"extendedResourceClaimStatus": said}})
	if err != nil {
		return fmt.Errorf("encode a pod status: %w", err)
	}
	named := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name}}
	if err := api.Status().Patch(ctx, named, client.RawPatch(types.MergePatchType, patch)); err != nil {
		return fmt.Errorf("say which resource claim is for the extended resources of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// discard deletes a claim that was made for a pod's extended resources, its devices with it.
func discard(ctx context.Context, api client.Client, claim *resourcev1.ResourceClaim) error {
	next := claim.DeepCopy()
	if controllerutil.RemoveFinalizer(next, resourcev1.Finalizer) {
		err := api.Update(ctx, next)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("release resource claim %s: %w", claim.Name, err)
		}
	}
	if err := api.Delete(ctx, next, client.Preconditions{UID: &claim.UID}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete resource claim %s: %w", claim.Name, err)
	}
	return nil
}

// release gives the devices of a claim back that only this pod has a place at; nil if others have.
func release(pod *corev1.Pod, claim *resourcev1.ResourceClaim) func(context.Context, client.Client) error {
	others := slices.ContainsFunc(claim.Status.ReservedFor, func(ref resourcev1.ResourceClaimConsumerReference) bool { return ref.UID != pod.UID })
	switch {
	case others:
		return nil
	case claim.Annotations[resourcev1.ExtendedResourceClaimAnnotation] == "true" && metav1.IsControlledBy(claim, pod):
		return func(ctx context.Context, api client.Client) error {
			if err := discard(ctx, api, claim); err != nil {
				return err
			}
			return sayExtended(ctx, api, pod, nil)
		}
	}
	return func(ctx context.Context, api client.Client) error {
		next := claim.DeepCopy()
		next.Status.Allocation, next.Status.ReservedFor, next.Status.Devices = nil, nil, nil
		if err := api.Status().Update(ctx, next); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("give the devices of resource claim %s back: %w", claim.Name, err)
		}
		return nil
	}
}

// done says whether all devices are ready that have to be made so first.
func (r *deviceReservation) done(snap *snapshot.Snapshot) (bool, error) {
	for _, name := range r.all {
		claim := snap.ResourceClaim(r.pod.Namespace, name)
		if claim == nil || claim.Status.Allocation == nil {
			return false, fmt.Errorf("resource claim %s lost its devices", name)
		}
		for i := range claim.Status.Allocation.Devices.Results {
			result := &claim.Status.Allocation.Devices.Results[i]
			if len(result.BindingConditions) == 0 {
				continue
			}
			conditions := conditionsOf(claim, result)
			for _, failure := range result.BindingFailureConditions {
				if meta.IsStatusConditionTrue(conditions, failure) {
					return false, fmt.Errorf("device %s of resource claim %s cannot be bound: %s", result.Device, name, failure)
				}
			}
			for _, wanted := range result.BindingConditions {
				if !meta.IsStatusConditionTrue(conditions, wanted) {
					return false, nil
				}
			}
		}
	}
	return true, nil
}

// conditionsOf are what a driver says about an allocated device.
func conditionsOf(claim *resourcev1.ResourceClaim, result *resourcev1.DeviceRequestAllocationResult) []metav1.Condition {
	for i := range claim.Status.Devices {
		if d := &claim.Status.Devices[i]; d.Driver == result.Driver && d.Pool == result.Pool && d.Device == result.Device {
			return d.Conditions
		}
	}
	return nil
}

func (r *deviceReservation) undo(snap *snapshot.Snapshot) snapshot.Change {
	for _, claim := range r.claims {
		snap.ForgetResourceClaim(claim)
	}
	return snapshot.Change{Kind: snapshot.DevicesChanged}
}

// giveBack has the devices looked for anew that could not be made ready, so that the next attempt may get others.
func (r *deviceReservation) giveBack(snap *snapshot.Snapshot) func(context.Context, client.Client) error {
	for _, name := range r.all {
		claim := snap.ResourceClaim(r.pod.Namespace, name)
		if claim == nil || claim.Status.Allocation == nil || !slices.ContainsFunc(claim.Status.Allocation.Devices.Results, binds) {
			continue
		}
		if act := release(r.pod, claim); act != nil {
			return act
		}
	}
	return nil
}

// binds says whether a device has to be made ready before a pod that gets it is bound.
func binds(r resourcev1.DeviceRequestAllocationResult) bool { return len(r.BindingConditions) > 0 }
