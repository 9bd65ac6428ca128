// Package deployment rolls ReplicaSets from one pod template to the next.
//
// In:       Deployments, their ReplicaSets and, for Recreate, the pods of the old ones; all from the shared cache.
// Out:      ReplicaSets created, scaled, annotated and pruned; the Deployment's revision and status.
// Promise:  a rolling update never has more than maxSurge pods too many nor more than maxUnavailable too few.
// Not here: pods (workloads/replicaset).
package deployment

import (
	"context"
	"errors"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/workloads/events"
	"knarr.dev/knarr/workloads/expectations"
	"knarr.dev/knarr/workloads/indexes"
	"knarr.dev/knarr/workloads/podcontrol"
)

var kind = appsv1.SchemeGroupVersion.WithKind("Deployment")

// Reconciler settles Deployments.
type Reconciler struct {
	client  client.Client
	live    client.Reader
	claims  podcontrol.Claimer
	written expectations.Versions // of ReplicaSets
	noted   expectations.Written  // of Deployments
	events  record.EventRecorder
	clock   clock.PassiveClock
}

// Register adds the controller to a manager whose cache has workloads/indexes. steady is the time of day.
func Register(mgr manager.Manager, steady clock.PassiveClock) error {
	r := &Reconciler{
		client: mgr.GetClient(),
		live:   mgr.GetAPIReader(),
		claims: podcontrol.Claimer{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Kind: kind},
		events: events.Recorder(mgr, "deployment-controller"),
		clock:  steady,
	}
	err := ctrl.NewControllerManagedBy(mgr).
		For(&appsv1.Deployment{}, builder.WithPredicates(predicate.Funcs{DeleteFunc: func(e event.DeleteEvent) bool {
			r.written.Forget(e.Object.GetUID())
			r.noted.Forget(e.Object.GetUID())
			return false
		}})).
		Owns(&appsv1.ReplicaSet{}).
		Watches(&appsv1.ReplicaSet{}, handler.EnqueueRequestsFromMapFunc(r.wanting)).
		Watches(&corev1.Pod{}, r.followDeletedPods()).
		WithOptions(controller.Options{MaxConcurrentReconciles: 10}).
		Complete(reconcile.AsReconciler(mgr.GetClient(), r))
	if err != nil {
		return fmt.Errorf("register the deployment controller: %w", err)
	}
	return nil
}

// Reconcile settles one Deployment. Everything is decided from one look; whatever that look was too old for fails
// as a conflict and is decided anew.
func (r *Reconciler) Reconcile(ctx context.Context, d *appsv1.Deployment) (ctrl.Result, error) {
	if r.noted.Behind(d) {
		return ctrl.Result{}, nil // what was written of it queues a pass when the cache shows it
	}
	sets, err := r.claimed(ctx, d)
	if err != nil {
		return ctrl.Result{}, err
	}
	if behind, err := r.behind(ctx, d, sets); err != nil || behind {
		return ctrl.Result{}, err // the newer ReplicaSet queues its own pass
	}
	oldPods, err := r.oldPodsRun(ctx, d, sets)
	if err != nil {
		return ctrl.Result{}, err
	}
	plan := judge(d, sets, oldPods, r.clock.Now())
	err = r.act(ctx, d, &plan)
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil // our view was old; the newer object queues its own pass
	}
	return ctrl.Result{RequeueAfter: plan.Again}, err
}

