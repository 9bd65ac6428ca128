// Package statefulset keeps pods that have names, and claims, of their own.
//
// In:       StatefulSets, pods, ControllerRevisions and PersistentVolumeClaims, from the shared cache.
// Out:      pods and claims created, deleted, adopted and released; revisions; the StatefulSet's status.
// Promise:  an ordinal never has two pods; an ordered set starts none above one that is not well.
// Not here: deleting claims (workloads/garbagecollector, by the owners set here), binding them (storage).
package statefulset

import (
	"context"
	"errors"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
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
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/workloads/controllerrevision"
	"knarr.dev/knarr/workloads/events"
	"knarr.dev/knarr/workloads/podcontrol"
)

var (
	kind   = appsv1.SchemeGroupVersion.WithKind("StatefulSet")
	owners = podcontrol.Owners[*appsv1.StatefulSet]{
		Kind:     kind,
		List:     func() client.ObjectList { return &appsv1.StatefulSetList{} },
		Selector: func(set *appsv1.StatefulSet) *metav1.LabelSelector { return set.Spec.Selector },
		Member: func(set *appsv1.StatefulSet, pod *corev1.Pod) bool {
			_, member := ordinalOf(set, pod.Name)
			return member
		},
	}
)

// hashLabel is what revisions of StatefulSets carry their hash in.
const hashLabel = "controller.kubernetes.io/hash"

// Reconciler settles StatefulSets.
type Reconciler struct {
	client  client.Client
	history controllerrevision.History
	pods    *podcontrol.Control[*appsv1.StatefulSet]
	clock   clock.PassiveClock
}

// Register adds the controller to a manager whose cache has workloads/indexes. steady is the time of day.
func Register(mgr manager.Manager, steady clock.PassiveClock) error {
	r := newReconciler(mgr.GetClient(), mgr.GetAPIReader(), events.Recorder(mgr, "statefulset-controller"), steady)
	err := ctrl.NewControllerManagedBy(mgr).
		For(&appsv1.StatefulSet{}, builder.WithPredicates(r.pods.ForgetDeleted())).
		Owns(&appsv1.ControllerRevision{}).
		Watches(&corev1.Pod{}, r.pods.Follow()).
		Watches(&corev1.Pod{}, followNames()).
		WithOptions(controller.Options{MaxConcurrentReconciles: 5}).
		Complete(reconcile.AsReconciler(mgr.GetClient(), r))
	if err != nil {
		return fmt.Errorf("register the statefulset controller: %w", err)
	}
	return nil
}

func newReconciler(c client.Client, live client.Reader, recorder record.EventRecorder, steady clock.PassiveClock) *Reconciler {
	return &Reconciler{
		client:  c,
		history: controllerrevision.History{Client: c, Live: live, Kind: kind, HashLabel: hashLabel},
		pods:    podcontrol.New(owners, c, live, recorder, clock.RealClock{}),
		clock:   steady,
	}
}

// Reconcile settles one StatefulSet.
func (r *Reconciler) Reconcile(ctx context.Context, set *appsv1.StatefulSet) (ctrl.Result, error) {
	current, again, err := r.pods.Current(ctx, set)
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe statefulset %s/%s: %w", set.Namespace, set.Name, err)
	}
	o, revisions, err := r.observe(ctx, set)
	if apierrors.IsConflict(err) || podcontrol.Pointless(err) {
		return ctrl.Result{}, nil // our view was old, or all of it is going
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe statefulset %s/%s: %w", set.Namespace, set.Name, err)
	}
	plan := judge(o, r.clock.Now())
	again = podcontrol.Sooner(again, plan.Again)
	if current {
		err = r.act(ctx, set, &plan)
		if apierrors.IsConflict(err) {
			err, again = nil, claimPatience // a claim changed meanwhile, which queues no pass
		}
	}
	err = errors.Join(err, podcontrol.Report(ctx, r.client, set, &set.Status, plan.Status), r.history.Prune(ctx, surplus(o, revisions)))
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("settle statefulset %s/%s: %w", set.Namespace, set.Name, err)
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

// observe reads what judge needs; on the way it takes what is the set's and notes its template as a revision.
func (r *Reconciler) observe(ctx context.Context, set *appsv1.StatefulSet) (observed, []*appsv1.ControllerRevision, error) {
	o := observed{set: set, collisions: ptr.Deref(set.Status.CollisionCount, 0)}
	var err error
	if o.pods, err = r.pods.Pods(ctx, set); err != nil {
		return o, nil, err
	}
	revisions, err := r.history.Of(ctx, set, set.Spec.Selector)
	if err != nil {
		return o, nil, err
	}
	if err := r.revise(ctx, &o, revisions); err != nil {
		return o, nil, err
	}
	o.claims, err = r.claims(ctx, set, o.pods)
	return o, revisions, err
}

// revise finds the revision the set is at and the one it goes to.
func (r *Reconciler) revise(ctx context.Context, o *observed, revisions []*appsv1.ControllerRevision) error {
	o.update = revision{name: o.set.Status.UpdateRevision, template: &o.set.Spec.Template}
	if o.set.DeletionTimestamp == nil {
		newest, err := r.history.Newest(ctx, o.set, &o.set.Spec.Template, revisions, &o.collisions)
		if err != nil {
			return err
		}
		o.update.name = newest.Name
	}
	o.current = o.update
	for _, old := range revisions {
		if old.Name != o.set.Status.CurrentRevision || old.Name == o.update.name {
			continue
		}
		template, err := controllerrevision.Template(old)
		if err != nil {
			return err
		}
		o.current = revision{name: old.Name, template: template}
	}
	return nil
}

// claims reads those of the ordinals that are wanted and of those that still have a pod.
func (r *Reconciler) claims(ctx context.Context, set *appsv1.StatefulSet, pods []*corev1.Pod) (claims, error) {
	if len(set.Spec.VolumeClaimTemplates) == 0 {
		return nil, nil
	}
	var names []string
	for i := range replicas(set) {
		names = append(names, claimNames(set, start(set)+i)...)
	}
	for _, pod := range pods {
		if ordinal, member := ordinalOf(set, pod.Name); member && !wanted(set, ordinal) {
			names = append(names, claimNames(set, ordinal)...)
		}
	}
	found := claims{}
	for _, name := range names {
		var claim corev1.PersistentVolumeClaim
		err := r.client.Get(ctx, client.ObjectKey{Namespace: set.Namespace, Name: name}, &claim)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look at claim %s: %w", name, err)
		}
		found[name] = &claim
	}
	return found, nil
}

// surplus is the revisions nobody needs: not the set, not its pods, not the history.
func surplus(o observed, revisions []*appsv1.ControllerRevision) []*appsv1.ControllerRevision {
	if o.set.DeletionTimestamp != nil {
		return nil // the garbage collector decides about the children of what goes
	}
	used := map[string]bool{o.current.name: true, o.update.name: true}
	for _, pod := range o.pods {
		used[revisionOf(pod)] = true
	}
	return controllerrevision.Surplus(revisions, ptr.Deref(o.set.Spec.RevisionHistoryLimit, 10), func(r *appsv1.ControllerRevision) bool { return used[r.Name] })
}
