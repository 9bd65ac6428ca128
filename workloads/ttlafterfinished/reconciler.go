// Package ttlafterfinished deletes jobs some time after they have finished.
//
// In:       Jobs with ttlSecondsAfterFinished, from the shared cache; the clock.
// Out:      those Jobs deleted when their time is up, with their pods.
// Promise:  a job is deleted in the state its time was worked out from, or not at all.
// Not here: the history of cron jobs (workloads/cronjob).
package ttlafterfinished

import (
	"context"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
)

// maxWait bounds how long a pass may be off: timers do not see a clock that is set right after a start.
const maxWait = 5 * time.Minute

// Reconciler deletes finished jobs.
type Reconciler struct {
	client client.Client
	clock  clock.PassiveClock
}

// Register adds the controller to a manager. steady is the time of day.
func Register(mgr manager.Manager, steady clock.PassiveClock) error {
	limited := predicate.NewPredicateFuncs(func(o client.Object) bool {
		job := o.(*batchv1.Job)
		return job.Spec.TTLSecondsAfterFinished != nil && finishedAt(job) != nil
	})
	err := ctrl.NewControllerManagedBy(mgr).
		Named("ttl-after-finished").
		For(&batchv1.Job{}, builder.WithPredicates(limited)).
		Complete(&Reconciler{client: mgr.GetClient(), clock: steady})
	if err != nil {
		return fmt.Errorf("register the controller of finished jobs: %w", err)
	}
	return nil
}

// Reconcile looks at one job.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var job batchv1.Job
	err := r.client.Get(ctx, req.NamespacedName, &job)
	if apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe job %s: %w", req, err)
	}
	left, limited := judge(&job, r.clock.Now())
	if !limited || left > 0 {
		return ctrl.Result{RequeueAfter: min(left, maxWait)}, nil
	}
	// The version is part of the condition: a longer life may have been granted since.
	err = r.client.Delete(ctx, &job, client.PropagationPolicy(metav1.DeletePropagationForeground),
		client.Preconditions{UID: &job.UID, ResourceVersion: &job.ResourceVersion})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return ctrl.Result{}, nil // our view was old; the newer object queues its own pass
	}
	return ctrl.Result{}, fmt.Errorf("delete finished job %s: %w", req, err)
}

// judge says how long a job may still stay, and whether its stay is limited at all.
func judge(job *batchv1.Job, now time.Time) (left time.Duration, limited bool) {
	ttl, finished := job.Spec.TTLSecondsAfterFinished, finishedAt(job)
	if ttl == nil || finished == nil || job.DeletionTimestamp != nil {
		return 0, false
	}
	return max(0, finished.Add(time.Duration(*ttl)*time.Second).Sub(now)), true
}

// finishedAt is when a job became complete or failed.
func finishedAt(job *batchv1.Job) *metav1.Time {
	for i, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue && !c.LastTransitionTime.IsZero() {
			return &job.Status.Conditions[i].LastTransitionTime
		}
	}
	return nil
}
