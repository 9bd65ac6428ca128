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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/workloads/events"
	"knarr.dev/knarr/workloads/podcontrol"
	"knarr.dev/knarr/workloads/replicaset"
)

var owners = podcontrol.Owners[*corev1.ReplicationController]{
	Kind: corev1.SchemeGroupVersion.WithKind("ReplicationController"),
	List: func() client.ObjectList { return &corev1.ReplicationControllerList{} },
	Selector: func(rc *corev1.ReplicationController) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: rc.Spec.Selector}
	},
	Gather: replicaset.Gather,
}

// Reconciler settles ReplicationControllers.
type Reconciler struct {
	replicaset.Keeper[*corev1.ReplicationController]
}

// Register adds the controller to a manager whose cache has workloads/indexes. steady is the time of day.
func Register(mgr manager.Manager, steady clock.PassiveClock) error {
	r := newReconciler(mgr.GetClient(), mgr.GetAPIReader(), events.Recorder(mgr, "replication-controller"), steady)
	err := ctrl.NewControllerManagedBy(mgr).
		For(&corev1.ReplicationController{}, builder.WithPredicates(r.Pods.ForgetDeleted(r.Reported.Forget))).
		Watches(&corev1.Pod{}, r.Pods.Follow()).
		WithOptions(controller.Options{MaxConcurrentReconciles: 2}).
		Complete(reconcile.AsReconciler(mgr.GetClient(), r))
	if err != nil {
		return fmt.Errorf("register the replication controller: %w", err)
	}
	return nil
}

func newReconciler(c client.Client, live client.Reader, recorder record.EventRecorder, steady clock.PassiveClock) *Reconciler {
	return &Reconciler{replicaset.Keeper[*corev1.ReplicationController]{Pods: podcontrol.New(owners, c, live, recorder, clock.RealClock{}), Clock: steady}}
}

// Reconcile settles one ReplicationController.
func (r *Reconciler) Reconcile(ctx context.Context, rc *corev1.ReplicationController) (ctrl.Result, error) {
	status, again, err := r.Keep(ctx, rc, asReplicaSet(rc))
	if status != nil {
		err = errors.Join(err, replicaset.Report(ctx, &r.Keeper, rc, &rc.Status, asStatus(*status)))
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("settle replicationcontroller %s/%s: %w", rc.Namespace, rc.Name, err)
	}
	return ctrl.Result{RequeueAfter: again}, nil
}
