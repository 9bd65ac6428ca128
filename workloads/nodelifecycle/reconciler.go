// Package nodelifecycle notices nodes that went silent, and moves their pods.
//
// In:       nodes and pods from the shared cache; the leases nodes renew.
// Out:      conditions of silent nodes, taints that mirror conditions, pods marked not ready, pods evicted by taints.
// Promise:  silence is measured by our own clock, from what we saw ourselves: wrong clocks evict nobody.
// Not here: what a node says about itself (workloads/agent), pods of deleted nodes (workloads/podgc).
package nodelifecycle

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/component-helpers/node/topology"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"knarr.dev/knarr/workloads/events"
	"knarr.dev/knarr/workloads/indexes"
	"knarr.dev/knarr/workloads/podcontrol"
)

type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]

// Reconciler settles nodes.
type Reconciler struct {
	client client.Client
	events record.EventRecorder
	clock  clock.PassiveClock   // for what passes between two looks
	steady clock.PassiveClock   // for what is written
	driven map[string]time.Time // by zone, when pods were last driven from one of its nodes

	mu    sync.Mutex
	heard map[string]sign // by node
}

// sign is the last sign of life of a node: what it said, and when we noticed it was new.
type sign struct {
	heartbeat metav1.Time
	at        time.Time
}

// Register adds the controllers to a manager whose cache has workloads/indexes. steady is the time of day.
func Register(mgr manager.Manager, steady clock.PassiveClock) error {
	// A cache of its own: the shared one would hold every lease of the cluster.
	leases, err := cache.New(mgr.GetConfig(), cache.Options{
		HTTPClient:        mgr.GetHTTPClient(),
		Scheme:            mgr.GetScheme(),
		Mapper:            mgr.GetRESTMapper(),
		DefaultNamespaces: map[string]cache.Config{corev1.NamespaceNodeLease: {}},
	})
	if err != nil {
		return fmt.Errorf("make the cache of node leases: %w", err)
	}
	if err := mgr.Add(leases); err != nil {
		return fmt.Errorf("add the cache of node leases: %w", err)
	}
	r := New(mgr.GetClient(), events.Recorder(mgr, "node-controller"), clock.RealClock{}, steady)
	err = ctrl.NewControllerManagedBy(mgr).
		Named("nodelifecycle").
		For(&corev1.Node{}).
		Watches(&corev1.Node{}, r.followHealth()).
		WatchesRawSource(source.Kind[client.Object](leases, &coordinationv1.Lease{}, r.listen())).
		Complete(r)
	if err != nil {
		return fmt.Errorf("register the node lifecycle controller: %w", err)
	}
	return registerEviction(mgr, steady)
}

// New returns a Reconciler that has heard of no node yet.
func New(c client.Client, recorder record.EventRecorder, passive, steady clock.PassiveClock) *Reconciler {
	return &Reconciler{client: c, events: recorder, clock: passive, steady: steady, driven: map[string]time.Time{}, heard: map[string]sign{}}
}

// Reconcile settles one node: first its conditions, then, on the pass that brings, its taints.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var node corev1.Node
	err := r.client.Get(ctx, req.NamespacedName, &node)
	if apierrors.IsNotFound(err) {
		r.forget(req.Name)
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe node %s: %w", req.Name, err)
	}
	conditions, again := judgeConditions(&node, r.silence(&node), r.steady.Now())
	if conditions != nil {
		next := node.DeepCopy()
		next.Status.Conditions = conditions
		err := r.client.Status().Patch(ctx, next, client.MergeFromWithOptions(&node, client.MergeFromWithOptimisticLock{}))
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return ctrl.Result{RequeueAfter: again}, nil // it spoke, or it is gone
		}
		if err != nil {
			return ctrl.Result{}, fmt.Errorf("mark node %s unknown: %w", req.Name, err)
		}
		return ctrl.Result{}, nil
	}
	more, err := r.taint(ctx, &node)
	if err != nil {
		return ctrl.Result{}, err
	}
	if !healthy(&node) {
		err = r.markPods(ctx, &node)
	}
	return ctrl.Result{RequeueAfter: sooner(again, more)}, err
}

