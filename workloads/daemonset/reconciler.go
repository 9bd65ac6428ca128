// Package daemonset runs one pod of a DaemonSet on every node that should have one.
//
// In:       DaemonSets, pods, nodes and ControllerRevisions, from the shared cache.
// Out:      pods created for a node each, deleted, adopted and released; revisions; the DaemonSet's status.
// Promise:  a stale cache never makes it create or delete twice; an update keeps within maxUnavailable or maxSurge.
// Not here: placing the pods (workloads/scheduler, which reads the node from their affinity).
package daemonset

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
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
	kind   = appsv1.SchemeGroupVersion.WithKind("DaemonSet")
	owners = podcontrol.Owners[*appsv1.DaemonSet]{
		Kind:     kind,
		List:     func() client.ObjectList { return &appsv1.DaemonSetList{} },
		Selector: func(ds *appsv1.DaemonSet) *metav1.LabelSelector { return ds.Spec.Selector },
	}
)

// generationLabel tells the version of the template to clients that still read it from pods.
const generationLabel = "pod-template-generation"

// A failed pod is replaced at once, the next on that node a second later, and so on up to a quarter of an hour.
const (
	firstBackoff = time.Second
	mostBackoff  = 15 * time.Minute
)

// Reconciler settles DaemonSets.
type Reconciler struct {
	client  client.Client
	history controllerrevision.History
	pods    *podcontrol.Control[*appsv1.DaemonSet]
	backoff *flowcontrol.Backoff
	clock   clock.PassiveClock // for what passes between two failures
	steady  clock.PassiveClock // for what the API has as a time
}

// Register adds the controller to a manager whose cache has workloads/indexes. steady is the time of day.
func Register(mgr manager.Manager, steady clock.PassiveClock) error {
	r := newReconciler(mgr.GetClient(), mgr.GetAPIReader(), events.Recorder(mgr, "daemonset-controller"), clock.RealClock{}, steady)
	err := ctrl.NewControllerManagedBy(mgr).
		For(&appsv1.DaemonSet{}, builder.WithPredicates(r.pods.ForgetDeleted())).
		Owns(&appsv1.ControllerRevision{}).
		Watches(&corev1.Pod{}, r.pods.Follow()).
		Watches(&corev1.Node{}, r.followNodes()).
		WithOptions(controller.Options{MaxConcurrentReconciles: 2}).
		Complete(reconcile.AsReconciler(mgr.GetClient(), r))
	if err != nil {
		return fmt.Errorf("register the daemonset controller: %w", err)
	}
	return nil
}

func newReconciler(c client.Client, live client.Reader, recorder record.EventRecorder, clock clock.WithTicker, steady clock.PassiveClock) *Reconciler {
	return &Reconciler{
		client:  c,
		history: controllerrevision.History{Client: c, Live: live, Kind: kind, HashLabel: appsv1.DefaultDaemonSetUniqueLabelKey},
		pods:    podcontrol.New(owners, c, live, recorder, clock),
		backoff: flowcontrol.NewFakeBackOff(firstBackoff, mostBackoff, clock), // so called because it takes a clock
		clock:   clock,
		steady:  steady,
	}
}

// Reconcile settles one DaemonSet.
func (r *Reconciler) Reconcile(ctx context.Context, ds *appsv1.DaemonSet) (ctrl.Result, error) {
	current, again, err := r.pods.Current(ctx, ds)
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe daemonset %s/%s: %w", ds.Namespace, ds.Name, err)
	}
	o, revisions, err := r.observe(ctx, ds)
	if apierrors.IsConflict(err) || podcontrol.Pointless(err) {
		return ctrl.Result{}, nil // our view was old, or all of it is going
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe daemonset %s/%s: %w", ds.Namespace, ds.Name, err)
	}
	plan := judge(o, r.steady.Now())
	if current {
		err = r.act(ctx, o, &plan)
	}
	err = errors.Join(err, podcontrol.Report(ctx, r.client, ds, &ds.Status, plan.Status), r.history.Prune(ctx, surplus(o, revisions)))
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("settle daemonset %s/%s: %w", ds.Namespace, ds.Name, err)
	}
	return ctrl.Result{RequeueAfter: podcontrol.Sooner(again, plan.Again)}, nil
}

