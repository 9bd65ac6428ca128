// Package cronjob makes jobs when the clock says so.
//
// In:       CronJobs and the Jobs they own, from the shared cache; the clock.
// Out:      Jobs created, replaced and pruned; what runs, and when it last did.
// Promise:  a due time makes one job at most, whatever the cache shows and wherever we crash: its name is the minute.
// Not here: running the pods (workloads/job).
package cronjob

import (
	"context"
	"errors"
	"fmt"
	"sync"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/workloads/events"
	"knarr.dev/knarr/workloads/podcontrol"
)

var kind = batchv1.SchemeGroupVersion.WithKind("CronJob")

// Reconciler settles CronJobs.
type Reconciler struct {
	client client.Client
	live   client.Reader
	events record.EventRecorder
	clock  clock.PassiveClock
	newest sync.Map // the name of the job last made, by the cron job's UID, until the cache shows it
}

// Register adds the controller to a manager. steady is the time of day.
func Register(mgr manager.Manager, steady clock.PassiveClock) error {
	r := &Reconciler{
		client: mgr.GetClient(), live: mgr.GetAPIReader(), events: events.Recorder(mgr, "cronjob-controller"), clock: steady,
	}
	err := ctrl.NewControllerManagedBy(mgr).
		For(&batchv1.CronJob{}, builder.WithPredicates(predicate.Funcs{UpdateFunc: r.changed, DeleteFunc: func(e event.DeleteEvent) bool {
			r.newest.Delete(e.Object.GetUID())
			return false
		}})).
		Owns(&batchv1.Job{}).
		WithOptions(controller.Options{MaxConcurrentReconciles: 2}).
		Complete(reconcile.AsReconciler(mgr.GetClient(), r))
	if err != nil {
		return fmt.Errorf("register the cron job controller: %w", err)
	}
	return nil
}

// changed leaves a cron job alone whose new schedule cannot be read, until it has another; one that was made so is told of
// it by its passes.
func (r *Reconciler) changed(e event.UpdateEvent) bool {
	was, is := e.ObjectOld.(*batchv1.CronJob), e.ObjectNew.(*batchv1.CronJob)
	if was.Spec.Schedule == is.Spec.Schedule && ptr.Equal(was.Spec.TimeZone, is.Spec.TimeZone) {
		return true
	}
	_, err := scheduleOf(is)
	if err == nil || errors.As(err, &zoneError{}) {
		return true
	}
	r.events.Eventf(is, corev1.EventTypeWarning, "UnParseableCronJobSchedule", "unparseable schedule for cronjob: %s", is.Spec.Schedule)
	return false
}

// Reconcile settles one CronJob.
func (r *Reconciler) Reconcile(ctx context.Context, c *batchv1.CronJob) (ctrl.Result, error) {
	jobs, err := r.owned(ctx, c)
	if err != nil {
		return ctrl.Result{}, err
	}
	p := judge(c, jobs, r.clock.Now())
	for _, n := range p.tell {
		r.events.Event(c, n.kind, n.reason, n.message)
	}
	err = errors.Join(r.delete(ctx, c, p.prune), r.start(ctx, c, &p))
	err = errors.Join(err, podcontrol.Report(ctx, r.client, c, &c.Status, p.status))
	return ctrl.Result{RequeueAfter: p.again}, err
}

// owned lists a cron job's jobs. One that should run, or was made just now, and is not in the cache is looked up: it may be
// news, and so may be the status that should list it.
func (r *Reconciler) owned(ctx context.Context, c *batchv1.CronJob) ([]*batchv1.Job, error) {
	var list batchv1.JobList
	if err := r.client.List(ctx, &list, client.InNamespace(c.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, fmt.Errorf("list jobs in %s: %w", c.Namespace, err)
	}
	var jobs []*batchv1.Job
	known := map[string]bool{}
	for i := range list.Items {
		job := &list.Items[i]
		known[job.Name] = true
		if ref := metav1.GetControllerOfNoCopy(job); ref != nil && ref.UID == c.UID {
			jobs = append(jobs, job)
		}
	}
	for _, name := range r.expected(c) {
		if known[name] {
			r.newest.CompareAndDelete(c.UID, name)
			continue
		}
		known[name] = true
		job := &batchv1.Job{}
		err := r.live.Get(ctx, client.ObjectKey{Namespace: c.Namespace, Name: name}, job)
		switch {
		case err == nil && metav1.IsControlledBy(job, c):
			jobs = append(jobs, job)
		case client.IgnoreNotFound(err) != nil:
			return nil, fmt.Errorf("look at job %s/%s: %w", c.Namespace, name, err)
		}
	}
	return jobs, nil
}

// expected are the names of jobs that there should be.
func (r *Reconciler) expected(c *batchv1.CronJob) []string {
	var names []string
	if made, found := r.newest.Load(c.UID); found {
		names = append(names, made.(string))
	}
	for _, ref := range c.Status.Active {
		names = append(names, ref.Name)
	}
	return names
}

// start makes the job that is due, after those that it replaces are told to go.
func (r *Reconciler) start(ctx context.Context, c *batchv1.CronJob, p *plan) error {
	if p.create == nil {
		return nil
	}
	if err := r.delete(ctx, c, p.stop); err != nil {
		return err
	}
	for _, job := range p.stop {
		p.forget(job)
	}
	job := p.create
	r.newest.Store(c.UID, job.Name) // before the write, whose answer may be lost
	err := r.client.Create(ctx, job)
	switch {
	case err == nil:
		r.events.Eventf(c, corev1.EventTypeNormal, "SuccessfulCreate", "Created job %v", job.Name)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // nothing can be created there, and soon there is nothing to create for
	case apierrors.IsAlreadyExists(err):
		if err := r.live.Get(ctx, client.ObjectKeyFromObject(p.create), job); err != nil {
			return fmt.Errorf("look at job %s/%s: %w", c.Namespace, job.Name, err)
		}
		if ref := metav1.GetControllerOfNoCopy(job); ref == nil || ref.UID != c.UID {
			return fmt.Errorf("create job %s/%s: the name is taken by a job of somebody else; delete that one", c.Namespace, job.Name)
		}
	default:
		r.events.Eventf(c, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
		return fmt.Errorf("create job %s/%s: %w", c.Namespace, job.Name, err)
	}
	p.status.LastScheduleTime = ptr.To(metav1.NewTime(p.due))
	if p.forget(job); ended(job) == "" {
		p.status.Active = append(p.status.Active, reference(job))
	}
	return nil
}

// delete takes jobs away with their pods.
func (r *Reconciler) delete(ctx context.Context, c *batchv1.CronJob, jobs []*batchv1.Job) error {
	var errs []error
	for _, job := range jobs {
		err := r.client.Delete(ctx, job.DeepCopy(), client.PropagationPolicy(metav1.DeletePropagationBackground), client.Preconditions{UID: &job.UID})
		switch {
		case err == nil:
			r.events.Eventf(c, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", job.Name)
		case !apierrors.IsNotFound(err) && !apierrors.IsConflict(err):
			r.events.Eventf(c, corev1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
			errs = append(errs, fmt.Errorf("delete job %s/%s: %w", job.Namespace, job.Name, err))
		}
	}
	return errors.Join(errs...)
}
