package nodelifecycle

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"knarr.dev/knarr/workloads/events"
	"knarr.dev/knarr/workloads/indexes"
	"knarr.dev/knarr/workloads/podcontrol"
)

// Evictor settles pods on nodes whose taints drive pods away.
type Evictor struct {
	client client.Client
	events record.EventRecorder
	clock  clock.PassiveClock
	doomed sync.Map // pods that go unless their node's taints do, by name; to tell of those that are spared
}

func registerEviction(mgr manager.Manager, steady clock.PassiveClock) error {
	r := &Evictor{client: mgr.GetClient(), events: events.Recorder(mgr, "taint-eviction-controller"), clock: steady}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("tainteviction").
		Watches(&corev1.Node{}, r.followNodes()).
		Watches(&corev1.Pod{}, r.followPods()).
		WithOptions(controller.Options{MaxConcurrentReconciles: 4}).
		Complete(r)
	if err != nil {
		return fmt.Errorf("register the taint eviction controller: %w", err)
	}
	return nil
}

// Reconcile settles one pod.
func (r *Evictor) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var pod corev1.Pod
	err := r.client.Get(ctx, req.NamespacedName, &pod)
	if apierrors.IsNotFound(err) || (err == nil && pod.Spec.NodeName == "") {
		r.doomed.Delete(req.NamespacedName)
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe pod %s: %w", req, err)
	}
	var node corev1.Node
	err = r.client.Get(ctx, client.ObjectKey{Name: pod.Spec.NodeName}, &node)
	if apierrors.IsNotFound(err) {
		return ctrl.Result{}, nil
	}
	if err != nil {
		return ctrl.Result{}, fmt.Errorf("observe node %s: %w", pod.Spec.NodeName, err)
	}
	evict, again := judgeEviction(&pod, node.Spec.Taints, r.clock.Now())
	if evict {
		r.doomed.Delete(req.NamespacedName)
		return ctrl.Result{}, r.evict(ctx, &pod)
	}
	if again > 0 {
		r.doomed.Store(req.NamespacedName, pod.UID)
	} else if uid, was := r.doomed.LoadAndDelete(req.NamespacedName); was && uid == pod.UID && !over(&pod) {
		tellSpared(r.events, &pod)
	}
	return ctrl.Result{RequeueAfter: again}, nil
}

func (r *Evictor) evict(ctx context.Context, pod *corev1.Pod) error {
	tellDriven(r.events, pod)
	marked := disrupted(pod, "DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint", r.clock.Now())
	err := r.client.Status().Patch(ctx, marked, client.StrategicMergeFrom(pod))
	if err == nil {
		err = r.client.Delete(ctx, marked, client.Preconditions{UID: &pod.UID})
	}
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("evict pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

// judgeEviction says whether taints drive a pod away now; if only later, again is when to look.
func judgeEviction(pod *corev1.Pod, taints []corev1.Taint, now time.Time) (evict bool, again time.Duration) {
	if over(pod) {
		return false, 0
	}
	for i := range taints {
		if taints[i].Effect != corev1.TaintEffectNoExecute {
			continue
		}
		toleration := tolerating(pod.Spec.Tolerations, &taints[i])
		if toleration == nil {
			return true, 0
		}
		if toleration.TolerationSeconds == nil {
			continue // for ever
		}
		since := pod.CreationTimestamp.Time
		if added := taints[i].TimeAdded; added != nil && added.After(since) {
			since = added.Time
		}
		if since.After(now) {
			since = now // another machine's clock must not keep a pod for ever
		}
		left := since.Add(time.Duration(*toleration.TolerationSeconds) * time.Second).Sub(now)
		if left <= 0 {
			return true, 0
		}
		if again == 0 || left < again {
			again = left
		}
	}
	return false, again
}

// over says whether a pod has ended or is about to without us.
func over(pod *corev1.Pod) bool { return pod.DeletionTimestamp != nil || podcontrol.Terminal(pod) }

func tolerating(tolerations []corev1.Toleration, taint *corev1.Taint) *corev1.Toleration {
	for i := range tolerations {
		if tolerations[i].ToleratesTaint(klog.Logger{}, taint, false) {
			return &tolerations[i]
		}
	}
	return nil
}

// disrupted is a copy of a pod with the condition that tells its owner why it goes.
func disrupted(pod *corev1.Pod, reason, message string, now time.Time) *corev1.Pod {
	next := pod.DeepCopy()
	c := corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: message,
		ObservedGeneration: pod.Generation, LastTransitionTime: metav1.NewTime(now),
	}
	if was := podcontrol.Condition(next, corev1.DisruptionTarget); was != nil {
		*was = c
	} else {
		next.Status.Conditions = append(next.Status.Conditions, c)
	}
	return next
}

// followNodes queues the pods of a node whose driving taints change.
func (r *Evictor) followNodes() handler.EventHandler {
	enqueue := func(ctx context.Context, node string, q queue) {
		var pods corev1.PodList
		if err := r.client.List(ctx, &pods, client.MatchingFields{indexes.PodNode: node}, client.UnsafeDisableDeepCopy); err != nil {
			return // the cache is closing
		}
		for i := range pods.Items {
			q.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&pods.Items[i])})
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) {
			if len(driving(e.Object.(*corev1.Node))) > 0 {
				enqueue(ctx, e.Object.GetName(), q)
			}
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			before, after := driving(e.ObjectOld.(*corev1.Node)), driving(e.ObjectNew.(*corev1.Node))
			if !apiequality.Semantic.DeepEqual(before, after) {
				enqueue(ctx, e.ObjectNew.GetName(), q)
			}
		},
	}
}

// followPods queues pods that come to a node with driving taints, or change what they tolerate there.
func (r *Evictor) followPods() handler.EventHandler {
	enqueue := func(ctx context.Context, pod *corev1.Pod, q queue) {
		var node corev1.Node
		err := r.client.Get(ctx, types.NamespacedName{Name: pod.Spec.NodeName}, &node)
		if err == nil && len(driving(&node)) > 0 {
			q.Add(reconcile.Request{NamespacedName: client.ObjectKeyFromObject(pod)})
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) {
			if pod := e.Object.(*corev1.Pod); pod.Spec.NodeName != "" {
				enqueue(ctx, pod, q)
			}
		},
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			before, pod := e.ObjectOld.(*corev1.Pod), e.ObjectNew.(*corev1.Pod)
			if pod.Spec.NodeName != "" && (before.Spec.NodeName == "" || !apiequality.Semantic.DeepEqual(before.Spec.Tolerations, pod.Spec.Tolerations)) {
				enqueue(ctx, pod, q)
			}
		},
	}
}

// driving are the taints of a node that drive pods away.
func driving(node *corev1.Node) []corev1.Taint {
	var taints []corev1.Taint
	for _, taint := range node.Spec.Taints {
		if taint.Effect == corev1.TaintEffectNoExecute {
			taints = append(taints, taint)
		}
	}
	return taints
}