// observe reads what judge needs; on the way it takes what is the DaemonSet's and notes its template as a revision.
func (r *Reconciler) observe(ctx context.Context, ds *appsv1.DaemonSet) (observed, []*appsv1.ControllerRevision, error) {
	o := observed{ds: ds, collisions: ptr.Deref(ds.Status.CollisionCount, 0)}
	var err error
	if o.pods, err = r.pods.Pods(ctx, ds); err != nil {
		return o, nil, err
	}
	var nodes corev1.NodeList
	if err := r.client.List(ctx, &nodes, client.UnsafeDisableDeepCopy); err != nil {
		return o, nil, fmt.Errorf("list nodes: %w", err)
	}
	for i := range nodes.Items {
		o.nodes = append(o.nodes, &nodes.Items[i])
	}
	revisions, err := r.history.Of(ctx, ds, ds.Spec.Selector)
	if err != nil {
		return o, nil, err
	}
	if ds.DeletionTimestamp == nil {
		newest, err := r.history.Newest(ctx, ds, &ds.Spec.Template, revisions, &o.collisions)
		if err != nil {
			return o, nil, err
		}
		o.hash = cmp.Or(newest.Labels[appsv1.DefaultDaemonSetUniqueLabelKey], newest.Name)
	}
	o.held = r.held(ds, o.pods)
	return o, revisions, nil
}

// held are the nodes whose failed pod has to wait before it is replaced.
func (r *Reconciler) held(ds *appsv1.DaemonSet, pods []*corev1.Pod) map[string]time.Duration {
	held := map[string]time.Duration{}
	for _, pod := range pods {
		node := nodeOf(pod)
		if key := backoffKey(ds, node); pod.Status.Phase == corev1.PodFailed && r.backoff.IsInBackOffSinceUpdate(key, r.clock.Now()) {
			held[node] = r.backoff.Get(key)
		}
	}
	return held
}

// backoffKey names a node's failures; a new spec starts anew.
func backoffKey(ds *appsv1.DaemonSet, node string) string {
	return fmt.Sprintf("%s/%d/%s", ds.UID, ds.Generation, node)
}

// act carries a plan out.
func (r *Reconciler) act(ctx context.Context, o observed, plan *Plan) error {
	_, failure := podcontrol.Together(len(plan.Deaths), func(i int) error {
		death := plan.Deaths[i]
		if death.Why == Ended {
			r.tellEnded(o.ds, death)
			r.backoff.Next(backoffKey(o.ds, death.Node), r.clock.Now())
		}
		return r.pods.Delete(ctx, o.ds, death.Pod)
	})
	r.backoff.GC()
	_, err := podcontrol.SlowStart(len(plan.Create), func(i int) error {
		return r.pods.Create(ctx, o.ds, newPod(o.ds, plan.Create[i], o.hash))
	})
	if podcontrol.Pointless(err) {
		err = nil // nothing can be created there, and soon there is nothing to create for
	}
	return errors.Join(failure, err)
}

// tellEnded says why a pod nobody deleted is.
func (r *Reconciler) tellEnded(ds *appsv1.DaemonSet, death Death) {
	pod := death.Pod
	if pod.Status.Phase == corev1.PodSucceeded {
		r.pods.Events.Eventf(ds, corev1.EventTypeNormal, "SucceededDaemonPod", "Found succeeded daemon pod %s/%s on node %s, will try to delete it", pod.Namespace, pod.Name, death.Node)
		return
	}
	r.pods.Events.Eventf(ds, corev1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it", pod.Namespace, pod.Name, death.Node)
}

// surplus is the revisions nobody needs: not the DaemonSet, not its pods, not the history.
func surplus(o observed, revisions []*appsv1.ControllerRevision) []*appsv1.ControllerRevision {
	if o.ds.DeletionTimestamp != nil {
		return nil // the garbage collector decides about the children of what goes
	}
	used := map[string]bool{o.hash: true}
	for _, pod := range o.pods {
		used[pod.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]] = true
	}
	return controllerrevision.Surplus(revisions, ptr.Deref(o.ds.Spec.RevisionHistoryLimit, 10), func(r *appsv1.ControllerRevision) bool {
		return used[cmp.Or(r.Labels[appsv1.DefaultDaemonSetUniqueLabelKey], r.Name)]
	})
}