// taint brings a node's taints in line with its conditions; again is when more may be allowed.
func (r *Reconciler) taint(ctx context.Context, node *corev1.Node) (again time.Duration, err error) {
	evict, lost, now, zone := false, !healthy(node), r.clock.Now(), topology.GetZoneKey(node)
	if lost {
		var all corev1.NodeList
		if err := r.client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
			return 0, fmt.Errorf("list nodes: %w", err)
		}
		evict, again = judgeDrive(node, survey(all.Items), now.Sub(r.driven[zone]))
	}
	taints := judgeTaints(node, evict, r.steady.Now())
	if taints == nil {
		return again, nil
	}
	next := node.DeepCopy()
	next.Spec.Taints = taints
	err = r.client.Patch(ctx, next, client.MergeFromWithOptions(node, client.MergeFromWithOptimisticLock{}))
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return again, nil // the newer object queues its own pass
	}
	if err != nil {
		return 0, fmt.Errorf("taint node %s: %w", node.Name, err)
	}
	if lost && drives(next) && !drives(node) {
		r.driven[zone] = now
	}
	return again, nil
}

// markPods takes the pods of an unready node out of service. One that its node called ready after the node
// itself stopped being ready knows better.
func (r *Reconciler) markPods(ctx context.Context, node *corev1.Node) error {
	var pods corev1.PodList
	if err := r.client.List(ctx, &pods, client.MatchingFields{indexes.PodNode: node.Name}, client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list pods of node %s: %w", node.Name, err)
	}
	lost := since(node, corev1.NodeReady)
	var errs []error
	for i := range pods.Items {
		pod := &pods.Items[i]
		ready := podcontrol.Condition(pod, corev1.PodReady)
		if ready == nil || ready.Status != corev1.ConditionTrue || ready.LastTransitionTime.After(lost) {
			continue
		}
		next := pod.DeepCopy()
		ready = podcontrol.Condition(next, corev1.PodReady)
		ready.Status, ready.LastTransitionTime = corev1.ConditionFalse, metav1.NewTime(r.steady.Now())
		err := r.client.Status().Patch(ctx, next, client.StrategicMergeFrom(pod))
		if client.IgnoreNotFound(err) != nil {
			errs = append(errs, fmt.Errorf("mark pod %s/%s not ready: %w", pod.Namespace, pod.Name, err))
			continue
		}
		tellLost(r.events, pod)
	}
	return errors.Join(errs...)
}

// followHealth queues every node when one turns healthy or stops being so, or goes: whether pods are driven from any
// node depends on how many are healthy in its zone, and whether there is one at all. It is also what tells of all that.
func (r *Reconciler) followHealth() handler.EventHandler {
	everyone := func(ctx context.Context, q queue) {
		var all corev1.NodeList
		if err := r.client.List(ctx, &all, client.UnsafeDisableDeepCopy); err != nil {
			return // the cache is closing
		}
		for i := range all.Items {
			q.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&all.Items[i])})
		}
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, _ queue) {
			tellRegistered(r.events, e.Object.(*corev1.Node))
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			before, node := e.ObjectOld.(*corev1.Node), e.ObjectNew.(*corev1.Node)
			if healthy(before) == healthy(node) {
				return
			}
			if healthy(before) {
				tellNotReady(r.events, node)
			}
			everyone(ctx, q)
		},
		DeleteFunc: func(ctx context.Context, e event.DeleteEvent, q queue) {
			tellRemoved(r.events, e.Object.(*corev1.Node))
			everyone(ctx, q)
		},
	}
}

// listen notes the renewal of leases. It queues nothing: a node that renews needs no pass.
func (r *Reconciler) listen() handler.EventHandler {
	note := func(lease client.Object) {
		r.mu.Lock()
		defer r.mu.Unlock()
		s := r.heard[lease.GetName()]
		s.at = r.clock.Now()
		r.heard[lease.GetName()] = s
	}
	return handler.Funcs{
		CreateFunc: func(_ context.Context, e event.CreateEvent, _ queue) { note(e.Object) },
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, _ queue) {
			if e.ObjectOld.GetResourceVersion() != e.ObjectNew.GetResourceVersion() {
				note(e.ObjectNew)
			}
		},
	}
}

// silence is the time since a node's last sign of life, which may be the status before us.
func (r *Reconciler) silence(node *corev1.Node) time.Duration {
	now := r.clock.Now()
	var heartbeat metav1.Time
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			heartbeat = c.LastHeartbeatTime
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s, known := r.heard[node.Name]
	if !known || !s.heartbeat.Equal(&heartbeat) {
		s = sign{heartbeat: heartbeat, at: now}
		r.heard[node.Name] = s
	}
	return now.Sub(s.at)
}

// sooner of two waits, of which 0 is none.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return a + b
	}
	return min(a, b)
}

func (r *Reconciler) forget(node string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.heard, node)
}
