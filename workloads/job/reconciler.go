// Package job runs pods until enough of them have succeeded.
//
// In:       Jobs and their pods, from the shared cache.
// Out:      pods created, deleted, adopted and released; the Job's counters and conditions.
// Promise:  every pod that ends is counted once, whatever is deleted and wherever we crash: until it is in the
//
//	status it carries a finalizer.
//
// Not here: when a job is due (workloads/cronjob), when a finished one goes (workloads/ttlafterfinished).
package job

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
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

var (
	kind   = batchv1.SchemeGroupVersion.WithKind("Job")
	owners = podcontrol.Owners[*batchv1.Job]{
		Kind:      kind,
		List:      func() client.ObjectList { return &batchv1.JobList{} },
		Selector:  func(job *batchv1.Job) *metav1.LabelSelector { return job.Spec.Selector },
		Finalizer: batchv1.JobTrackingFinalizer,
	}
)

// Reconciler settles Jobs.
type Reconciler struct {
	client client.Client
	pods   *podcontrol.Control[*batchv1.Job]
	memory *memory
	clock  clock.PassiveClock
}

// Register adds the controller to a manager whose cache has workloads/indexes. steady is the time of day.
func Register(mgr manager.Manager, steady clock.PassiveClock) error {
	r := &Reconciler{
		client: mgr.GetClient(),
		pods:   podcontrol.New(owners, mgr.GetClient(), mgr.GetAPIReader(), events.Recorder(mgr, "job-controller"), clock.RealClock{}),
		memory: &memory{jobs: map[types.UID]*wrote{}},
		clock:  steady,
	}
	err := ctrl.NewControllerManagedBy(mgr).
		For(&batchv1.Job{}, builder.WithPredicates(r.pods.ForgetDeleted(r.memory.forget))).
		Watches(&corev1.Pod{}, r.pods.Follow()).
		WithOptions(controller.Options{MaxConcurrentReconciles: 5}).
		Complete(reconcile.AsReconciler(mgr.GetClient(), r))
	if err != nil {
		return fmt.Errorf("register the job controller: %w", err)
	}
	return registerStrays(mgr, r.pods.Wanting)
}

// Reconcile settles one Job.
func (r *Reconciler) Reconcile(ctx context.Context, of *batchv1.Job) (ctrl.Result, error) {
	job := batchJob{of}
	if !ours(job) || r.memory.behind(job.UID, job.ResourceVersion) {
		return ctrl.Result{}, nil
	}
	if job.finished() {
		r.memory.forget(job.UID)
		return ctrl.Result{}, nil
	}
	if mode := job.Spec.CompletionMode; mode != nil && *mode != batchv1.IndexedCompletion && *mode != batchv1.NonIndexedCompletion {
		tellUnknownMode(r.pods.Events, job)
		return ctrl.Result{}, nil
	}
	current, again, err := r.pods.Current(ctx, job.Job)
	if err != nil {
		return ctrl.Result{}, err
	}
	pods, err := r.pods.Pods(ctx, job.Job)
	if err != nil {
		return ctrl.Result{}, err
	}
	now := r.clock.Now()
	t := count(job, pods, r.memory.hidden(job.UID, pods))
	p := judge(job, t, now)
	active, ending := int32(len(t.active)), t.ending
	var failure error
	if current {
		var created, deleted int32
		created, deleted, failure = r.act(ctx, job, p)
		active, ending = active+created-deleted, ending+deleted
	}
	status := began(job, p, active, min(t.ready, active), ending, now)
	err = r.account(ctx, job, t, p, status, now)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		err = nil // our view was old; the newer object queues its own pass
	}
	return ctrl.Result{RequeueAfter: podcontrol.Sooner(again, p.again)}, errors.Join(failure, err)
}

// ours says whether a job is left to this controller.
func ours(job batchJob) bool {
	return job.Spec.ManagedBy == nil || *job.Spec.ManagedBy == batchv1.JobControllerName
}

