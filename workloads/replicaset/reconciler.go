// Package replicaset keeps as many pods running as a ReplicaSet wants.
//
// In:       ReplicaSets and pods, from the shared cache.
// Out:      pods created, deleted, adopted and released; the ReplicaSet's status.
// Promise:  a stale cache never makes it create or delete twice.
// Not here: rollouts (workloads/deployment), what a pod does once it exists (workloads/agent).
package replicaset

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/workloads/events"
	"knarr.dev/knarr/workloads/expectations"
	"knarr.dev/knarr/workloads/indexes"
	"knarr.dev/knarr/workloads/podcontrol"
)

var kind = appsv1.SchemeGroupVersion.WithKind("ReplicaSet")

// Reconciler settles ReplicaSets.
type Reconciler struct {
	client   client.Client
	claims   podcontrol.Claimer
	pods     podcontrol.Control
	expected *expectations.Expectations
	clock    clock.PassiveClock
}

// Register adds the controller to a manager whose cache has workloads/indexes.
func Register(mgr manager.Manager) error {
	expected := expectations.New(clock.RealClock{})
	r := &Reconciler{
		client:   mgr.GetClient(),
		claims:   podcontrol.Claimer{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Kind: kind},
		expected: expected,
		clock:    clock.RealClock{},
		pods: podcontrol.Control{
			Client: mgr.GetClient(), Events: events.Recorder(mgr, "replicaset-controller"), Expectations: expected, Kind: kind,
		},
	}
	err := ctrl.NewControllerManagedBy(mgr).
		For(&appsv1.ReplicaSet{}, builder.WithPredicates(r.forgetDeleted())).
		Watches(&corev1.Pod{}, podcontrol.Follow(kind, expected, r.wanting)).
		WithOptions(controller.Options{MaxConcurrentReconciles: 5}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("register the replicaset controller: %w", err)
	}
	return nil
}

// Reconcile settles one ReplicaSet.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var rs appsv1.ReplicaSet
	err := r.client.Get(ctx, req.NamespacedName, &rs)
	if apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe replicaset %s: %w", req, err)
	}
	// Asked before the pods are listed: what the cache shows after this moment includes all we did before it.
	current, again := r.expected.Met(rs.UID)
	pods, err := r.claimed(ctx, &rs)
	if err != nil {
		return ctrl.Result{}, err
	}

	var failure error
	if current && rs.DeletionTimestamp == nil {
		failure = r.settle(ctx, &rs, pods)
	}

	status, ripe := JudgeStatus(&rs, pods, failure, r.clock.Now())
	again = sooner(again, ripe)
	if apiequality.Semantic.DeepEqual(status, rs.Status) {
		return ctrl.Result{RequeueAfter: again}, failure
	}
	next := rs.DeepCopy()
	next.Status = status
	err = r.client.Status().Update(ctx, next)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		err = nil // our view was old; the newer object queues its own pass
	}
	if err != nil {
		err = fmt.Errorf("update status of replicaset %s: %w", req, err)
	}
	return ctrl.Result{RequeueAfter: again}, errors.Join(failure, err)
}

// claimed lists the pods that belong to rs, adopting and releasing on the way.
func (r *Reconciler) claimed(ctx context.Context, rs *appsv1.ReplicaSet) ([]*corev1.Pod, error) {
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		return nil, reconcile.TerminalError(fmt.Errorf("read the selector of replicaset %s/%s: %w", rs.Namespace, rs.Name, err))
	}
	owned, err := r.list(ctx, rs.Namespace, string(rs.UID), labels.Everything())
	if err != nil {
		return nil, err
	}
	orphans, err := r.list(ctx, rs.Namespace, "", selector)
	if err != nil {
		return nil, err
	}
	for _, orphan := range orphans {
		if podcontrol.Active(orphan) {
			owned = append(owned, orphan)
		}
	}
	return podcontrol.Take(ctx, &r.claims, rs, &appsv1.ReplicaSet{}, selector, owned)
}

func (r *Reconciler) list(ctx context.Context, namespace, controller string, selector labels.Selector) ([]*corev1.Pod, error) {
	var list corev1.PodList
	err := r.client.List(ctx, &list, client.InNamespace(namespace), client.MatchingFields{indexes.PodController: controller},
		client.MatchingLabelsSelector{Selector: selector}, client.UnsafeDisableDeepCopy)
	if err != nil {
		return nil, fmt.Errorf("list pods in %s: %w", namespace, err)
	}
	pods := make([]*corev1.Pod, len(list.Items))
	for i := range list.Items {
		pods[i] = &list.Items[i]
	}
	return pods, nil
}

// settle creates or deletes the pods that are too few or too many.
func (r *Reconciler) settle(ctx context.Context, rs *appsv1.ReplicaSet, pods []*corev1.Pod) error {
	missing, active := Judge(rs, pods)
	if missing > 0 {
		_, err := podcontrol.SlowStart(missing, func(int) error {
			return r.pods.Create(ctx, rs, podcontrol.FromTemplate(rs, kind, &rs.Spec.Template))
		})
		if podcontrol.Pointless(err) {
			return nil // nothing can be created there, and soon there is nothing to create for
		}
		return err
	}
	if missing == 0 {
		return nil
	}
	crowd, err := r.crowd(ctx, rs)
	if err != nil {
		return err
	}
	surplus := podcontrol.DeletionOrder(active, crowd, r.clock.Now())[:-missing]
	_, err = podcontrol.Together(len(surplus), func(i int) error { return r.pods.Delete(ctx, rs, surplus[i]) })
	return err
}

// crowd counts the active pods by node of all ReplicaSets that share rs's owner, so that scaling down thins out
// the nodes where the application stands closest.
func (r *Reconciler) crowd(ctx context.Context, rs *appsv1.ReplicaSet) (map[string]int, error) {
	family := []appsv1.ReplicaSet{*rs}
	if owner := metav1.GetControllerOfNoCopy(rs); owner != nil {
		var all appsv1.ReplicaSetList
		if err := r.client.List(ctx, &all, client.InNamespace(rs.Namespace), client.UnsafeDisableDeepCopy); err != nil {
			return nil, fmt.Errorf("list replicasets in %s: %w", rs.Namespace, err)
		}
		for _, other := range all.Items {
			if ref := metav1.GetControllerOfNoCopy(&other); other.UID != rs.UID && ref != nil && ref.UID == owner.UID {
				family = append(family, other)
			}
		}
	}
	crowd := map[string]int{}
	for i := range family {
		pods, err := r.list(ctx, rs.Namespace, string(family[i].UID), labels.Everything())
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

// wanting lists the ReplicaSets whose selector matches a pod nobody owns.
func (r *Reconciler) wanting(ctx context.Context, pod *corev1.Pod) []reconcile.Request {
	var sets appsv1.ReplicaSetList
	if err := r.client.List(ctx, &sets, client.InNamespace(pod.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil // the cache is closing
	}
	var requests []reconcile.Request
	for i := range sets.Items {
		rs := &sets.Items[i]
		selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
		if err == nil && !selector.Empty() && selector.Matches(labels.Set(pod.Labels)) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(rs)})
		}
	}
	return requests
}

func (r *Reconciler) forgetDeleted() predicate.Funcs {
	return predicate.Funcs{DeleteFunc: func(e event.DeleteEvent) bool {
		r.expected.Forget(e.Object.GetUID())
		return false
	}}
}

// sooner is the smaller of two waits, where 0 is none.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || (b != 0 && b < a) {
		return b
	}
	return a
}
