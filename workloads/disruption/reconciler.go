// Package disruption works out how many pods of a set may be taken away.
//
// In:       PodDisruptionBudgets, pods, and how many pods their owners want.
// Out:      the budgets' status, which the eviction subresource spends.
// Promise:  what cannot be worked out allows no disruption.
// Not here: evicting (appliance/apiserver/subresource), and who wants to (kubectl drain, workloads/scheduler).
package disruption

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/workloads/events"
)

// Reconciler settles PodDisruptionBudgets.
type Reconciler struct {
	client client.Client
	scales interface {
		of(ctx context.Context, o owner) (scale, bool, error)
	}
	events record.EventRecorder
	clock  clock.PassiveClock
}

// Register adds the controllers to a manager. steady is the time of day.
func Register(mgr manager.Manager, steady clock.PassiveClock) error {
	scales, err := newScales(mgr)
	if err != nil {
		return fmt.Errorf("register the disruption controller: %w", err)
	}
	r := &Reconciler{
		client: mgr.GetClient(), scales: scales, events: events.Recorder(mgr, "controllermanager"), clock: steady,
	}
	err = ctrl.NewControllerManagedBy(mgr).
		For(&policyv1.PodDisruptionBudget{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(r.covering)).
		Complete(r)
	if err != nil {
		return fmt.Errorf("register the disruption controller: %w", err)
	}
	return registerStale(mgr, steady)
}

// Reconcile settles one budget.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var b policyv1.PodDisruptionBudget
	err := r.client.Get(ctx, req.NamespacedName, &b)
	if apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe disruption budget %s: %w", req, err)
	}
	pods, expected, err := r.observe(ctx, &b)
	now := r.clock.Now()
	if err != nil {
		r.events.Eventf(&b, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
		return ctrl.Result{}, errors.Join(err, r.store(ctx, &b, broken(&b, err, now)))
	}
	status, unconfirmed, again, err := judge(&b, pods, expected, now)
	if err != nil {
		return ctrl.Result{}, errors.Join(fmt.Errorf("read disruption budget %s: %w", req, err), r.store(ctx, &b, broken(&b, err, now)))
	}
	if len(pods) == 0 && b.Status.ObservedGeneration != b.Generation {
		r.events.Eventf(&b, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	for _, pod := range unconfirmed {
		r.events.Eventf(pod, corev1.EventTypeWarning, "NotDeleted", "Pod was expected by PDB %s/%s to be deleted but it wasn't", b.Namespace, b.Name)
	}
	return ctrl.Result{RequeueAfter: again}, r.store(ctx, &b, status)
}

// observe lists the pods a budget covers and how many there should be.
func (r *Reconciler) observe(ctx context.Context, b *policyv1.PodDisruptionBudget) (pods []*corev1.Pod, expected int32, err error) {
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return nil, 0, fmt.Errorf("read the selector of disruption budget %s/%s: %w", b.Namespace, b.Name, err)
	}
	var list corev1.PodList
	if err := r.client.List(ctx, &list, client.InNamespace(b.Namespace), client.MatchingLabelsSelector{Selector: selector}, client.UnsafeDisableDeepCopy); err != nil {
		return nil, 0, fmt.Errorf("list pods in %s: %w", b.Namespace, err)
	}
	for i := range list.Items {
		pods = append(pods, &list.Items[i])
	}
	if !scaled(b) {
		return pods, int32(len(pods)), nil
	}
	owners, unmanaged := ownersOf(pods)
	if len(unmanaged) > 0 {
		r.events.Eventf(b, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found to be unmanaged. "+
			"As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
			"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", selector)
	}
	wants := map[types.UID]int32{}
	for _, o := range owners {
		s, found, err := r.scales.of(ctx, o)
		if err != nil {
			return nil, 0, err
		}
		if found {
			wants[s.uid] = s.replicas
		}
	}
	for _, replicas := range wants {
		expected += replicas
	}
	return pods, expected, nil
}

func (r *Reconciler) store(ctx context.Context, b *policyv1.PodDisruptionBudget, status policyv1.PodDisruptionBudgetStatus) error {
	if apiequality.Semantic.DeepEqual(b.Status, status) {
		return nil
	}
	next := b.DeepCopy()
	next.Status = status
	err := r.client.Status().Update(ctx, next)
	if err == nil || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // our view was old, or an eviction spent from it; the newer object queues its own pass
	}
	return fmt.Errorf("update status of disruption budget %s/%s: %w", b.Namespace, b.Name, err)
}

// covering lists the budgets whose selector matches a pod.
func (r *Reconciler) covering(ctx context.Context, pod client.Object) []reconcile.Request {
	var budgets policyv1.PodDisruptionBudgetList
	if err := r.client.List(ctx, &budgets, client.InNamespace(pod.GetNamespace()), client.UnsafeDisableDeepCopy); err != nil {
		return nil // the cache is closing
	}
	var requests []reconcile.Request
	for i := range budgets.Items {
		selector, err := metav1.LabelSelectorAsSelector(budgets.Items[i].Spec.Selector)
		if err == nil && selector.Matches(labels.Set(pod.GetLabels())) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&budgets.Items[i])})
		}
	}
	return requests
}
