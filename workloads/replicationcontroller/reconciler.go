// Package replicationcontroller keeps as many pods running as a ReplicationController wants.
//
// In:       ReplicationControllers and pods, from the shared cache.
// Out:      pods created, deleted, adopted and released; the ReplicationController's status.
// Promise:  a stale cache never makes it create or delete twice.
// Not here: the rule, which is that of ReplicaSets (workloads/replicaset).
package replicationcontroller

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/record"
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
	"knarr.dev/knarr/workloads/podcontrol"
	"knarr.dev/knarr/workloads/replicaset"
)

var kind = corev1.SchemeGroupVersion.WithKind("ReplicationController")

// Reconciler settles ReplicationControllers.
type Reconciler struct {
	client   client.Client
	claims   podcontrol.Claimer
	pods     podcontrol.Control
	expected *expectations.Expectations
	clock    clock.PassiveClock
}

// Register adds the controller to a manager whose cache has workloads/indexes.
func Register(mgr manager.Manager) error {
	r := newReconciler(mgr.GetClient(), mgr.GetAPIReader(), events.Recorder(mgr, "replication-controller"), clock.RealClock{})
	err := ctrl.NewControllerManagedBy(mgr).
		For(&corev1.ReplicationController{}, builder.WithPredicates(r.forgetDeleted())).
		Watches(&corev1.Pod{}, podcontrol.Follow(kind, r.expected, r.wanting)).
		WithOptions(controller.Options{MaxConcurrentReconciles: 2}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("register the replication controller: %w", err)
	}
	return nil
}

func newReconciler(c client.Client, live client.Reader, recorder record.EventRecorder, clock clock.PassiveClock) *Reconciler {
	expected := expectations.New(clock)
	return &Reconciler{
		client:   c,
		claims:   podcontrol.Claimer{Client: c, Live: live, Kind: kind},
		pods:     podcontrol.Control{Client: c, Events: recorder, Expectations: expected, Kind: kind},
		expected: expected,
		clock:    clock,
	}
}

// Reconcile settles one ReplicationController.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var rc corev1.ReplicationController
	err := r.client.Get(ctx, req.NamespacedName, &rc)
	if apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe replicationcontroller %s: %w", req, err)
	}
	// Asked before the pods are listed: what the cache shows after this moment includes all we did before it.
	current, again := r.expected.Met(rc.UID)
	every := func(*corev1.Pod) bool { return true }
	pods, err := r.claims.Pods(ctx, &rc, &corev1.ReplicationController{}, labels.SelectorFromSet(rc.Spec.Selector), every)
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe replicationcontroller %s: %w", req, err)
	}

	var failure error
	if current && rc.DeletionTimestamp == nil {
		failure = r.settle(ctx, &rc, pods)
	}

	counted, ripe := replicaset.JudgeStatus(asReplicaSet(&rc), pods, failure, r.clock.Now())
	if again == 0 || (ripe != 0 && ripe < again) {
		again = ripe
	}
	if err := errors.Join(failure, r.report(ctx, &rc, asStatus(counted))); err != nil {
		return ctrl.Result{}, fmt.Errorf("settle replicationcontroller %s: %w", req, err)
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

// settle creates or deletes the pods that are too few or too many.
func (r *Reconciler) settle(ctx context.Context, rc *corev1.ReplicationController, pods []*corev1.Pod) error {
	missing, active := replicaset.Judge(asReplicaSet(rc), pods)
	if missing >= 0 {
		_, err := podcontrol.SlowStart(missing, func(int) error {
			return r.pods.Create(ctx, rc, podcontrol.FromTemplate(rc, kind, rc.Spec.Template))
		})
		if podcontrol.Pointless(err) {
			return nil // nothing can be created there, and soon there is nothing to create for
		}
		return err
	}
	crowd := map[string]int{}
	for _, pod := range active {
		crowd[pod.Spec.NodeName]++
	}
	surplus := podcontrol.DeletionOrder(active, crowd, r.clock.Now())[:-missing]
	_, err := podcontrol.Together(len(surplus), func(i int) error { return r.pods.Delete(ctx, rc, surplus[i]) })
	return err
}

func (r *Reconciler) report(ctx context.Context, rc *corev1.ReplicationController, status corev1.ReplicationControllerStatus) error {
	if apiequality.Semantic.DeepEqual(status, rc.Status) {
		return nil
	}
	next := rc.DeepCopy()
	next.Status = status
	err := r.client.Status().Update(ctx, next)
	if err == nil || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil // our view was old; the newer object queues its own pass
	}
	return fmt.Errorf("update its status: %w", err)
}

// wanting lists the ReplicationControllers whose selector matches a pod nobody owns.
func (r *Reconciler) wanting(ctx context.Context, pod *corev1.Pod) []reconcile.Request {
	var all corev1.ReplicationControllerList
	if err := r.client.List(ctx, &all, client.InNamespace(pod.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil // the cache is closing
	}
	var requests []reconcile.Request
	for i := range all.Items {
		rc := &all.Items[i]
		if len(rc.Spec.Selector) > 0 && labels.SelectorFromSet(rc.Spec.Selector).Matches(labels.Set(pod.Labels)) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(rc)})
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