// act carries a plan out. The status comes last: it describes what was seen before any of this.
func (r *Reconciler) act(ctx context.Context, d *appsv1.Deployment, plan *Plan) error {
	if plan.Create != nil {
		if err := r.create(ctx, d, plan); err != nil {
			return err
		}
	}
	for _, change := range plan.Updates {
		err := r.client.Update(ctx, change.Set)
		r.remember(d, change.Set, err)
		if err != nil {
			return fmt.Errorf("update replicaset %s/%s: %w", d.Namespace, change.Set.Name, err)
		}
		tellScaled(r.events, d, change.Set.Name, change.From, *change.Set.Spec.Replicas)
	}
	var errs []error
	for _, rs := range plan.Deletes {
		err := r.client.Delete(ctx, rs.DeepCopy(), client.Preconditions{UID: &rs.UID, ResourceVersion: &rs.ResourceVersion})
		if client.IgnoreNotFound(err) != nil {
			errs = append(errs, fmt.Errorf("prune replicaset %s/%s: %w", rs.Namespace, rs.Name, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	next := d.DeepCopy()
	if plan.Revision != "" && d.Annotations[revisionAnnotation] != plan.Revision {
		patch := client.MergeFromWithOptions(d, client.MergeFromWithOptimisticLock{})
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, revisionAnnotation, plan.Revision)
		if err := r.client.Patch(ctx, next, patch); err != nil {
			return fmt.Errorf("note revision %s on deployment %s/%s: %w", plan.Revision, d.Namespace, d.Name, err)
		}
		r.noted.Note(next)
	}
	if apiequality.Semantic.DeepEqual(d.Status, plan.Status) {
		return nil
	}
	return r.note(ctx, next, plan.Status)
}

// create sends the new ReplicaSet. Its name is derived from the template, so a second attempt finds the first; if
// the name is taken by another template, the collision count makes the next name a different one.
func (r *Reconciler) create(ctx context.Context, d *appsv1.Deployment, plan *Plan) error {
	rs := plan.Create
	replicas := *rs.Spec.Replicas
	err := r.client.Create(ctx, rs)
	r.remember(d, rs, err)
	switch {
	case err == nil:
		tellScaled(r.events, d, rs.Name, 0, replicas)
		return nil
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case !apierrors.IsAlreadyExists(err):
		failed := fmt.Errorf("create replicaset %s/%s: %w", d.Namespace, rs.Name, err)
		why := tellNotCreated(r.events, d, rs.Name, err)
		if !hasDeadline(d) {
			return failed
		}
		plan.Status.Conditions = withCondition(d.Status.Conditions, progressing(corev1.ConditionFalse, reasonNotCreated, why, r.clock.Now()))
		return errors.Join(failed, r.note(ctx, d, plan.Status))
	}
	var there appsv1.ReplicaSet
	if err := r.live.Get(ctx, client.ObjectKey{Namespace: d.Namespace, Name: plan.Create.Name}, &there); err != nil {
		return fmt.Errorf("look at replicaset %s/%s: %w", d.Namespace, plan.Create.Name, err)
	}
	if owner := metav1.GetControllerOfNoCopy(&there); owner != nil && owner.UID == d.UID && sameTemplate(&there.Spec.Template, &d.Spec.Template) {
		return nil // ours, from a pass whose result the cache does not show yet
	}
	plan.Status.CollisionCount = ptr.To(ptr.Deref(d.Status.CollisionCount, 0) + 1)
	if err := r.note(ctx, d, plan.Status); err != nil {
		return err
	}
	return fmt.Errorf("create replicaset %s/%s: the name is taken by another template; the next attempt uses another", d.Namespace, plan.Create.Name)
}

func (r *Reconciler) note(ctx context.Context, d *appsv1.Deployment, status appsv1.DeploymentStatus) error {
	next := d.DeepCopy()
	next.Status = status
	if err := r.client.Status().Update(ctx, next); err != nil {
		return fmt.Errorf("update status of deployment %s/%s: %w", d.Namespace, d.Name, err)
	}
	r.noted.Note(next)
	return nil
}

// claimed lists the ReplicaSets that belong to d, adopting and releasing on the way.
func (r *Reconciler) claimed(ctx context.Context, d *appsv1.Deployment) ([]*appsv1.ReplicaSet, error) {
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil {
		return nil, reconcile.TerminalError(fmt.Errorf("read the selector of deployment %s/%s: %w", d.Namespace, d.Name, err))
	}
	var sets []*appsv1.ReplicaSet
	for _, controller := range []types.UID{d.UID, ""} { // nobody's may become ours; others' are none of our business
		var list appsv1.ReplicaSetList
		err := r.client.List(ctx, &list, client.InNamespace(d.Namespace), client.MatchingFields{indexes.ReplicaSetController: string(controller)}, client.UnsafeDisableDeepCopy)
		if err != nil {
			return nil, fmt.Errorf("list replicasets in %s: %w", d.Namespace, err)
		}
		for i := range list.Items {
			sets = append(sets, &list.Items[i])
		}
	}
	return podcontrol.Take(ctx, &r.claims, d, selector, sets)
}

// remember notes what a write of a ReplicaSet has led to.
func (r *Reconciler) remember(d *appsv1.Deployment, rs *appsv1.ReplicaSet, err error) {
	switch {
	case err == nil:
		r.written.Wrote(d.UID, rs.Name, rs.ResourceVersion)
	case podcontrol.Unanswered(err):
		r.written.Doubt(d.UID, rs.Name)
	}
}

// behind says whether the cache does not yet show what was last written of d's ReplicaSets. The size of one is decided
// from the sizes of all: seen too late, they would together be more than d allows.
func (r *Reconciler) behind(ctx context.Context, d *appsv1.Deployment, sets []*appsv1.ReplicaSet) (bool, error) {
	shown := map[string]string{}
	for _, rs := range sets {
		shown[rs.Name] = rs.ResourceVersion
	}
	_, ask := r.written.Behind(d.UID, shown)
	for _, name := range ask {
		var rs appsv1.ReplicaSet
		err := r.live.Get(ctx, client.ObjectKey{Namespace: d.Namespace, Name: name}, &rs)
		switch {
		case client.IgnoreNotFound(err) != nil:
			return false, fmt.Errorf("look at replicaset %s/%s: %w", d.Namespace, name, err)
		case err != nil || !metav1.IsControlledBy(&rs, d):
			r.written.Dropped(d.UID, name)
		default:
			r.written.Wrote(d.UID, name, rs.ResourceVersion)
		}
	}
	behind, missing := r.written.Behind(d.UID, shown)
	return behind || len(missing) > 0, nil
}

// oldPodsRun says whether pods of templates other than d's still run or may be about to, which holds up Recreate only.
func (r *Reconciler) oldPodsRun(ctx context.Context, d *appsv1.Deployment, sets []*appsv1.ReplicaSet) (bool, error) {
	if d.Spec.Strategy.Type != appsv1.RecreateDeploymentStrategyType {
		return false, nil
	}
	current := findNew(d, sets)
	for _, rs := range sets {
		if rs == current {
			continue
		}
		if rs.Status.ObservedGeneration < rs.Generation {
			return true, nil // whoever fills it has not heard yet that it is to be empty
		}
		pods, err := podcontrol.Owned(ctx, r.client, rs)
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(pods, func(pod *corev1.Pod) bool { return !podcontrol.Terminal(pod) }) {
			return true, nil
		}
	}
	return false, nil
}

// wanting lists the Deployments whose selector matches a ReplicaSet nobody owns.
func (r *Reconciler) wanting(ctx context.Context, rs client.Object) []reconcile.Request {
	if metav1.GetControllerOfNoCopy(rs) != nil {
		return nil
	}
	return podcontrol.Wanting(ctx, r.client, &appsv1.DeploymentList{}, rs, func(d *appsv1.Deployment) *metav1.LabelSelector { return d.Spec.Selector })
}

// ownerOf is the Deployment behind a pod's ReplicaSet.
func (r *Reconciler) ownerOf(ctx context.Context, pod *corev1.Pod) (types.NamespacedName, bool) {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return types.NamespacedName{}, false
	}
	var rs appsv1.ReplicaSet
	if err := r.client.Get(ctx, types.NamespacedName{Namespace: pod.Namespace, Name: ref.Name}, &rs); err != nil || rs.UID != ref.UID {
		return types.NamespacedName{}, false
	}
	owner := metav1.GetControllerOfNoCopy(&rs)
	if owner == nil || owner.Kind != kind.Kind {
		return types.NamespacedName{}, false
	}
	return types.NamespacedName{Namespace: pod.Namespace, Name: owner.Name}, true
}
