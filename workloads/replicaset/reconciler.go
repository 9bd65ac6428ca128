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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/workloads/events"
	"knarr.dev/knarr/workloads/podcontrol"
)

var owners = podcontrol.Owners[*appsv1.ReplicaSet]{
	Kind:     appsv1.SchemeGroupVersion.WithKind("ReplicaSet"),
	List:     func() client.ObjectList { return &appsv1.ReplicaSetList{} },
	Selector: func(rs *appsv1.ReplicaSet) *metav1.LabelSelector { return rs.Spec.Selector },
	Gather:   Gather,
}

// Gather is short beside what a pod takes to start, and long enough for the pods of one owner to be told of together.
const Gather = 50 * time.Millisecond

// Reconciler settles ReplicaSets.
type Reconciler struct{ Keeper[*appsv1.ReplicaSet] }

// Register adds the controller to a manager whose cache has workloads/indexes. steady is the time of day.
func Register(mgr manager.Manager, steady clock.PassiveClock) error {
	pods := podcontrol.New(owners, mgr.GetClient(), mgr.GetAPIReader(), events.Recorder(mgr, "replicaset-controller"), clock.RealClock{})
	r := &Reconciler{Keeper[*appsv1.ReplicaSet]{Pods: pods, Clock: steady}}
	err := ctrl.NewControllerManagedBy(mgr).
		For(&appsv1.ReplicaSet{}, builder.WithPredicates(pods.ForgetDeleted(r.Reported.Forget))).
		Watches(&corev1.Pod{}, pods.Follow()).
		WithOptions(controller.Options{MaxConcurrentReconciles: 20}).
		Complete(reconcile.AsReconciler(mgr.GetClient(), r))
	if err != nil {
		return fmt.Errorf("register the replicaset controller: %w", err)
	}
	return nil
}

// Reconcile settles one ReplicaSet.
func (r *Reconciler) Reconcile(ctx context.Context, rs *appsv1.ReplicaSet) (ctrl.Result, error) {
	status, again, err := r.Keep(ctx, rs, rs)
	if status != nil {
		err = errors.Join(err, Report(ctx, &r.Keeper, rs, &rs.Status, *status))
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("settle replicaset %s/%s: %w", rs.Namespace, rs.Name, err)
	}
	return ctrl.Result{RequeueAfter: again}, nil
}
