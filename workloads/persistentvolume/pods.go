package persistentvolume

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrlevent "sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/workloads/podcontrol"
)

// unplaced are the names of the pods without a node that use a claim.
func (r *reconciler) unplaced(ctx context.Context, claim *corev1.PersistentVolumeClaim) (names []string, err error) {
	var pods corev1.PodList
	if err := r.client.List(ctx, &pods, client.InNamespace(claim.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list pods of claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	for i := range pods.Items {
		pod := &pods.Items[i]
		if pod.Spec.NodeName == "" && !podcontrol.Terminal(pod) && slices.Contains(claimNames(pod), claim.Name) {
			names = append(names, pod.Name)
		}
	}
	slices.Sort(names) // in one order, or the Event would be another one each time
	return names, nil
}

// claimNames are the claims a pod uses.
func claimNames(pod *corev1.Pod) (names []string) {
	for i := range pod.Spec.Volumes {
		switch v := &pod.Spec.Volumes[i]; {
		case v.PersistentVolumeClaim != nil:
			names = append(names, v.PersistentVolumeClaim.ClaimName)
		case v.Ephemeral != nil:
			names = append(names, ephemeral.VolumeClaimName(pod, v))
		}
	}
	return names
}

// stuck picks the news that a pod could not be placed. Most pods are, within milliseconds: their claims need no pass for it.
func stuck() predicate.Funcs {
	refused := func(o client.Object) bool {
		c := podcontrol.Condition(o.(*corev1.Pod), corev1.PodScheduled)
		return c != nil && c.Status == corev1.ConditionFalse
	}
	return predicate.Funcs{
		CreateFunc:  func(e ctrlevent.CreateEvent) bool { return !e.IsInInitialList && refused(e.Object) },
		UpdateFunc:  func(e ctrlevent.UpdateEvent) bool { return refused(e.ObjectNew) && !refused(e.ObjectOld) },
		DeleteFunc:  func(ctrlevent.DeleteEvent) bool { return false },
		GenericFunc: func(ctrlevent.GenericEvent) bool { return false },
	}
}

// claimsOfPod are those of a pod that are not bound yet.
func (r *reconciler) claimsOfPod(ctx context.Context, o client.Object) (requests []reconcile.Request) {
	for _, name := range claimNames(o.(*corev1.Pod)) {
		key := types.NamespacedName{Namespace: o.GetNamespace(), Name: name}
		var claim corev1.PersistentVolumeClaim
		if err := r.client.Get(ctx, key, &claim); err == nil && !metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted) {
			requests = append(requests, reconcile.Request{NamespacedName: key})
		}
	}
	return requests
}
