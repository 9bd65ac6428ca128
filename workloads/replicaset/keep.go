package replicaset

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"knarr.dev/knarr/workloads/expectations"
	"knarr.dev/knarr/workloads/indexes"
	"knarr.dev/knarr/workloads/podcontrol"
)

// Keeper keeps the pods of one kind of owners by the rule of ReplicaSets.
type Keeper[T client.Object] struct {
	Pods     *podcontrol.Control[T]
	Clock    clock.PassiveClock
	Reported expectations.Written // the owners' statuses
}

// Report writes owner's status, unless the cache shows an owner older than the last status written: that would be
// refused as a conflict, and the newer one queues its own pass.
func Report[T client.Object, S any](ctx context.Context, k *Keeper[T], owner T, shown *S, status S) error {
	if k.Reported.Behind(owner) {
		return nil
	}
	before := owner.GetResourceVersion()
	err := podcontrol.Report(ctx, k.Pods.Client, owner, shown, status)
	if owner.GetResourceVersion() != before {
		k.Reported.Note(owner)
	}
	return err
}

// Keep creates or deletes the pods owner has too few or too many, where rs is owner seen as a ReplicaSet. It returns
// the status that comes of it, nil if the pods could not be seen, and when to look again.
func (k *Keeper[T]) Keep(ctx context.Context, owner T, rs *appsv1.ReplicaSet) (*appsv1.ReplicaSetStatus, time.Duration, error) {
	current, again, err := k.Pods.Current(ctx, owner)
	if err != nil {
		return nil, 0, err
	}
	pods, err := k.Pods.Pods(ctx, owner)
	if err != nil {
		return nil, 0, err
	}
	if current && rs.DeletionTimestamp == nil {
		err = k.settle(ctx, owner, rs, pods)
	}
	status, ripe := judgeStatus(rs, pods, err, k.Clock.Now())
	if !current {
		// Pods of an older word are still to come in view: whoever waits for this one to be heard has to wait for them too.
		status.ObservedGeneration = rs.Status.ObservedGeneration
	}
	return &status, podcontrol.Sooner(again, ripe), err
}

// settle creates or deletes the pods that are too few or too many.
func (k *Keeper[T]) settle(ctx context.Context, owner T, rs *appsv1.ReplicaSet, pods []*corev1.Pod) error {
	missing, active := judge(rs, pods)
	if missing >= 0 {
		_, err := podcontrol.SlowStart(missing, func(int) error {
			return k.Pods.Create(ctx, owner, podcontrol.FromTemplate(owner, k.Pods.Kind, &rs.Spec.Template))
		})
		if podcontrol.Pointless(err) {
			return nil // nothing can be created there, and soon there is nothing to create for
		}
		return err
	}
	crowd, err := k.crowd(ctx, rs)
	if err != nil {
		return err
	}
	surplus := podcontrol.DeletionOrder(active, crowd, k.Clock.Now())[:-missing]
	_, err = podcontrol.Together(len(surplus), func(i int) error { return k.Pods.Delete(ctx, owner, surplus[i]) })
	return err
}

// crowd counts the active pods by node of all ReplicaSets that share rs's owner, so that scaling down thins out
// the nodes where the application stands closest.
func (k *Keeper[T]) crowd(ctx context.Context, rs *appsv1.ReplicaSet) (map[string]int, error) {
	family := []*appsv1.ReplicaSet{rs}
	if owner := metav1.GetControllerOfNoCopy(rs); owner != nil {
		var all appsv1.ReplicaSetList
		err := k.Pods.Client.List(ctx, &all, client.InNamespace(rs.Namespace), client.MatchingFields{indexes.ReplicaSetController: string(owner.UID)}, client.UnsafeDisableDeepCopy)
		if err != nil {
			return nil, fmt.Errorf("list replicasets in %s: %w", rs.Namespace, err)
		}
		for i := range all.Items {
			if other := &all.Items[i]; other.UID != rs.UID {
				family = append(family, other)
			}
		}
	}
	crowd := map[string]int{}
	for _, member := range family {
		pods, err := podcontrol.Owned(ctx, k.Pods.Client, member)
		if err != nil {
			return nil, err
		}
		for _, pod := range pods {
			if podcontrol.Active(pod) && pod.Spec.NodeName != "" {
				crowd[pod.Spec.NodeName]++
			}
		}
	}
	return crowd, nil
}
