package statefulset

import (
	"context"
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/workloads/podcontrol"
)

// act carries a plan out. Claims come first: the owners of a pod's claims must be right before the pod goes, and a
// pod's claims must be there before it comes.
func (r *Reconciler) act(ctx context.Context, set *appsv1.StatefulSet, plan *Plan) error {
	for _, claim := range plan.Claims {
		if err := r.client.Update(ctx, claim); client.IgnoreNotFound(err) != nil {
			return fmt.Errorf("update the owners of claim %s: %w", claim.Name, err)
		}
	}
	for _, identity := range plan.Label {
		if err := r.label(ctx, identity); err != nil {
			return err
		}
	}
	_, err := podcontrol.SlowStart(len(plan.Births), func(i int) error { return r.bear(ctx, set, plan.Births[i]) })
	if podcontrol.Pointless(err) {
		return nil // nothing can be created there, and soon there is nothing to create for
	}
	if err != nil {
		return err
	}
	_, err = podcontrol.Together(len(plan.Deaths), func(i int) error { return r.end(ctx, set, plan.Deaths[i]) })
	return err
}

// bear creates a pod after its claims. What is there already is what an earlier pass made.
func (r *Reconciler) bear(ctx context.Context, set *appsv1.StatefulSet, birth Birth) error {
	for _, claim := range birth.Claims {
		err := r.client.Create(ctx, claim)
		if apierrors.IsAlreadyExists(err) {
			continue
		}
		if !podcontrol.Pointless(err) {
			r.tellClaimed(set, claim.Name, birth.Name, err)
		}
		if err != nil {
			return fmt.Errorf("create claim %s: %w", claim.Name, err)
		}
	}
	if birth.Pod == nil {
		return nil
	}
	r.pods.Expected.Creating(set.UID, birth.Name)
	err := r.client.Create(ctx, birth.Pod)
	if err == nil {
		r.tellCreated(set, birth.Name, nil)
		return nil
	}
	r.pods.Expected.Created(set.UID, birth.Name)
	if !podcontrol.Pointless(err) && !apierrors.IsAlreadyExists(err) {
		r.tellCreated(set, birth.Name, err)
	}
	return fmt.Errorf("create pod %s: %w", birth.Name, err)
}

// end deletes the very pod that was seen; that it is gone already is no error.
func (r *Reconciler) end(ctx context.Context, set *appsv1.StatefulSet, death Death) error {
	pod := death.Pod
	if death.Why == Ended {
		r.tellEnded(set, pod)
	}
	r.pods.Expected.Deleting(set.UID, pod.Name)
	err := r.client.Delete(ctx, pod.DeepCopy(), client.Preconditions{UID: &pod.UID})
	if err == nil {
		r.tellDeleted(set, pod.Name, nil)
		return nil
	}
	r.pods.Expected.Deleted(set.UID, pod.Name)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	r.tellDeleted(set, pod.Name, err)
	return fmt.Errorf("delete pod %s: %w", pod.Name, err)
}

// label gives an adopted pod its identity.
func (r *Reconciler) label(ctx context.Context, identity Identity) error {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": identity.Pod.UID, "labels": identity.Labels}})
	if err != nil {
		return fmt.Errorf("encode a patch: %w", err)
	}
	target := &corev1.Pod{}
	target.Namespace, target.Name = identity.Pod.Namespace, identity.Pod.Name
	err = r.client.Patch(ctx, target, client.RawPatch(types.MergePatchType, body))
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("label pod %s: %w", identity.Pod.Name, err)
	}
	return nil
}