// act creates and deletes what the plan says.
func (r *Reconciler) act(ctx context.Context, job batchJob, p plan) (created, deleted int32, err error) {
	if len(p.deletes) > 0 {
		var moved atomic.Int32
		n, err := podcontrol.Together(len(p.deletes), func(i int) error {
			if !p.withdrawn {
				return r.pods.Delete(ctx, job.Job, p.deletes[i])
			}
			gone, err := r.withdraw(ctx, job, p.deletes[i])
			if err == nil && !gone {
				moved.Add(1) // the newer object queues its own pass
			}
			return err
		})
		return 0, int32(n) - moved.Load(), err
	}
	if _, err := podcontrol.Together(len(p.track), func(i int) error { return addFinalizer(ctx, r.client, p.track[i], p.track[i].ResourceVersion) }); err != nil {
		return 0, 0, err
	}
	n, err := podcontrol.SlowStart(len(p.creates), func(i int) error { return r.pods.Create(ctx, job.Job, newPod(job, p.creates[i])) })
	if podcontrol.Pointless(err) {
		err = nil // nothing can be created there, and soon there is nothing to create for
	}
	return int32(n), 0, err
}

// withdraw deletes a pod that is not needed any more, which is no failure of its: so it is not tracked when it goes. gone is
// false for one that was written to meanwhile. It may have succeeded, and is to be counted as if nothing had been.
func (r *Reconciler) withdraw(ctx context.Context, job batchJob, pod *corev1.Pod) (gone bool, err error) {
	version, err := r.untrack(ctx, job, pod, pod.ResourceVersion)
	if apierrors.IsConflict(err) || apierrors.IsInvalid(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = r.pods.DeleteUnchanged(ctx, job.Job, pod, version)
	if !apierrors.IsConflict(err) {
		return err == nil, err
	}
	if err := addFinalizer(ctx, r.client, pod, ""); err != nil {
		return false, err
	}
	r.memory.tracked(job.UID, pod.UID)
	return false, nil
}

// account moves the pods that are over into the counters, and ends the job when it is at its end.
func (r *Reconciler) account(ctx context.Context, job batchJob, t tally, p plan, status batchv1.JobStatus, now time.Time) error {
	free := note(job, t, p, &status)
	tracked := t.tracked
	stored := job.Job
	var failure error
	if len(free) > 0 {
		var err error
		if stored, err = r.store(ctx, stored, status); err != nil {
			return err
		}
		tracked, failure = r.release(ctx, job, t.tracked, free)
	}
	settle(&status, tracked)
	end := conclude(&status, p.finish, tracked, now)
	if _, err := r.store(ctx, stored, status); err != nil {
		return errors.Join(failure, err)
	}
	is := batchJob{&batchv1.Job{Status: status}}
	if end == nil && (is.condition(batchv1.JobSuspended) != nil) != (job.condition(batchv1.JobSuspended) != nil) {
		tellSuspended(r.pods.Events, job, job.suspended())
	}
	if end != nil {
		tellEnd(r.pods.Events, job, &status, end)
	}
	return failure
}

// release takes the finalizers from pods and returns which are tracked then.
func (r *Reconciler) release(ctx context.Context, job batchJob, tracked map[types.UID]bool, free []*corev1.Pod) (map[types.UID]bool, error) {
	released := make([]atomic.Bool, len(free))
	_, err := podcontrol.Together(len(free), func(i int) error {
		_, err := r.untrack(ctx, job, free[i], "")
		released[i].Store(err == nil)
		return err
	})
	left := maps.Clone(tracked)
	for i, pod := range free {
		if released[i].Load() {
			delete(left, pod.UID)
		}
	}
	return left, err
}

// untrack takes our finalizer from a pod, in exactly this version unless that is empty, and returns which version came of it;
// that the pod is gone is no error.
func (r *Reconciler) untrack(ctx context.Context, job batchJob, pod *corev1.Pod, version string) (string, error) {
	if !hasFinalizer(pod) {
		return pod.ResourceVersion, nil
	}
	now, err := removeFinalizer(ctx, r.client, pod, version)
	if err != nil {
		return "", err
	}
	r.memory.untracked(job.UID, pod.UID)
	return now, nil
}

// store writes a status if it differs, and remembers which version came of it.
func (r *Reconciler) store(ctx context.Context, job *batchv1.Job, status batchv1.JobStatus) (*batchv1.Job, error) {
	if apiequality.Semantic.DeepEqual(job.Status, status) {
		return job, nil
	}
	next := job.DeepCopy()
	next.Status = *status.DeepCopy()
	if err := r.client.Status().Update(ctx, next); err != nil {
		return nil, fmt.Errorf("update status of job %s/%s: %w", job.Namespace, job.Name, err)
	}
	r.memory.wroteJob(job.UID, next.ResourceVersion)
	return next, nil
}
